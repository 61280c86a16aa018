"""The record of each procedure: its state, its phase, who runs it, and what its gates have said.

Whoever runs one holds it by name and lease, as with transfers: every write of a holder is guarded by the
name. An operator steers it by its state.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import insert, select, update
from sqlalchemy.engine import Connection

from app.tasks.database import Database
from app.tasks.schema import database_now, procedures, routing
from app.transfer.errors import NotPossible, Superseded
from app.transfer.procedure.plan import Phase, ProcedurePlan

LEASE_SECONDS = 15.0


class State(StrEnum):
    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"  # a gate did not open, or the process died
    ABORTED = "aborted"
    COMPLETED = "completed"
    ROLLED_BACK = "rolled back"


OPEN = (State.RUNNING, State.PAUSED, State.STOPPED)  # can go on


@dataclass(frozen=True, slots=True)
class Procedure:
    """A procedure as its row says. `record`: `phases`, with the seconds and gates of each, and `facts`, what
    gates know of each other. `lease_left_seconds` is by the database's clock."""

    procedure_id: int
    plan: ProcedurePlan
    plan_hash: str
    state: State
    phase: Phase
    record: Mapping[str, Any]
    holder: str | None
    lease_left_seconds: float
    error: str | None
    created_at: datetime
    updated_at: datetime
    ended_at: datetime | None


