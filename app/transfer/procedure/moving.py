"""The gates of the move itself: a few rows first, each step proven, then the rest, then the proof of all."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from app.tasks.errors import TaskError
from app.tasks.model import PRIORITIES, Status
from app.tasks.routing import Intake
from app.transfer import runs
from app.transfer.batches import BatchRecords
from app.transfer.canaries import Canaries
from app.transfer.errors import Incomplete, Superseded, TransferError
from app.transfer.legacy.beginning import (
    Consent,
    open_imports,
    plan_import,
    require_guard,
    start_import,
    table_of,
)
from app.transfer.legacy.table import LegacyTable
from app.transfer.mover import Mover
from app.transfer.old_workers import stop
from app.transfer.plans import Direction, Scope, make_plan, rows_to_move
from app.transfer.procedure.gates import Gate, Ground, Outcome
from app.transfer.procedure.proofs import verified
from app.transfer.records import OPEN, State, TransferRecords

HOLD_MINUTES = 60  # the hold ends by itself, should nobody be left to end it
GO_ON = "see to it, then --resume; or --rollback"


def hold_submissions(ground: Ground) -> Outcome:
    """Let new tasks wait while rows move, if the plan says so."""
    if not ground.plan.choices.hold:
        return Outcome(True, "submission stays open")
    rules = ground.system.store.routing.refresh().values()
    ours = ground.facts.get("held", False)  # of a process that was killed under it
    if not ours and any(route.intake is not Intake.OPEN for route in rules):
        return Outcome(True, "submission is closed already, and not by us")
    ground.facts["held"] = True
    ground.keep()  # before it begins: whoever resumes or aborts has to end it
    duration = timedelta(minutes=HOLD_MINUTES)
    ground.system.queue.pause_intake(reason="migration to Redis", mode=Intake.HOLD, duration=duration)
    return Outcome(True, f"new tasks are held, for {HOLD_MINUTES} minutes at most")


def wait_for_running(ground: Ground) -> Outcome:
    """Under a hold, until no task runs; else they are only counted: a move leaves running tasks alone."""
    hold = ground.plan.choices.hold
    left = runs.drain(
        ground.system.queue,
        PRIORITIES,
        limit_seconds=ground.plan.choices.running_seconds if hold else 0,
        statuses=(Status.PROCESSING,),
        waiting=lambda _: ground.check(),
    )
    if left and hold:
        fix = "wait longer (--running-seconds), cancel them, or migrate without --hold; then --resume"
        return Outcome(False, f"{left:,} tasks still run: wait_for_running.py names them", fix)
    return Outcome(True, f"{left:,} tasks run and are left alone" if left else "no task runs")


def import_rows(ground: Ground) -> Outcome:
    """Make tasks of the queued rows of the table that the plan names, if it names one."""
    if ground.plan.choices.source is None:
        return Outcome(True, "the rows are tasks of ours already")
    table = table_of(ground.system.queue, Path(ground.plan.choices.source))
    try:
        mover = _importer(ground, table)
        if mover is not None:
            mover.run()
    except Superseded as error:
        ground.check()
        return Outcome(False, str(error), "--resume begins another import")
    except (TransferError, TaskError) as error:
        return Outcome(False, str(error), GO_ON)
    left = sum(plan_import(ground.system.queue, table, Scope()).rows.values())
    if left:
        return Outcome(False, f"{left:,} rows of {table.mapping.table} are still queued", GO_ON)
    totals = BatchRecords(ground.system.store.database).totals(ground.facts["import"])
    said = f"{totals.marked:,} rows of {table.mapping.table} have become tasks, 0 are queued"
    return Outcome(True, f"{said}, {totals.quarantined:,} put aside")


def _importer(ground: Ground, table: LegacyTable) -> Mover | None:
    """A new one, or one that goes on where an import was cut short; None if one was complete, and no row has
    come since."""
    queue, choices = ground.system.queue, ground.plan.choices
    consent = Consent(choices.alter, choices.install_guard, choices.old_workers_stopped)
    cut_short = open_imports(queue, table.mapping.name)
    if cut_short:
        require_guard(table, consent)
        mover = runs.resume(
            queue, Direction.IMPORT, transfer_id=cut_short[0].transfer_id, watcher=ground.watcher
        )
    else:
        plan = plan_import(queue, table, Scope())
        if "import" in ground.facts and not sum(plan.rows.values()):
            return None
        mover = start_import(queue, table, plan, ground.plan.limits, consent, watcher=ground.watcher)
    ground.begun("import", mover.transfer_id)
    return mover


def move(ground: Ground) -> Outcome:
    """Canaries, then everything; complete only by a count of zero."""
    try:
        mover = _mover(ground)
        done = mover.run() if mover is not None else None
    except Superseded as error:
        ground.check()
        return Outcome(False, str(error), "--resume begins another transfer, --rollback brings the rows back")
    except (TransferError, TaskError) as error:
        return Outcome(False, str(error), GO_ON)
    plan = ground.plan.move
    left = sum(rows_to_move(ground.system.store, plan, ground.system.store.routing.refresh()).values())
    if left:
        return Outcome(False, f"{left:,} rows wait in the database again", GO_ON)
    totals = BatchRecords(ground.system.store.database).totals(ground.facts["transfer"])
    ground.facts["moved"] = totals.marked
    speed = f", {done.rows_per_second:,.0f}/s at last" if done and done.moved else ""
    return Outcome(True, f"{totals.marked:,} rows moved{speed}; counted after the flip: 0 are left")


def _mover(ground: Ground) -> Mover | None:
    """A new one, or one that goes on with a transfer that was cut short; None if that is complete."""
    records = TransferRecords(ground.system.store.database)
    queue = ground.system.queue
    known = ground.facts.get("transfer")
    cut_short = records.get(known) if known is not None else None
    found = cut_short or next(iter(records.open_ones(Direction.DISPATCH)), None)
    if found is not None and found.state is State.COMPLETED:
        return None
    if found is not None and found.state in OPEN and found.plan_hash == ground.plan.move.hash:
        steps = sum(kind == "canaries" for _, kind, _ in records.events(found.transfer_id))
        mover = runs.resume(
            queue,
            Direction.DISPATCH,
            transfer_id=found.transfer_id,
            watcher=ground.watcher,
            canaries=_canaries(ground, ground.plan.choices.canaries[steps:]),
        )
    else:
        plan = make_plan(ground.system.store, Direction.DISPATCH, Scope())
        canaries = _canaries(ground, ground.plan.choices.canaries)
        mover = runs.start(queue, plan, ground.plan.limits, watcher=ground.watcher, canaries=canaries)
    ground.begun("transfer", mover.transfer_id)
    return mover


def _canaries(ground: Ground, steps: tuple[int, ...]) -> Canaries:
    def look(moved: int) -> None:
        ground.check()
        outcome = verified(ground, f"canaries {moved}")
        kept = {"rows": moved, "passed": outcome.passed, "said": outcome.said}
        ground.facts.setdefault("canaries", []).append(kept)
        ground.keep()
        if not outcome.passed:
            raise Incomplete(f"after {moved} canaries: {outcome.said}")

    return Canaries(steps, look)


def canaries_proven(ground: Ground) -> Outcome:
    """What the looks between the steps have said."""
    looks = ground.facts.get("canaries", [])
    if not looks:
        return Outcome(True, "there were no rows to try it with")
    steps = ", ".join(f"{look['rows']} {'clean' if look['passed'] else 'not clean'}" for look in looks)
    return Outcome(True, f"rows moved ahead and verified: {steps}")


def none_quarantined(ground: Ground) -> Outcome:
    """Rows that cannot become tasks are put aside by import and move; somebody has to decide about them."""
    batches = BatchRecords(ground.system.store.database)
    moves = [ground.facts[name] for name in ("import", "transfer") if name in ground.facts]
    aside = sum(batches.totals(transfer_id).quarantined for transfer_id in moves)
    if not aside:
        return Outcome(True, "no row is in quarantine")
    counts = ground.system.store.queries.counts([Status.QUARANTINED])
    still = min(aside, sum(counts[Status.QUARANTINED].values()))
    if not still:
        return Outcome(True, f"{aside:,} rows were put aside, and none is in quarantine any more")
    fix = "decide about them (docs/operating.md), then --resume"
    return Outcome(False, f"{still:,} rows are in quarantine", fix)


def all_verified(ground: Ground) -> Outcome:
    return verified(ground, "move", left="QUEUED")


def stop_old_workers(ground: Ground) -> Outcome:
    """Our own pollers rest by the routing; another system's are stopped by their recorded process ids."""
    files = [Path(name) for name in ground.plan.choices.pid_files]
    if not files:
        return Outcome(True, "pollers rest: the routing gives them nothing")
    limit_seconds = ground.plan.choices.running_seconds
    stopped = stop(files, limit_seconds=limit_seconds, waiting=lambda _: ground.check())
    if stopped.running:
        numbers = ", ".join(map(str, stopped.running))
        fix = "stop_legacy_workers.py --kill, when their tasks may be lost; then --resume"
        return Outcome(False, f"old workers still run: {numbers}", fix)
    return Outcome(True, f"{len(stopped.found)} old workers are stopped")


MIGRATE = (
    Gate("hold", hold_submissions),
    Gate("running tasks", wait_for_running),
    Gate("import", import_rows),
    Gate("move", move, asks="Every row was moved, by a count of zero after the flip"),
    Gate("canaries", canaries_proven, asks="The first rows were verified before the rest followed"),
    Gate("quarantine", none_quarantined, acceptable=True, asks="No row was put aside"),
    Gate("verified", all_verified, asks="Every row and every ticket was verified by id"),
    Gate("old workers", stop_old_workers, asks="No poller takes tasks any more"),
)
