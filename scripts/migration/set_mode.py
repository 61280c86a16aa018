"""Send tasks by Redis, by the database, or by both (hybrid), from now on; waiting ones follow by the sweeper.
Without MODE it says how things are. A start of the system leaves the choice alone, unless its settings have
changed."""

from __future__ import annotations

from typing import Any

import click

from app.system import System
from app.tasks.model import PRIORITIES, Priority
from app.transfer.errors import NotPossible
from app.transfer.plans import routing_of
from scripts.migration.commands import GOOD, guarded, json_option, running_system, say

PERCENTS = {"database": 0, "redis": 100}


@click.command(help=__doc__)
@click.argument("mode", required=False, type=click.Choice(["database", "hybrid", "redis"]))
@click.option("--percent", type=click.IntRange(0, 100), help="Share of the Redis track in hybrid mode.")
@click.option("--priority", "priorities", multiple=True, type=click.Choice([p.value for p in PRIORITIES]))
@json_option
def main(mode: str | None, percent: int | None, priorities: tuple[str, ...], as_json: bool) -> None:
    with running_system() as system:
        guarded(lambda: set_mode(system, mode, percent, priorities, as_json=as_json))


def set_mode(
    system: System, mode: str | None, percent: int | None, priorities: tuple[str, ...], *, as_json: bool
) -> int:
    wanted = [Priority(word) for word in priorities] or list(PRIORITIES)
    rules = routing_of(system.store, PRIORITIES)
    if mode is not None:
        share = _share(system, mode, percent)
        rules = system.queue.route(redis_percent=share, priorities=wanted, forget_names=not priorities)
    value: dict[str, Any] = {
        route.priority.value: {
            "redis_percent": route.redis_percent,
            "name_percents": dict(route.name_percents),
            "paused": route.paused,
            "fallback": route.fallback,
            "transfer": route.transfer_id,
        }
        for route in (rules[priority] for priority in PRIORITIES)
    }
    lines = [
        f"{name:7} {route['redis_percent']:3} % by Redis"
        + "".join(f", {task} {share} %" for task, share in route["name_percents"].items())
        + (", fallen back to the database" if route["fallback"] else "")
        for name, route in value.items()
    ]
    say(value, "\n".join(lines), as_json=as_json)
    return GOOD


def _share(system: System, mode: str, percent: int | None) -> int:
    share = PERCENTS.get(mode, system.config.RQ_ROLLOUT_PERCENT if percent is None else percent)
    if percent not in (None, share):
        raise NotPossible(f"--percent is for hybrid mode; {mode} means {share}")
    if share and system.tickets is None:
        raise NotPossible("this system runs without Redis: set RQ_ENABLED and start it again")
    return share


if __name__ == "__main__":
    main()
