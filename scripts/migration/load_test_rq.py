"""Submit test tasks by several callers at once and follow each to its end. Exit 0: all were accepted and
completed. 1: some were not."""

from __future__ import annotations

from dataclasses import asdict

import click

from app.system import System
from app.transfer import performance, trials
from app.transfer.progress import Progress
from scripts.migration.commands import GOOD, PROBLEM, guarded, json_option, running_system, say


@click.command(help=__doc__)
@click.option("--tasks", type=click.IntRange(1, 1_000_000), default=100, show_default=True)
@click.option("--concurrent", type=click.IntRange(1, 200), default=10, show_default=True)
@click.option("--limit", "limit_seconds", type=click.FloatRange(min=0), default=300.0, show_default=True)
@click.option("--keep", is_flag=True, help="Leave the test tasks for submit_test_tasks.py --remove.")
@json_option
def main(tasks: int, concurrent: int, limit_seconds: float, keep: bool, as_json: bool) -> None:
    with running_system() as system:
        guarded(lambda: load(system, tasks, concurrent, limit_seconds, keep=keep, as_json=as_json))


def load(
    system: System, tasks: int, concurrent: int, limit_seconds: float, *, keep: bool, as_json: bool
) -> int:
    progress = Progress("submitted", total=tasks)
    try:
        done = performance.load(
            system,
            tasks=tasks,
            concurrent=concurrent,
            limit_seconds=limit_seconds,
            on_step=lambda _, count: progress.step(count - progress.done),
        )
    finally:
        progress.end()
    if not keep:
        trials.remove(system)
    lines = [
        f"accepted  {done.accepted:,} of {done.tasks:,}, {done.accepted_per_second:,.0f}/s",
        f"completed {done.completed:,}, {done.completed_per_second:,.0f}/s, {done.lost:,} lost",
        f"submission {_times(done.submit_seconds)}",
        f"to its end {_times(done.end_seconds)}",
    ]
    say(asdict(done), "\n".join(lines), as_json=as_json)
    return GOOD if done.completed == done.tasks else PROBLEM


def _times(spread: dict[str, float | None]) -> str:
    return ", ".join(
        f"{name} {'-' if value is None else f'{value * 1000:.1f} ms'}" for name, value in spread.items()
    )


if __name__ == "__main__":
    main()
