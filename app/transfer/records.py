"""The record of each transfer: its state, who runs it, what happened to it. Its batches are in `batches`.

Whoever runs a transfer holds it by name and lease; every write of a holder to it is guarded by the name,
which goes when the transfer ends or fails. A priority belongs to one transfer at a time, by a column of its
routing row.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, Select, insert, select, update
from sqlalchemy.engine import Connection

from app.tasks.database import Database
from app.tasks.model import Priority, Track
from app.tasks.schema import database_now, routing, transfer_events, transfers
from app.tasks.store.routing import change_routing, hold_routing
from app.transfer.errors import HolderLives, NotPossible, PriorityTaken, Superseded
from app.transfer.plans import Direction, Limits, Plan

LEASE_SECONDS = 15.0
REASON_CHARACTERS = 200  # its column's; a server's own words may be longer


class State(StrEnum):
    RUNNING = "running"
    PAUSED = "paused"
    ABORTED = "aborted"
    COMPLETED = "completed"
    FAILED = "failed"


OPEN = (State.RUNNING, State.PAUSED, State.FAILED)  # can go on: its priorities are still its own


@dataclass(frozen=True, slots=True)
class Transfer:
    """A transfer as its row says. `lease_left_seconds` is by the database's clock."""

    transfer_id: int
    plan: Plan
    plan_hash: str
    limits: Limits
    state: State
    phase: str
    holder: str | None
    lease_left_seconds: float
    throttle_reason: str | None
    error: str | None
    cursors: Mapping[str, int]
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None


