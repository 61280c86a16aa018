"""Bring the tasks that wait in Redis back to the database: the rollback, at once unless --planned is given.
It works while Redis is dead, ends a migration that still runs, and leaves running tasks alone. Exit 0: none
is left in Redis. 1: some are left, or it was taken over. 2: it could not run."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from app.system import System
from app.transfer import runs
from app.transfer.plans import Direction, Limits, Scope, make_plan
from app.transfer.progress import Progress
from scripts.migration.commands import GOOD, PROBLEM, json_option, running_system, say
from scripts.migration.moving import (
    Show,
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
@click.option("--planned", is_flag=True, help="First hold new tasks and let the waiting ones end.")
@click.option("--drain-seconds", type=click.FloatRange(min=0), default=600.0, show_default=True)
@click.option("--reason", default="planned rollback", show_default=True, help="Shown while tasks are held.")
@json_option
def main(**options: Any) -> None:
    with running_system() as system:
        guarded(lambda: roll_back(system, **options))


def roll_back(
    system: System,
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
    planned: bool,
    drain_seconds: float,
    reason: str,
    as_json: bool,
) -> int:
    """Do what the options say; returns the exit code."""
    if pause or abort or status:
        return control(system, Direction.RECALL, pause=pause, abort=abort, as_json=as_json, verbose=verbose)
    scope, limits = scope_of(priorities, name, share), limits_of(batch_size, rate)
    plan = make_plan(system.store, Direction.RECALL, scope)
    if dry_run:
        return show_plan(plan, as_json=as_json)
    confirm_plan(plan, plan_hash)
    if planned and not resume:
        return roll_back_planned(system, scope, limits, drain_seconds, reason, as_json=as_json)
    return run_shown(
        system,
        lambda show: (
            runs.resume(system.queue, Direction.RECALL, watcher=show)
            if resume
            else runs.start(system.queue, plan, limits, take_over=True, watcher=show)
        ),
        sum(plan.rows.values()),
        as_json=as_json,
        verbose=verbose,
    )


def roll_back_planned(
    system: System, scope: Scope, limits: Limits, drain_seconds: float, reason: str, *, as_json: bool
) -> int:
    drained = Progress("tasks that wait or run:")

    def waiting(left: int) -> None:
        drained.step(left - drained.done)

    show = Show("recalling", 0)
    try:
        told = runs.roll_back_planned(
            system.queue,
            scope,
            limits,
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
    say(asdict(told), text, as_json=as_json)
    return GOOD if told.remaining == 0 else PROBLEM


if __name__ == "__main__":
    main()
