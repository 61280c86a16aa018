"""Wait until no task runs any more. Exit 0: none does. 1: the time is over; those that still run are named,
with their worker and since when."""

from __future__ import annotations

import time

import click

from app.system import System
from app.tasks.model import PRIORITIES, Priority, Status
from app.tasks.store.queries import Filter
from app.transfer import runs
from app.transfer.progress import Progress
from scripts.migration.commands import GOOD, PROBLEM, guarded, json_option, running_system, say

NAMED = 20


@click.command(help=__doc__)
@click.option("--limit", "limit_seconds", type=click.FloatRange(min=0), default=600.0, show_default=True)
@click.option("--priority", "priorities", multiple=True, type=click.Choice([p.value for p in PRIORITIES]))
@json_option
def main(limit_seconds: float, priorities: tuple[str, ...], as_json: bool) -> None:
    wanted = [Priority(word) for word in priorities] or list(PRIORITIES)
    with running_system() as system:
        guarded(lambda: wait(system, limit_seconds, wanted, as_json=as_json))


def wait(system: System, limit_seconds: float, priorities: list[Priority], *, as_json: bool) -> int:
    progress = Progress("running tasks:")
    began = time.monotonic()
    left = runs.drain(
        system.queue,
        priorities,
        limit_seconds=limit_seconds,
        statuses=(Status.PROCESSING,),
        waiting=lambda left: progress.step(left - progress.done),
    )
    progress.end()
    stuck = _named(system, priorities) if left else []
    value = {"running": left, "waited_seconds": round(time.monotonic() - began, 3), "tasks": stuck}
    lines = [f"{left} tasks run after {value['waited_seconds']:.1f} s"]
    lines += [
        f"  {task['id']} {task['name']} since {task['started_at']} on {task['holder']}" for task in stuck
    ]
    say(value, "\n".join(lines), as_json=as_json)
    return PROBLEM if left else GOOD


def _named(system: System, priorities: list[Priority]) -> list[dict[str, str | int | None]]:
    tasks = [
        task
        for priority in priorities
        for task in system.store.queries.page(
            Filter(status=Status.PROCESSING, priority=priority), limit=NAMED
        )
    ]
    return [
        {
            "id": task.task_id,
            "name": task.name,
            "holder": task.holder,
            "started_at": task.started_at.isoformat() if task.started_at else None,
        }
        for task in tasks
    ]


if __name__ == "__main__":
    main()
