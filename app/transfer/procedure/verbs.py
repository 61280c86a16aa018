"""The verbs of procedures: begin, resume, pause, abort, roll back; safe beside a process that runs one."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path

from app.system import System
from app.tasks.model import Priority
from app.transfer import history
from app.transfer.errors import NotPossible
from app.transfer.holders import is_alive, is_dead, this_process
from app.transfer.procedure.plan import Phase, ProcedurePlan
from app.transfer.procedure.records import OPEN, Procedure, ProcedureRecords, State
from app.transfer.procedure.runner import Listener, Runner
from app.transfer.records import TransferRecords

STEPS = ("import", "transfer", "recall")  # the facts that name the transfers of a procedure


def begin(system: System, plan: ProcedurePlan, *, confirmed: str, listener: Listener | None = None) -> Runner:
    """Record the procedure, held by this process. Raises `NotPossible` if another plan was confirmed, or
    another procedure is open."""
    if confirmed != plan.hash:
        raise NotPossible(f"the plan is {plan.hash} now, not {confirmed}: look at it again with --plan")
    holder = this_process()
    procedure = ProcedureRecords(system.store.database).begin(plan, holder=holder)
    return Runner(system, procedure, holder=holder, listener=listener)


def resume(
    system: System, *, accepted: Collection[str] = (), listener: Listener | None = None
) -> Runner | None:
    """Go on with the open procedure, at the phase where it was cut short; the gates in `accepted` need not
    hold. None: it was merely paused, and its process goes on. Raises `NotPossible`."""
    records = ProcedureRecords(system.store.database)
    found = open_procedure(system)
    if accepted and _lives(found):
        raise NotPossible(f"procedure {found.procedure_id} runs: accept a gate once it has stopped there")
    if wake(system, found) and _lives(found):
        return None
    holder = this_process()
    taken = records.take(found.procedure_id, holder=holder, is_dead=is_dead, accepted=accepted)
    return Runner(system, taken, holder=holder, listener=listener)


def wake(system: System, procedure: Procedure) -> bool:
    """Let a paused one go on, and its transfer. False if it was not paused."""
    _steer_transfers(system, procedure, go_on=True)
    return ProcedureRecords(system.store.database).resume(procedure.procedure_id)


def pause(system: System) -> Procedure:
    """Whoever runs it waits, and moves nothing. Raises `NotPossible` if it does not run."""
    records = ProcedureRecords(system.store.database)
    found = open_procedure(system)
    if not records.pause(found.procedure_id):
        raise NotPossible(f"procedure {found.procedure_id} does not run: it is {found.state.value}")
    paused = records.get(found.procedure_id)  # with the transfer that it may have begun meanwhile
    _steer_transfers(system, paused, go_on=False)
    return paused


def abort(system: System, *, reason: str) -> Procedure:
    """End the open procedure and its transfer where they are; what is on the wrong track follows the routing.

    Raises `NotPossible`, and `OSError` if the history cannot be written; the procedure has ended even so.
    """
    records = ProcedureRecords(system.store.database)
    found = open_procedure(system)
    if not records.abort(found.procedure_id, reason=reason):
        raise NotPossible(f"procedure {found.procedure_id} has ended meanwhile")
    ended = records.get(found.procedure_id)
    transfers = TransferRecords(system.store.database)
    for transfer_id in _transfers(ended):
        transfers.abort(transfer_id, reason=reason)
    if ended.record["facts"].get("held"):
        system.queue.resume_intake()
    system.queue.waking.rules_changed()
    what = f"procedure {ended.procedure_id}: to Redis"
    page = Path(ended.plan.choices.history)
    history.add(page, what=what, outcome="aborted", evidence=f"in the phase {ended.phase.value}: {reason}")
    return ended


def roll_back(
    system: System,
    *,
    priorities: Sequence[Priority] = (),
    planned: bool = False,
    drain_seconds: float = 600.0,
    listener: Listener | None = None,
) -> Runner:
    """Take the last procedure, whoever runs it and whether it has ended, for its way back.

    Raises `NotPossible` if there has been none.
    """
    records = ProcedureRecords(system.store.database)
    found = records.latest()
    if found is None:
        raise NotPossible("there is no procedure to roll back; migrate_rq_to_database.py brings tasks back")
    holder = this_process()
    wanted = {
        "planned": planned,
        "drain_seconds": drain_seconds,
        "priorities": [priority.value for priority in priorities],
    }
    taken = records.seize(found.procedure_id, holder=holder, phase=Phase.ROLLBACK, wanted=wanted)
    return Runner(system, taken, holder=holder, listener=listener)


def open_procedure(system: System) -> Procedure:
    """Raises `NotPossible` if there is none."""
    found = ProcedureRecords(system.store.database).latest(OPEN)
    if found is None:
        raise NotPossible("no procedure is open")
    return found


def _lives(procedure: Procedure) -> bool:
    holder = procedure.holder
    if holder is None or is_dead(holder):
        return False
    return is_alive(holder) or procedure.lease_left_seconds > 0


def _steer_transfers(system: System, procedure: Procedure, *, go_on: bool) -> None:
    transfers = TransferRecords(system.store.database)
    for transfer_id in _transfers(procedure):
        with suppress(NotPossible):
            (transfers.resume if go_on else transfers.pause)(transfer_id)


def _transfers(procedure: Procedure) -> list[int]:
    facts = procedure.record["facts"]
    return [facts[name] for name in STEPS if facts.get(name) is not None]


def is_stuck(procedure: Procedure) -> bool:
    """It says that it runs, and nobody runs it any more: a resume goes on with it."""
    return procedure.state in (State.RUNNING, State.PAUSED) and not _lives(procedure)
