"""Bring the tasks that wait in Redis back to the database: the rollback, at once unless --planned is given.
It works while Redis is dead, ends a migration that still runs, and leaves running tasks alone. Exit 0: none
is left in Redis. 1: some are left, or it was taken over. 2: it could not run."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import click

from app.system import System
from app.transfer import runs
from app.transfer.plans import Direction
from app.transfer.progress import Progress
from scripts.migration.commands import GOOD, PROBLEM, guarded, json_option, running_system, say
from scripts.migration.importing import give_rows_back
from scripts.migration.moving import Show, Wanted, move, move_options


@click.command(help=__doc__)
@move_options
@click.option("--planned", is_flag=True, help="First hold new tasks and let the waiting ones end.")
@click.option("--drain-seconds", type=click.FloatRange(min=0), default=600.0, show_default=True)
@click.option("--reason", default="planned rollback", show_default=True, help="Shown while tasks are held.")
@click.option(
    "--source",
    type=click.Path(path_type=Path),
    help="Give imported tasks that never started back to this mapping's table, instead.",
)
@json_option
def main(planned: bool, drain_seconds: float, reason: str, source: Path | None, **options: Any) -> None:
    wanted = Wanted(**options)
    with running_system() as system:
        if source is not None:
            guarded(lambda: give_rows_back(system, source, wanted))
        begin = partial(roll_back_planned, system, wanted, drain_seconds, reason) if planned else None
        guarded(lambda: move(system, Direction.RECALL, wanted, begin=begin))


def roll_back_planned(system: System, wanted: Wanted, drain_seconds: float, reason: str) -> int:
    drained = Progress("tasks that wait or run:")

    def waiting(left: int) -> None:
        drained.step(left - drained.done)

    show = Show("recalling", 0)
    try:
        told = runs.roll_back_planned(
            system.queue,
            wanted.scope,
            wanted.limits,
            drain_seconds=drain_seconds,
            reason=reason,
            watcher=show,
            waiting=waiting,
        )
    finally:
        drained.end()
        show.end()
    text = (
        f"{told.status}: {told.undrained:,} tasks had not ended in time, {told.recalled:,} were recalled,"
        f" {told.remaining:,} remain in Redis."
    )
    say(asdict(told), text, as_json=wanted.as_json)
    return GOOD if told.remaining == 0 else PROBLEM


if __name__ == "__main__":
    main()
