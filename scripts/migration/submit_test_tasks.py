"""Submit tasks that do nothing, to try the way that tasks take; --remove deletes those that have ended and
cancels those that wait. Exit 0: all were accepted, or all are gone. 1: some were refused, or still run."""

from __future__ import annotations

import secrets
import time
from collections import Counter

import click

from app.system import System
from app.tasks.model import PRIORITIES, Priority, Submitted
from app.tasks.submission import TaskRequest
from app.transfer.progress import Progress
from scripts.migration.commands import GOOD, PROBLEM, guarded, json_option, running_system, say

KEY = "test-tasks:"
BATCH = 500
NAME = "test.noop"


@click.command(help=__doc__)
@click.option("--count", type=click.IntRange(1, 1_000_000), default=10, show_default=True)
@click.option("--priority", type=click.Choice([p.value for p in Priority]), default="normal")
@click.option("--remove", is_flag=True, help="Remove what earlier calls submitted; submit nothing.")
@json_option
def main(count: int, priority: str, remove: bool, as_json: bool) -> None:
    with running_system() as system:
        guarded(
            lambda: (
                removed(system, as_json=as_json)
                if remove
                else submitted(system, count, Priority(priority), as_json=as_json)
            )
        )


def submitted(system: System, count: int, priority: Priority, *, as_json: bool) -> int:
    run, began = secrets.token_hex(4), time.monotonic()
    progress = Progress("submitted", total=count)
    statuses: Counter[str] = Counter()
    refused: list[str] = []
    for start in range(0, count, BATCH):
        numbers = range(start, min(count, start + BATCH))
        requests = [
            TaskRequest(NAME, {}, priority=priority, idempotency_key=f"{KEY}{run}:{number}")
            for number in numbers
        ]
        for answer in system.queue.submit_many(requests):
            if isinstance(answer, Submitted):
                statuses[answer.status.value] += 1
            else:
                refused.append(str(answer))
        progress.step(len(requests))
    progress.end()
    value = {
        "run": run,
        "accepted": statuses.total(),
        "statuses": statuses,
        "refused": len(refused),
        "first_refusal": refused[0] if refused else None,
        "seconds": round(time.monotonic() - began, 3),
    }
    text = f"{statuses.total():,} test tasks accepted, {len(refused):,} refused, run {run}"
    say(value, text + (f": {refused[0]}" if refused else ""), as_json=as_json)
    return PROBLEM if refused else GOOD


def removed(system: System, *, as_json: bool) -> int:
    """Cancel, then delete; what runs at the moment stays and is told."""
    cancelled, deleted = 0, _purged(system)
    while stale := system.store.moves.cancel_keyed(KEY, limit=BATCH):
        cancelled += len(stale)
        for priority in PRIORITIES:
            system.queue.withdraw([ticket for ticket in stale if ticket.priority is priority])
        deleted += _purged(system)
    left = len(system.store.queries.keyed(KEY))
    value = {"cancelled": cancelled, "deleted": deleted, "left": left}
    say(value, f"{deleted:,} test tasks deleted, {left:,} are left", as_json=as_json)
    return PROBLEM if left else GOOD


def _purged(system: System) -> int:
    deleted = 0
    while gone := system.store.moves.purge_keyed(KEY, limit=BATCH):
        deleted += gone
    return deleted


if __name__ == "__main__":
    main()