class TransferRecords:
    def __init__(self, database: Database) -> None:
        self._database = database

    # --- beginning and ending -----------------------------------------------------------------------

    def begin(self, plan: Plan, limits: Limits, *, holder: str, take_over: bool = False) -> Transfer:
        """Record a new transfer, give it its priorities, and change the routing if the rows follow a flip.

        A dispatch brings the rows ahead of the flip. A recall flips first, and fences what is in Redis if all
        of a priority comes back. An import flips nothing. Raises `PriorityTaken`; with `take_over` the other
        transfer is aborted.
        """

        def work(on: Connection) -> int:
            self._free_priorities(on, plan, take_over=take_over)
            row = {
                "direction": plan.direction.value,
                "state": State.RUNNING.value,
                "phase": "beginning",
                "plan": json.dumps(plan.to_json()),
                "plan_hash": plan.hash,
                "limits": json.dumps(asdict(limits)),
                "cursors": "{}",
                "holder": holder,
            }
            clocks = {
                "lease_until": database_now(LEASE_SECONDS),
                **dict.fromkeys(("created_at", "started_at", "updated_at"), database_now()),
            }
            inserted = on.execute(insert(transfers).values(**row, **clocks))
            transfer_id = int((inserted.inserted_primary_key or (0,))[0])
            self._first_routing(on, transfer_id, plan)
            _note(on, transfer_id, "begun", holder=holder, plan=plan.hash)
            return transfer_id

        return self.get(self._database.run(work))

    def _free_priorities(self, on: Connection, plan: Plan, *, take_over: bool) -> None:
        # locked whether they are free or not: of two that begin at once the second finds the first
        owners = select(routing.c.transfer_id).where(routing.c.priority.in_(list(plan.targets)))
        found = on.execute(owners.order_by(routing.c.priority).with_for_update()).scalars()
        for transfer_id in sorted({transfer_id for transfer_id in found if transfer_id is not None}):
            other = on.execute(select(transfers).where(transfers.c.id == transfer_id)).one()
            if not take_over:
                raise PriorityTaken(transfer_id=transfer_id, state=other.state, holder=other.holder)
            self._close(on, transfer_id, State.ABORTED, "taken over by another transfer")

    def _first_routing(self, on: Connection, transfer_id: int, plan: Plan) -> None:
        for priority, target in plan.targets.items():
            values: dict[str, Any] = {"transfer_id": transfer_id}
            if plan.direction is Direction.RECALL:
                names = dict(target.name_percents)
                values |= {"redis_percent": target.redis_percent, "name_percents": names}
                if plan.scope.is_whole:
                    values["fenced_track"] = Track.REDIS.value
            elif plan.direction is Direction.DISPATCH:
                values["moving_to"] = Track.REDIS.value
            change_routing(on, [priority], **values)

    def flip(self, transfer: Transfer, priority: Priority, *, holder: str) -> None:
        """The routing of a priority becomes what the plan says: from now on no row of the old track appears.

        Raises `Superseded`.
        """
        target = transfer.plan.targets[priority]

        def work(on: Connection) -> None:
            owner = select(routing.c.transfer_id).where(routing.c.priority == priority).with_for_update()
            if on.execute(owner).scalar_one() != transfer.transfer_id:
                raise Superseded(f"transfer {transfer.transfer_id} no longer has {priority.value}")
            self.state(transfer.transfer_id, holder=holder, on=on)
            change_routing(
                on,
                [priority],
                redis_percent=target.redis_percent,
                name_percents=dict(target.name_percents),
                moving_to=None,
            )
            _note(on, transfer.transfer_id, "flipped", priority=priority.value, percent=target.redis_percent)

        self._database.run(work)

    def complete(self, transfer_id: int, *, holder: str) -> None:
        """The proof is there: nothing is left. Raises `Superseded`."""

        def work(on: Connection) -> None:
            if self._locked(on, transfer_id).holder != holder:
                raise Superseded(f"transfer {transfer_id} is no longer this process's")
            self._close(on, transfer_id, State.COMPLETED, None)

        self._database.run(work)

    def abort(self, transfer_id: int, *, reason: str) -> bool:
        """End it where it is: the routing stays as it is now, and the sweeper brings every row to where that
        says. False if it had ended before."""

        def work(on: Connection) -> bool:
            if State(self._locked(on, transfer_id).state) not in OPEN:
                return False
            self._close(on, transfer_id, State.ABORTED, reason)
            return True

        return self._database.run(work)

    def _close(self, on: Connection, transfer_id: int, state: State, error: str | None) -> None:
        values = {"state": state.value, "error": error, "holder": None, "lease_until": None}
        values |= {"throttle_reason": None, "phase": state.value}
        clocks = {"updated_at": database_now(), "ended_at": database_now()}
        on.execute(update(transfers).where(transfers.c.id == transfer_id).values(values | clocks))
        own = select(routing.c.priority).where(routing.c.transfer_id == transfer_id)
        freed = {"transfer_id": None, "moving_to": None, "fenced_track": None}
        change_routing(on, list(on.execute(own).scalars()), **freed)
        _note(on, transfer_id, state.value, **({"reason": error} if error else {}))

    # --- state --------------------------------------------------------------------------------------

    def pause(self, transfer_id: int) -> bool:
        """Whoever runs it stops within a second, and waits. False if it does not run."""
        return self._switch(transfer_id, State.RUNNING, State.PAUSED)

    def resume(self, transfer_id: int) -> bool:
        """Whoever holds it goes on. False if it was not paused."""
        return self._switch(transfer_id, State.PAUSED, State.RUNNING)

    def fail(self, transfer_id: int, *, holder: str, error: str) -> None:
        """It stopped without being done; it keeps its priorities and can be resumed."""

        def work(on: Connection) -> None:
            mine = (transfers.c.id == transfer_id, transfers.c.holder == holder)
            values = {"state": State.FAILED.value, "error": error[:2000], "holder": None, "lease_until": None}
            done = on.execute(update(transfers).where(*mine).values(values | {"updated_at": database_now()}))
            if done.rowcount:
                _note(on, transfer_id, "failed", error=error[:500])

        self._database.run(work)

    def _switch(self, transfer_id: int, before: State, after: State) -> bool:
        def work(on: Connection) -> bool:
            fits = (transfers.c.id == transfer_id, transfers.c.state == before.value)
            values = {"state": after.value, "updated_at": database_now()}
            changed = on.execute(update(transfers).where(*fits).values(values)).rowcount == 1
            if changed:
                _note(on, transfer_id, after.value)
            return changed

        return self._database.run(work)

    def take(
        self,
        transfer_id: int,
        *,
        holder: str,
        is_dead: Callable[[str], bool],
        limits: Limits | None = None,
    ) -> Transfer:
        """Become the holder of an open transfer whose holder is gone: lease over, or death proven.

        It runs from now on, whatever its state was, with the `limits` that it had, or with these. Waits for
        batches that are being marked; the holder before, if it was only frozen, marks no other. Raises
        `NotPossible` for an ended one, `HolderLives`.
        """

        def work(on: Connection) -> None:
            row = self._locked(on, transfer_id)
            if State(row.state) not in OPEN:
                raise NotPossible(f"transfer {transfer_id} is {row.state}: there is nothing to resume")
            alive = row.holder is not None and row.holder != holder and row.left_over
            if alive and not is_dead(row.holder):
                raise HolderLives(transfer_id=transfer_id, holder=row.holder)
            own = select(routing.c.priority).where(routing.c.transfer_id == transfer_id)
            on.execute(own.order_by(routing.c.priority).with_for_update()).all()
            values = {"holder": holder, "state": State.RUNNING.value, "error": None}
            values |= {"limits": json.dumps(asdict(limits))} if limits else {}
            clocks = {"lease_until": database_now(LEASE_SECONDS), "updated_at": database_now()}
            on.execute(update(transfers).where(transfers.c.id == transfer_id).values(values | clocks))
            _note(on, transfer_id, "resumed", holder=holder, was=row.state, found=row.holder)

        self._database.run(work)
        return self.get(transfer_id)

    def beat(
        self,
        transfer_id: int,
        *,
        holder: str,
        phase: str,
        throttle_reason: str | None,
        cursors: Mapping[str, int],
    ) -> State:
        """Renew the lease and say where the run is. Returns the state that somebody may have asked for.

        Raises `Superseded` if the transfer is not this holder's any more.
        """
        reason = throttle_reason and throttle_reason[:REASON_CHARACTERS]
        values = {"phase": phase, "throttle_reason": reason, "cursors": json.dumps(dict(cursors))}
        clocks = {"lease_until": database_now(LEASE_SECONDS), "updated_at": database_now()}
        mine = (transfers.c.id == transfer_id, transfers.c.holder == holder)
        statement = update(transfers).where(*mine).values(values | clocks)
        self._database.run(lambda on: on.execute(statement))
        return self.state(transfer_id, holder=holder)

    def touch(self, transfer_id: int, priority: Priority, *, holder: str) -> None:
        """What a submission asks of the database: the routing, held, a small write, and its commit."""
        touched = update(transfers).where(transfers.c.id == transfer_id, transfers.c.holder == holder)

        def work(on: Connection) -> None:
            hold_routing(on, [priority])
            on.execute(touched.values(updated_at=database_now()))

        self._database.run(work)

    def state(self, transfer_id: int, *, holder: str, on: Connection | None = None) -> State:
        """What somebody may have asked for since. Raises `Superseded` as `beat`.

        In a transaction `on` that holds the routing of a priority of the transfer, the holder stays the same
        until its end.
        """
        columns = (transfers.c.state, transfers.c.holder, transfers.c.error)
        query = select(*columns).where(transfers.c.id == transfer_id)

        def work(on: Connection) -> Any:
            return on.execute(query).one()

        row = self._database.read(work) if on is None else work(on)
        if row.holder != holder:
            why = f": {row.error}" if row.error else ""
            raise Superseded(f"transfer {transfer_id} is {row.state} and no longer this process's{why}")
        return State(row.state)

    # --- events -------------------------------------------------------------------------------------

    def note(self, transfer_id: int, kind: str, **detail: Any) -> None:
        """Record an event. `detail` is shown to operators."""
        self._database.run(lambda on: _note(on, transfer_id, kind, **detail))

    def events(self, transfer_id: int) -> list[tuple[datetime, str, Mapping[str, Any]]]:
        query = (
            select(transfer_events)
            .where(transfer_events.c.transfer_id == transfer_id)
            .order_by(transfer_events.c.id)
        )
        rows = self._database.read(lambda on: on.execute(query).all())
        return [(row.at, row.kind, json.loads(row.detail)) for row in rows]

    # --- finding ------------------------------------------------------------------------------------

    def get(self, transfer_id: int) -> Transfer:
        """Raises `NotPossible` if there is none."""
        found = self._found(_DESCRIBED.where(transfers.c.id == transfer_id))
        if not found:
            raise NotPossible(f"there is no transfer {transfer_id}")
        return found[0]

    def latest(self, direction: Direction | None = None) -> Transfer | None:
        """The newest transfer of this direction, or of any."""
        query = _DESCRIBED if direction is None else _DESCRIBED.where(_goes(direction))
        return next(iter(self._found(query.order_by(transfers.c.id.desc()).limit(1))), None)

    def open_ones(self, direction: Direction) -> list[Transfer]:
        """Those of this direction that can go on, the newest first."""
        query = _DESCRIBED.where(_goes(direction), transfers.c.state.in_([state.value for state in OPEN]))
        return self._found(query.order_by(transfers.c.id.desc()))

    def _found(self, query: Select[Any]) -> list[Transfer]:
        return [_transfer(row) for row in self._database.read(lambda on: on.execute(query).all())]

    def _locked(self, on: Connection, transfer_id: int) -> Any:
        left_over = (transfers.c.lease_until > database_now()).label("left_over")
        query = select(transfers, left_over).where(transfers.c.id == transfer_id).with_for_update()
        row = on.execute(query).first()
        if row is None:
            raise NotPossible(f"there is no transfer {transfer_id}")
        return row


_DESCRIBED = select(transfers, database_now().label("now"))


def _goes(direction: Direction) -> ColumnElement[bool]:
    return transfers.c.direction == direction.value


def _note(on: Connection, transfer_id: int, kind: str, **detail: Any) -> None:
    text = json.dumps(detail, sort_keys=True, default=str)
    values = {"transfer_id": transfer_id, "at": database_now(), "kind": kind, "detail": text}
    on.execute(insert(transfer_events).values(values))


def _transfer(row: Any) -> Transfer:
    left = 0.0 if row.lease_until is None else (row.lease_until - row.now).total_seconds()
    return Transfer(
        transfer_id=row.id,
        plan=Plan.of_json(json.loads(row.plan)),
        plan_hash=row.plan_hash,
        limits=Limits(**json.loads(row.limits)),
        state=State(row.state),
        phase=row.phase,
        holder=row.holder,
        lease_left_seconds=max(0.0, left),
        throttle_reason=row.throttle_reason,
        error=row.error,
        cursors=json.loads(row.cursors),
        created_at=row.created_at,
        started_at=row.started_at,
        ended_at=row.ended_at,
    )
