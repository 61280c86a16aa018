"""What the commands that move tasks share: their options, the run with its progress, and what they say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import click

from app.system import System
from app.tasks.model import PRIORITIES
from app.transfer import runs
from app.transfer.batches import BatchRecords
from app.transfer.errors import NotPossible
from app.transfer.holders import is_dead
from app.transfer.mover import Mover, Moving
from app.transfer.plans import Direction, Limits, Plan, Scope, make_plan, rows_to_move
from app.transfer.progress import Progress
from app.transfer.records import State, Transfer, TransferRecords
from scripts.migration.commands import GOOD, PROBLEM, say

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = (
    click.option("--priority", "priorities", multiple=True, type=click.Choice([p.value for p in PRIORITIES])),
    click.option("--name", help="Only tasks of this name."),
    click.option(
        "--share", type=click.IntRange(1, 100), default=100, help="Percent of the tasks, the same each time."
    ),
    click.option(
        "--batch-size", type=click.IntRange(1, 100_000), help="Most rows of a batch; it adapts below."
    ),
    click.option("--rate", type=click.FloatRange(min=0, min_open=True), help="Most rows a second."),
    click.option(
        "--submit-rise",
        type=click.FloatRange(min=0, min_open=True),
        help="Go so slowly that the p95 of submissions rises by at most so many percent.",
    ),
    click.option("--dry-run", is_flag=True, help="Show the plan and its hash; change nothing."),
    click.option("--plan", "plan_hash", help="Run only if the plan still has this hash."),
    click.option(
        "--resume", is_flag=True, help="Go on with one that did not end; --rate and --batch-size hold."
    ),
    click.option("--pause", is_flag=True, help="Tell the one that runs to wait."),
    click.option("--abort", is_flag=True, help="End the open one where it is."),
    click.option("--status", is_flag=True, help="Show the last one."),
    click.option("--transfer", "transfer_id", type=int, help="Which one, by its number; else by its scope."),
    click.option("--verbose", is_flag=True, help="Tell of each phase and event."),
)


def move_options(command: F) -> F:
    """The options that both directions have."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the `move_options` and `json_option` of a command say; `source` names the mapping of an import."""

    priorities: tuple[str, ...]
    name: str | None
    share: int
    batch_size: int | None
    rate: float | None
    submit_rise: float | None
    dry_run: bool
    plan_hash: str | None
    resume: bool
    pause: bool
    abort: bool
    status: bool
    transfer_id: int | None
    verbose: bool
    as_json: bool
    source: str | None = None

    @property
    def scope(self) -> Scope:
        chosen = tuple(p for p in PRIORITIES if p.value in self.priorities) if self.priorities else PRIORITIES
        return Scope(chosen, name=self.name, percent=self.share, source=self.source)

    @property
    def named_scope(self) -> Scope | None:
        """The scope, if one of its options was given."""
        return self.scope if self.priorities or self.name is not None or self.share != 100 else None

    @property
    def limits(self) -> Limits:
        return self.adjusted(Limits())

    def adjusted(self, limits: Limits) -> Limits:
        """These limits, but for those that were given."""
        return replace(
            limits,
            rows_per_second=limits.rows_per_second if self.rate is None else self.rate,
            batch_rows=self.batch_size or limits.batch_rows,
            submit_rise_percent=self.submit_rise or limits.submit_rise_percent,
        )


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


def move(
    system: System, direction: Direction, wanted: Wanted, *, begin: Callable[[], int] | None = None
) -> int:
    """Do what the options say; returns the exit code. `begin` takes the place of starting a transfer."""
    if wanted.pause or wanted.abort or wanted.status:
        return control(system, direction, wanted)
    if wanted.resume and not wanted.dry_run:
        return go_on(system, direction, wanted)
    plan = make_plan(system.store, direction, wanted.scope)
    if wanted.dry_run:
        return show_plan(plan, as_json=wanted.as_json)
    confirm_plan(plan, wanted.plan_hash)
    if begin is not None:
        return begin()
    take_over = direction is Direction.RECALL
    return run_shown(
        system,
        lambda show: runs.start(system.queue, plan, wanted.limits, take_over=take_over, watcher=show),
        sum(plan.rows.values()),
        wanted,
    )


def go_on(system: System, direction: Direction, wanted: Wanted) -> int:
    """Resume the transfer that the options mean; one that is paused in a living process goes on there."""
    records = TransferRecords(system.store.database)
    found = the_open_one(records, direction, wanted)
    confirm_plan(found.plan, wanted.plan_hash)
    if told_to_go_on(records, found, wanted):
        show_transfer(system, found.transfer_id, wanted)
        return GOOD
    left = found.plan.rows
    if direction is not Direction.IMPORT:
        left = rows_to_move(system.store, found.plan, system.store.routing.refresh())
    return run_shown(
        system,
        lambda show: runs.resume(
            system.queue,
            direction,
            transfer_id=found.transfer_id,
            adjusted=wanted.adjusted,
            watcher=show,
        ),
        sum(left.values()),
        wanted,
    )


