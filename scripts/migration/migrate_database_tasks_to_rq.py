"""Move the tasks that wait in the database to Redis, while the system runs. Exit 0: every row is moved,
proven by a count of zero. 1: it ended early, or rows are in quarantine. 2: it could not run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from app.system import System
from app.transfer import runs
from app.transfer.errors import NotPossible
from app.transfer.plans import Direction, make_plan
from scripts.migration.commands import json_option, running_system
from scripts.migration.moving import (
    confirm_plan,
    control,
    guarded,
    limits_of,
    move_options,
    run_shown,
    scope_of,
    show_plan,
)


@click.command(help=__doc__)
@move_options
@click.option("--source", type=click.Path(path_type=Path), help="A mapping file of another task table.")
@json_option
def main(source: Path | None, **options: Any) -> None:
    with running_system() as system:
        guarded(lambda: migrate(system, source, **options))


def migrate(
    system: System,
    source: Path | None,
    *,
    priorities: tuple[str, ...],
    name: str | None,
    share: int,
    batch_size: int | None,
    rate: float | None,
    dry_run: bool,
    plan_hash: str | None,
    resume: bool,
    pause: bool,
    abort: bool,
    status: bool,
    verbose: bool,
    as_json: bool,
) -> int:
    """Do what the options say; returns the exit code."""
    if source is not None:
        raise NotPossible("only the project's own table can be moved yet: leave --source away")
    if pause or abort or status:
        return control(system, Direction.DISPATCH, pause=pause, abort=abort, as_json=as_json, verbose=verbose)
    plan = make_plan(system.store, Direction.DISPATCH, scope_of(priorities, name, share))
    if dry_run:
        return show_plan(plan, as_json=as_json)
    confirm_plan(plan, plan_hash)
    limits = limits_of(batch_size, rate)
    return run_shown(
        system,
        lambda show: (
            runs.resume(system.queue, Direction.DISPATCH, watcher=show)
            if resume
            else runs.start(system.queue, plan, limits, watcher=show)
        ),
        sum(plan.rows.values()),
        as_json=as_json,
        verbose=verbose,
    )


if __name__ == "__main__":
    main()