class ProcedureRecords:
    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, plan: ProcedurePlan, *, holder: str) -> Procedure:
        """Record a new procedure. Raises `NotPossible` while another one is open."""

        def work(on: Connection) -> int:
            # of two that begin at once the second waits here, and then finds the first
            on.execute(select(routing.c.priority).order_by(routing.c.priority).with_for_update()).all()
            states = [state.value for state in OPEN]
            query = select(procedures.c.id, procedures.c.state).where(procedures.c.state.in_(states))
            other = on.execute(query).first()
            if other is not None:
                raise NotPossible(
                    f"procedure {other.id} is {other.state}: resume it, abort it or roll it back"
                )
            values = {
                "state": State.RUNNING.value,
                "phase": Phase.PREPARE.value,
                "plan": json.dumps(plan.to_json()),
                "plan_hash": plan.hash,
                "record": json.dumps({"phases": {}, "facts": {}}),
                "holder": holder,
            }
            clocks = {"created_at": database_now(), "updated_at": database_now()}
            lease = {"lease_until": database_now(LEASE_SECONDS)}
            done = on.execute(insert(procedures).values(values | clocks | lease))
            return int((done.inserted_primary_key or (0,))[0])

        return self.get(self._database.run(work))

    def take(
        self,
        procedure_id: int,
        *,
        holder: str,
        is_dead: Callable[[str], bool],
        accepted: Collection[str] = (),
    ) -> Procedure:
        """Become the holder of an open procedure whose process is gone; it runs from now on, and lets the
        gates in `accepted` pass as well.

        Raises `NotPossible` for one that has ended, or whose holder lives.
        """

        def work(on: Connection) -> None:
            row = self._locked(on, procedure_id)
            if State(row.state) not in OPEN:
                raise NotPossible(f"procedure {procedure_id} is {row.state}: there is nothing to resume")
            if row.holder not in (None, holder) and row.left_over and not is_dead(row.holder):
                raise NotPossible(f"procedure {procedure_id} is run by {row.holder}, which is alive")
            record = json.loads(row.record)
            record["facts"]["accepted"] = sorted({*record["facts"].get("accepted", ()), *accepted})
            self._hold(on, procedure_id, holder, State.RUNNING, record=json.dumps(record))

        self._database.run(work)
        return self.get(procedure_id)

    def seize(self, procedure_id: int, *, holder: str, phase: Phase, wanted: Mapping[str, Any]) -> Procedure:
        """Become the holder whoever runs it, for a rollback as `wanted`: that one stops at its next step."""

        def work(on: Connection) -> None:
            record = json.loads(self._locked(on, procedure_id).record)
            record["phases"].pop(phase.value, None)
            record["facts"].pop("recall", None)
            record["facts"]["return"] = dict(wanted)
            values = {"phase": phase.value, "record": json.dumps(record), "ended_at": None}
            self._hold(on, procedure_id, holder, State.RUNNING, **values)

        self._database.run(work)
        return self.get(procedure_id)

    def _hold(self, on: Connection, procedure_id: int, holder: str, state: State, **more: Any) -> None:
        values = {"holder": holder, "state": state.value, "error": None} | more
        clocks = {"lease_until": database_now(LEASE_SECONDS), "updated_at": database_now()}
        on.execute(update(procedures).where(procedures.c.id == procedure_id).values(values | clocks))

    # --- by its holder --------------------------------------------------------------------------------

    def beat(self, procedure_id: int, *, holder: str) -> State:
        """Renew the lease; returns the state that somebody may have asked for. Raises `Superseded`."""
        self._write(procedure_id, holder, {})
        return self.state(procedure_id, holder=holder)

    def state(self, procedure_id: int, *, holder: str) -> State:
        """Raises `Superseded` once it is not this holder's any more."""
        query = select(procedures.c.state, procedures.c.holder).where(procedures.c.id == procedure_id)
        row = self._database.read(lambda on: on.execute(query).one())
        if row.holder != holder:
            raise Superseded(f"procedure {procedure_id} is {row.state} and no longer this process's")
        return State(row.state)

    def save(self, procedure_id: int, *, holder: str, phase: Phase, record: Mapping[str, Any]) -> None:
        """Write down what a gate has said. Raises `Superseded`."""
        values = {"phase": phase.value, "record": json.dumps(record)}
        if not self._write(procedure_id, holder, values):
            self.state(procedure_id, holder=holder)

    def end(self, procedure_id: int, state: State, *, holder: str, error: str | None = None) -> None:
        """Give it back: stopped, completed or rolled back. Nothing happens if it is another's by now."""
        ended = {} if state in OPEN else {"ended_at": database_now()}
        values = {"state": state.value, "error": error and error[:2000], "holder": None, "lease_until": None}
        self._write(procedure_id, holder, values | ended, lease=False)

    def _write(
        self, procedure_id: int, holder: str, values: Mapping[str, Any], *, lease: bool = True
    ) -> bool:
        clocks: dict[str, Any] = {"updated_at": database_now()}
        if lease:
            clocks["lease_until"] = database_now(LEASE_SECONDS)
        mine = (procedures.c.id == procedure_id, procedures.c.holder == holder)
        statement = update(procedures).where(*mine).values(clocks | dict(values))
        return self._database.run(lambda on: on.execute(statement)).rowcount == 1

    # --- by an operator -------------------------------------------------------------------------------

    def pause(self, procedure_id: int) -> bool:
        """Whoever runs it waits at its next step. False if it does not run."""
        return self._switch(procedure_id, State.RUNNING, State.PAUSED)

    def resume(self, procedure_id: int) -> bool:
        """Whoever holds it goes on. False if it was not paused."""
        return self._switch(procedure_id, State.PAUSED, State.RUNNING)

    def abort(self, procedure_id: int, *, reason: str) -> bool:
        """End it where it is. False if it had ended before."""

        def work(on: Connection) -> bool:
            if State(self._locked(on, procedure_id).state) not in OPEN:
                return False
            values = {"state": State.ABORTED.value, "error": reason, "holder": None, "lease_until": None}
            clocks = {"updated_at": database_now(), "ended_at": database_now()}
            on.execute(update(procedures).where(procedures.c.id == procedure_id).values(values | clocks))
            return True

        return self._database.run(work)

    def _switch(self, procedure_id: int, before: State, after: State) -> bool:
        fits = (procedures.c.id == procedure_id, procedures.c.state == before.value)
        statement = update(procedures).where(*fits).values(state=after.value, updated_at=database_now())
        return self._database.run(lambda on: on.execute(statement)).rowcount == 1

    # --- finding --------------------------------------------------------------------------------------

    def get(self, procedure_id: int) -> Procedure:
        """Raises `NotPossible` if there is none."""
        query = select(procedures, database_now().label("now")).where(procedures.c.id == procedure_id)
        row = self._database.read(lambda on: on.execute(query).first())
        if row is None:
            raise NotPossible(f"there is no procedure {procedure_id}")
        left = 0.0 if row.lease_until is None else (row.lease_until - row.now).total_seconds()
        return Procedure(
            procedure_id=row.id,
            plan=ProcedurePlan.of_json(json.loads(row.plan)),
            plan_hash=row.plan_hash,
            state=State(row.state),
            phase=Phase(row.phase),
            record=json.loads(row.record),
            holder=row.holder,
            lease_left_seconds=max(0.0, left),
            error=row.error,
            created_at=row.created_at,
            updated_at=row.updated_at,
            ended_at=row.ended_at,
        )

    def latest(self, states: Iterable[State] = State) -> Procedure | None:
        """The newest procedure in one of these states."""
        fits = procedures.c.state.in_([state.value for state in states])
        query = select(procedures.c.id).where(fits).order_by(procedures.c.id.desc()).limit(1)
        found = self._database.read(lambda on: on.execute(query).scalar())
        return None if found is None else self.get(found)

    def _locked(self, on: Connection, procedure_id: int) -> Any:
        left_over = (procedures.c.lease_until > database_now()).label("left_over")
        query = select(procedures, left_over).where(procedures.c.id == procedure_id).with_for_update()
        row = on.execute(query).first()
        if row is None:
            raise NotPossible(f"there is no procedure {procedure_id}")
        return row