def the_open_one(records: TransferRecords, direction: Direction, wanted: Wanted) -> Transfer:
    """Raises `NotPossible` where the options mean none, or several."""
    return runs.open_transfer(
        records, direction, wanted.transfer_id, scope=wanted.named_scope, source=wanted.source
    )


def told_to_go_on(records: TransferRecords, found: Transfer, wanted: Wanted) -> bool:
    """True for a paused transfer whose process lives: that one goes on, and nobody else is needed. Raises
    `NotPossible` if it would have to go on with other limits."""
    lives = found.holder is not None and found.lease_left_seconds > 0 and not is_dead(found.holder)
    if found.state is not State.PAUSED or not lives:
        return False
    if wanted.adjusted(found.limits) != found.limits:
        raise NotPossible(f"{found.holder} lives and has its limits: resume it without others, or abort it")
    return records.resume(found.transfer_id)


def run_shown(system: System, make: Callable[[Show], Mover], total: int, wanted: Wanted) -> int:
    """Run the mover under a progress line and say what came of it."""
    show = Show("moving", total)
    mover = make(show)
    try:
        done = mover.run()
    finally:
        show.end()
    return tell(system, mover.transfer_id, done, wanted)


def tell(system: System, transfer_id: int, done: Moving, wanted: Wanted) -> int:
    value = report(system, transfer_id) | {"this_run": asdict(done)}
    text = (
        f"Transfer {transfer_id} is complete: {done.moved:,} rows moved in {done.seconds:.1f} s"
        f" ({done.rows_per_second:,.0f}/s), {done.quarantined:,} quarantined."
    )
    say(value, text + (_events_text(system, transfer_id) if wanted.verbose else ""), as_json=wanted.as_json)
    return PROBLEM if value["totals"]["quarantined"] else GOOD


def control(system: System, direction: Direction, wanted: Wanted) -> int:
    """Pause or abort the open transfer, or show it; without an open one the last."""
    records = TransferRecords(system.store.database)
    if wanted.pause or wanted.abort:
        shown = the_open_one(records, direction, wanted)
        _turn(system, records, shown, wanted)
    else:
        shown = _to_show(records, direction, wanted)
    show_transfer(system, shown.transfer_id, wanted)
    done = wanted.pause or wanted.abort or shown.state in (State.COMPLETED, State.RUNNING)
    return GOOD if done else PROBLEM


def _turn(system: System, records: TransferRecords, found: Transfer, wanted: Wanted) -> None:
    if wanted.pause and not records.pause(found.transfer_id):
        raise NotPossible(f"transfer {found.transfer_id} does not run: it is {found.state.value}")
    if wanted.abort:
        if not records.abort(found.transfer_id, reason="aborted by an operator"):
            raise NotPossible(f"transfer {found.transfer_id} has ended: there is nothing to abort")
        system.queue.waking.rules_changed()


def _to_show(records: TransferRecords, direction: Direction, wanted: Wanted) -> Transfer:
    if wanted.transfer_id is not None or wanted.named_scope is not None:
        return the_open_one(records, direction, wanted)
    last = records.latest(direction)
    if last is None:
        raise NotPossible(f"there has been no {direction.value} yet")
    return last


def show_transfer(system: System, transfer_id: int, wanted: Wanted) -> None:
    value = report(system, transfer_id)
    text = "\n".join(f"{name:12} {_short(found)}" for name, found in value.items())
    events = _events_text(system, transfer_id) if wanted.verbose else ""
    say(value, text + events, as_json=wanted.as_json)


def report(system: System, transfer_id: int) -> dict[str, Any]:
    """A transfer and the sums of its batches, as JSON."""
    found: Transfer = TransferRecords(system.store.database).get(transfer_id)
    return {
        "transfer": transfer_id,
        "direction": found.plan.direction.value,
        "state": found.state.value,
        "phase": found.phase,
        "plan": found.plan_hash,
        "scope": str(found.plan.scope),
        "limits": asdict(found.limits),
        "planned": sum(found.plan.rows.values()),
        "totals": asdict(BatchRecords(system.store.database).totals(transfer_id)),
        "holder": found.holder,
        "throttle_reason": found.throttle_reason,
        "last_ids": dict(found.cursors),
        "error": found.error,
        "started_at": found.started_at.isoformat() if found.started_at else None,
        "ended_at": found.ended_at.isoformat() if found.ended_at else None,
    }


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {'-' if count is None else f'{count:,}'}" for name, count in value.items())
    return "-" if value is None else str(value)


def _events_text(system: System, transfer_id: int) -> str:
    lines = [
        f"\n  {at:%H:%M:%S} {kind} {' '.join(f'{name}={value}' for name, value in detail.items())}"
        for at, kind, detail in TransferRecords(system.store.database).events(transfer_id)
    ]
    return "".join(lines)
