"""Submit a few tasks of every priority and follow them to their end, to see that both tracks work. Exit 0:
all completed. 1: some did not, in time or well; they are named with where they are."""

from __future__ import annotations

from typing import Any

import click

from app.system import System
from app.transfer import trials
from scripts.migration.commands import GOOD, PROBLEM, guarded, json_option, running_system, say


@click.command(help=__doc__)
@click.option("--count", type=click.IntRange(1, 1000), default=10, show_default=True, help="Per priority.")
@click.option("--limit", "limit_seconds", type=click.FloatRange(min=0), default=60.0, show_default=True)
@json_option
def main(count: int, limit_seconds: float, as_json: bool) -> None:
    with running_system() as system:
        guarded(lambda: follow(system, count, limit_seconds, as_json=as_json))


def follow(system: System, count: int, limit_seconds: float, *, as_json: bool) -> int:
    done = trials.follow(system, count, limit_seconds=limit_seconds)
    value: dict[str, Any] = {
        "submitted": done.first_statuses,
        "refused": done.refused[:10],
        "completed": done.completed,
        "not_completed": {str(task_id): status.value for task_id, status in done.not_completed.items()},
    }
    lines = [f"{status} at first: {number}" for status, number in sorted(done.first_statuses.items())]
    lines.append(f"completed: {done.completed} of {done.accepted}, refused: {len(done.refused)}")
    lines += [f"  {task_id} is {status.value}" for task_id, status in list(done.not_completed.items())[:20]]
    say(value, "\n".join(lines), as_json=as_json)
    return GOOD if done.good else PROBLEM


if __name__ == "__main__":
    main()
