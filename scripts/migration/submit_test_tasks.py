"""Submit tasks that do nothing, to try the way that tasks take; --remove deletes those that have ended and
cancels those that wait. Exit 0: all were accepted, or all are gone. 1: some were refused, or still run."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import asdict

import click

from app.system import System
from app.tasks.model import PRIORITIES, Priority, Submitted
from app.transfer import trials
from app.transfer.progress import Progress
from scripts.migration.commands import GOOD, PROBLEM, guarded, json_option, running_system, say


@click.command(help=__doc__)
@click.option("--count", type=click.IntRange(1, 1_000_000), default=10, show_default=True)
@click.option("--priority", type=click.Choice([p.value for p in PRIORITIES]), default="normal")
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
    run, began = trials.new_run(), time.monotonic()
    progress = Progress("submitted", total=count)
    statuses: Counter[str] = Counter()
    refused: list[str] = []
    for start in range(0, count, trials.BATCH):
        numbers = range(start, min(count, start + trials.BATCH))
        requests = [trials.trial(run, number, priority) for number in numbers]
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
    """What runs at the moment stays and is told."""
    done = trials.remove(system)
    text = f"{done.deleted:,} test tasks deleted, {done.left:,} are left"
    say(asdict(done), text, as_json=as_json)
    return PROBLEM if done.left else GOOD


if __name__ == "__main__":
    main()
