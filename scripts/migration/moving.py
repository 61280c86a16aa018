"""What the commands that move tasks share: their options, the run with its progress, and what they say."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, TypeVar

import click

from app.system import System
from app.tasks.errors import TaskError
from app.tasks.model import PRIORITIES, Priority
from app.transfer import runs
from app.transfer.batches import BatchRecords
from app.transfer.errors import NotPossible, Superseded, TransferError
from app.transfer.mover import Mover, Moving
from app.transfer.plans import Direction, Limits, Plan, Scope
from app.transfer.progress import Progress
from app.transfer.records import State, Transfer, TransferRecords
from scripts.migration.commands import CANNOT_RUN, GOOD, PROBLEM, say, stop

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = (
    click.option("--priority", "priorities", multiple=True, type=click.Choice([p.value for p in Priority])),
    click.option("--name", help="Only tasks of this name."),
    click.option(
        "--share", type=click.IntRange(1, 100), default=100, help="Percent of the tasks, the same each time."
    ),
    click.option(
        "--batch-size", type=click.IntRange(1, 100_000), help="Most rows of a batch; it adapts below."
    ),
    click.option("--rate", type=click.FloatRange(min=0, min_open=True), help="Most rows a second."),
    click.option("--dry-run", is_flag=True, help="Show the plan and its hash; change nothing."),
    click.option("--plan", "plan_hash", help="Run only if the plan still has this hash."),
    click.option("--resume", is_flag=True, help="Go on with the last one that did not end."),
    click.option("--pause", is_flag=True, help="Tell the one that runs to wait."),
    click.option("--abort", is_flag=True, help="End the open one where it is."),
    click.option("--status", is_flag=True, help="Show the last one."),
    click.option("--verbose", is_flag=True, help="Tell of each phase and event."),
)


def move_options(command: F) -> F:
    """The options that both directions have."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def scope_of(priorities: tuple[str, ...], name: str | None, share: int) -> Scope:
    chosen = tuple(p for p in PRIORITIES if p.value in priorities) if priorities else PRIORITIES
    return Scope(chosen, name=name, percent=share)


def limits_of(batch_size: int | None, rate: float | None) -> Limits:
    return Limits(rows_per_second=rate, **({"batch_rows": batch_size} if batch_size else {}))


def guarded(body: Callable[[], int]) -> None:
    """Run a command's body and exit with what it answers: 1 for a run that did not come to its end, 2 for one
    that could not begin."""
    signal.signal(signal.SIGTERM, _as_interrupt)
    try:
        sys.exit(body())
    except NotPossible as error:
        stop(str(error))
    except (Superseded, TransferError) as error:
        click.echo(f"Not complete: {error}", err=True)
        sys.exit(PROBLEM)
    except TaskError as error:
        click.echo(f"Not complete: {error}. Run the command again with --resume.", err=True)
        sys.exit(CANNOT_RUN)
    except KeyboardInterrupt:
        click.echo("Stopped. Run the command again with --resume.", err=True)
        sys.exit(PROBLEM)


def _as_interrupt(*_: object) -> None:
    raise KeyboardInterrupt


class Show:
    """A mover's watcher: one line on a terminal."""

    def __init__(self, what: str, total: int) -> None:
        self._progress = Progress(what, total=total)

    def __call__(self, moving: Moving) -> None:
        self._progress.what = moving.throttle_reason or moving.phase
        self._progress.step(moving.moved + moving.quarantined - self._progress.done)

    def end(self) -> None:
        self._progress.end()


def show_plan(plan: Plan, *, as_json: bool) -> int:
    value = plan.to_json() | {"hash": plan.hash, "total": sum(plan.rows.values())}
    lines = [f"{plan.direction.value} of {value['total']:,} rows, plan {plan.hash}"]
    lines += [f"  {priority.value:7} {count:,}" for priority, count in plan.rows.items()]
    say(value, "\n".join(lines), as_json=as_json)
    return GOOD


def confirm_plan(plan: Plan, wanted: str | None) -> None:
    """Raises `NotPossible` if the plan is not the one that was looked at."""
    if wanted is not None and wanted != plan.hash:
        raise NotPossible(f"the plan is {plan.hash} now, not {wanted}: look at it again with --dry-run")


def run_shown(
    system: System, make: Callable[[Show], Mover], total: int, *, as_json: bool, verbose: bool
) -> int:
    """Run the mover under a progress line and say what came of it."""
    show = Show("moving", total)
    mover = make(show)
    try:
        done = mover.run()
    finally:
        show.end()
    return tell(system, mover.transfer_id, done, as_json=as_json, verbose=verbose)


def tell(system: System, transfer_id: int, done: Moving, *, as_json: bool, verbose: bool) -> int:
    value = report(system, transfer_id) | {"this_run": asdict(done)}
    text = (
        f"Transfer {transfer_id} is complete: {done.moved:,} rows moved in {done.seconds:.1f} s"
        f" ({done.rows_per_second:,.0f}/s), {done.quarantined:,} quarantined."
    )
    say(value, text + (_events_text(system, transfer_id) if verbose else ""), as_json=as_json)
    return PROBLEM if value["totals"]["quarantined"] else GOOD


def control(
    system: System, direction: Direction, *, pause: bool, abort: bool, as_json: bool, verbose: bool
) -> int:
    """Pause or abort the open transfer, or show the last one."""
    records = TransferRecords(system.store.database)
    if pause:
        found = runs.open_transfer(records, direction, None)
        if not records.pause(found.transfer_id):
            raise NotPossible(f"transfer {found.transfer_id} does not run: it is {found.state.value}")
    elif abort:
        found = runs.open_transfer(records, direction, None)
        records.abort(found.transfer_id, reason="aborted by an operator")
        system.queue.waking.rules_changed()
    last = records.latest(direction)
    if last is None:
        raise NotPossible(f"there has been no {direction.value} yet")
    value = report(system, last.transfer_id)
    text = "\n".join(f"{name:12} {_short(found)}" for name, found in value.items())
    say(value, text + (_events_text(system, last.transfer_id) if verbose else ""), as_json=as_json)
    return GOOD if last.state in (State.COMPLETED, State.RUNNING) or pause or abort else PROBLEM


def report(system: System, transfer_id: int) -> dict[str, Any]:
    """A transfer and the sums of its batches, as JSON."""
    found: Transfer = TransferRecords(system.store.database).get(transfer_id)
    return {
        "transfer": transfer_id,
        "direction": found.plan.direction.value,
        "state": found.state.value,
        "phase": found.phase,
        "plan": found.plan_hash,
        "planned": sum(found.plan.rows.values()),
        "totals": asdict(BatchRecords(system.store.database).totals(transfer_id)),
        "holder": found.holder,
        "throttle_reason": found.throttle_reason,
        "error": found.error,
        "started_at": found.started_at.isoformat() if found.started_at else None,
        "ended_at": found.ended_at.isoformat() if found.ended_at else None,
    }


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {count:,}" for name, count in value.items())
    return "-" if value is None else str(value)


def _events_text(system: System, transfer_id: int) -> str:
    lines = [
        f"\n  {at:%H:%M:%S} {kind} {' '.join(f'{name}={value}' for name, value in detail.items())}"
        for at, kind, detail in TransferRecords(system.store.database).events(transfer_id)
    ]
    return "".join(lines)
