"""The gates of the way back: the routing and the rows return to the database, with Redis alive or dead."""

from __future__ import annotations

from functools import partial

from app.tasks.errors import TaskError
from app.tasks.model import PRIORITIES, Priority
from app.transfer import history, runs
from app.transfer.batches import BatchRecords
from app.transfer.errors import Superseded, TransferError
from app.transfer.plans import Direction, Scope, make_plan, rows_to_move
from app.transfer.procedure.finishing import open_submission
from app.transfer.procedure.gates import Gate, Ground, Outcome
from app.transfer.procedure.proofs import verified
from app.transfer.records import OPEN, State, TransferRecords


def recall(ground: Ground) -> Outcome:
    """At once, whoever moves rows the other way; or planned: hold, drain, then bring back what is left."""
    try:
        _bring_back(ground)
    except Superseded as error:
        ground.check()
        return Outcome(False, str(error), "--rollback begins it anew")
    except (TransferError, TaskError) as error:
        return Outcome(False, str(error), "see to it, then --resume")
    plan = make_plan(ground.system.store, Direction.RECALL, Scope(_priorities(ground)))
    left = sum(rows_to_move(ground.system.store, plan, ground.system.store.routing.refresh()).values())
    if left:
        return Outcome(False, f"{left:,} rows still wait in Redis", "--rollback begins it anew")
    totals = BatchRecords(ground.system.store.database).totals(ground.facts["recall"])
    ground.facts["recalled"] = totals.marked
    return Outcome(True, f"{totals.marked:,} rows brought back; counted: 0 are left in Redis")


def _bring_back(ground: Ground) -> None:
    queue, wanted = ground.system.queue, ground.facts.get("return", {})
    known = ground.facts.get("recall")
    if known is not None:
        state = TransferRecords(ground.system.store.database).get(known).state
        if state is State.COMPLETED:
            return
        if state in OPEN:
            runs.resume(queue, Direction.RECALL, transfer_id=known, watcher=ground.watcher).run()
            return
    scope = Scope(_priorities(ground))
    if wanted.get("planned"):
        runs.roll_back_planned(
            queue,
            scope,
            ground.plan.limits,
            drain_seconds=wanted["drain_seconds"],
            reason="planned rollback",
            watcher=ground.watcher,
            waiting=lambda _: ground.check(),
            begun=partial(ground.begun, "recall"),
        )
        return
    plan = make_plan(ground.system.store, Direction.RECALL, scope)
    mover = runs.start(queue, plan, ground.plan.limits, take_over=True, watcher=ground.watcher)
    ground.begun("recall", mover.transfer_id)
    mover.run()


def _priorities(ground: Ground) -> tuple[Priority, ...]:
    words = ground.facts.get("return", {}).get("priorities") or []
    return tuple(priority for priority in PRIORITIES if priority.value in words) or PRIORITIES


def routed_back(ground: Ground) -> Outcome:
    """The recall has flipped it; a share that stayed elsewhere is told."""
    rules = ground.system.store.routing.refresh()
    wrong = [p.value for p in _priorities(ground) if rules[p].redis_percent or rules[p].name_percents]
    if wrong:
        return Outcome(False, f"still by Redis: {', '.join(wrong)}", "set_mode.py database, then --resume")
    others = [p.value for p in PRIORITIES if rules[p].redis_percent]
    kept = f"; by Redis as before: {', '.join(others)}" if others else ""
    return Outcome(True, f"new tasks wait in the database{kept}")


def all_back(ground: Ground) -> Outcome:
    return verified(ground, "rollback", left="DISPATCHED", of=_priorities(ground))


def write_history(ground: Ground) -> Outcome:
    reports = [report["name"] for report in ground.facts.get("reports", [])[-1:]]
    evidence = f"{ground.facts.get('recalled', 0):,} rows brought back; {', '.join(reports)}"
    what = f"{ground.subject}: back to the database"
    history.add(ground.history, what=what, outcome="rolled back", evidence=evidence)
    return Outcome(True, f"a line in {ground.plan.choices.history}")


ROLLBACK = (
    Gate("recall", recall, asks="Every waiting row is back, by a count of zero"),
    Gate("routed back", routed_back, asks="New tasks wait in the database"),
    Gate("submission back", open_submission),
    Gate("verified back", all_back, asks="Every row was verified by id"),
    Gate("history of return", write_history, once=True, asks="The migration history has its line"),
)
