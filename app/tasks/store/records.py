"""Records: tasks that wait in the lane of their flow, for whoever processes that flow.

A lane is a rank beyond those of the queues. So a record is claimed by the same index and statement as every
task, and neither pollers nor transfers, which know the four queues, ever see one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, func, insert, or_, select
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from app.tasks.database import Database
from app.tasks.errors import DatabaseUnavailable
from app.tasks.model import ACTIVE, FLOW_RANK, NewTask, Status
from app.tasks.routing import LANE_ROUTES
from app.tasks.schema import AnyRow, database_now, flow_execution_logs, flows, task_events, tasks
from app.tasks.store import events
from app.tasks.store.bulk_insert import BulkInsert
from app.tasks.store.lanes import RANK, Lanes, is_a_record
from app.tasks.store.placing import PLACED_COLUMNS, place

KEYS_AT_A_TIME = 5000  # every database takes more parameters than that
ROWS_AT_A_TIME = 500
TRIES = 8


@dataclass(frozen=True, slots=True)
class FlowRun:
    """One run of a flow over records. `mode` is "distributed" or "standard"; times are aware UTC."""

    flow: str
    instance: str
    mode: str
    claimed: int
    completed: int
    failed: int
    error: str | None
    started_at: datetime
    ended_at: datetime


class Records:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._bulk = BulkInsert(database)
        self._lanes = Lanes(database, flows, above=FLOW_RANK)

    # --- lanes ----------------------------------------------------------------------------------------

    def lanes(self) -> dict[str, int]:
        """The lane of each flow that ever had records."""
        return self._lanes.all()

    def lane(self, flow: str) -> int | None:
        """The lane of this flow; None if it never had a record."""
        return self._lanes.find(flow)

    def open_lane(self, flow: str) -> int:
        """The lane of this flow, which is made if there is none."""
        return self._lanes.open(flow)

    # --- births ---------------------------------------------------------------------------------------

    def add(self, lane: int, records: Sequence[NewTask], connection: Connection | None = None) -> int:
        """Insert records that wait in this lane, all or none; whose idempotency key exists is left out.
        Returns how many were new."""
        unique = {record.idempotency_key or record.task_id: record for record in reversed(records)}
        wanted = sorted(unique.values(), key=lambda record: record.task_id)
        if connection is not None:
            return self._add(connection, lane, wanted)
        for _ in range(TRIES):
            try:
                return self._database.run(lambda on: self._add(on, lane, wanted))
            except IntegrityError:
                continue  # somebody adds the same keys just now: ask again which are there
        raise DatabaseUnavailable("others add the same records again and again; try again")

    def _add(self, on: Connection, lane: int, records: Sequence[NewTask]) -> int:
        keys = [record.idempotency_key for record in records if record.idempotency_key is not None]
        present: set[str | None] = set()
        for start in range(0, len(keys), KEYS_AT_A_TIME):
            part = keys[start : start + KEYS_AT_A_TIME]
            query = select(tasks.c.idempotency_key).where(tasks.c.idempotency_key.in_(part))
            present |= set(on.execute(query.with_for_update(read=True)).scalars())
        new = [record for record in records if record.idempotency_key not in present - {None}]
        now = on.execute(select(database_now())).scalar_one()
        self._bulk.insert({(Status.QUEUED, False, lane): [(record, None) for record in new]}, on, now)
        return len(new)

    # --- reading --------------------------------------------------------------------------------------

    def some_open(self, lane: int) -> bool:
        """True if some record of this lane has not ended; looks at no more than one."""
        query = select(tasks.c.id).where(tasks.c.status.in_(ACTIVE), _of(lane)).limit(1)
        return self._database.read(lambda on: on.execute(query).first()) is not None

    def counts(self, lane: int | None = None) -> dict[int, dict[Status, int]]:
        """How many records of this lane, or of each, are in each status; one walk along an index."""
        query = (
            select(RANK, tasks.c.status, func.count())
            .where(tasks.c.status.in_(list(Status)), _of(lane))
            .group_by(RANK, tasks.c.status)
        )
        counts: dict[int, dict[Status, int]] = {}
        for lane, status, number in self._database.read(lambda on: on.execute(query).all()):
            counts.setdefault(lane, {})[status] = number
        return counts

    def unrenewed(self, lane: int, *, within_seconds: float, limit: int) -> list[AnyRow]:
        """Records in processing whose lease is over, or will be within so many seconds, the oldest first:
        (id, name, token, holder, failures, max_retries, lease_until)."""
        return self._processing(lane, tasks.c.lease_until < database_now(within_seconds), limit)

    def orphans(self, lane: int | None, *, older_than_seconds: float, limit: int) -> list[AnyRow]:
        """Records in processing whose lease is over and whose claim is older than so many seconds, as
        `unrenewed` gives them."""
        over = tasks.c.lease_until < database_now()
        old = tasks.c.started_at < database_now(-older_than_seconds)
        return self._processing(lane, and_(over, old), limit)

    def count_orphans(self, *, older_than_seconds: float) -> int:
        """How many `orphans` there are, of all lanes."""
        query = select(func.count()).where(
            tasks.c.status == Status.PROCESSING,
            _of(None),
            tasks.c.lease_until < database_now(),
            tasks.c.started_at < database_now(-older_than_seconds),
        )
        return self._database.read(lambda on: int(on.execute(query).scalar_one()))

    def _processing(self, lane: int | None, condition: ColumnElement[bool], limit: int) -> list[AnyRow]:
        query = (
            select(
                *(tasks.c.id, tasks.c.name, tasks.c.token, tasks.c.holder),
                *(tasks.c.failures, tasks.c.max_retries, tasks.c.lease_until),
            )
            .where(tasks.c.status == Status.PROCESSING, _of(lane), condition)
            .order_by(tasks.c.id)
            .limit(limit)
        )
        return self._database.read(lambda on: list[AnyRow](on.execute(query)))

    def page(self, lane: int, *, after: int, limit: int) -> list[AnyRow]:
        """Records of a lane in the order of their ids: (id, idempotency_key, payload, status, ended_at)."""
        columns = (tasks.c.id, tasks.c.idempotency_key, tasks.c.payload, tasks.c.status, tasks.c.ended_at)
        query = select(*columns).where(RANK == lane, tasks.c.id > after).order_by(tasks.c.id).limit(limit)
        return self._database.read(lambda on: list[AnyRow](on.execute(query)))

    # --- many at a time ---------------------------------------------------------------------------------

    def resettable(self, lane: int, *, max_failures: int) -> int:
        """How many records `reset` would let wait again."""
        query = select(func.count()).where(*_resettable(lane, max_failures))
        return self._database.read(lambda on: int(on.execute(query).scalar_one()))

    def reset(self, lane: int, *, max_failures: int) -> int:
        """Let FAILED records with fewer failures wait again; the number of their failures stays. Those that
        must not repeat by themselves (no retry allowed) stay as they are. Returns how many waited again."""
        total, after = 0, 0
        while True:
            rows = self._database.run(lambda on, after=after: _reset(on, lane, max_failures, after))  # type: ignore[misc]
            total += len(rows)
            if len(rows) < ROWS_AT_A_TIME:
                return total
            after = rows[-1].id

    def purgeable(self, lane: int | None, status: Status, *, older_than_seconds: float, failures: int) -> int:
        """How many records `purge` would delete."""
        query = select(func.count()).where(*_purgeable(lane, status, older_than_seconds, failures))
        return self._database.read(lambda on: int(on.execute(query).scalar_one()))

    def purge(self, lane: int | None, status: Status, *, older_than_seconds: float, failures: int = 0) -> int:
        """Delete records that ended in this status more than so many seconds ago, with at least so many
        failures. Returns how many."""
        total = 0
        for one in [lane] if lane is not None else self.lanes().values():
            conditions = _purgeable(one, status, older_than_seconds, failures)
            after = 0
            while ids := self._ids(conditions, after):
                total += self._database.run(lambda on, c=conditions, i=ids: _delete(on, c, i))  # type: ignore[misc]
                after = ids[-1]
        return total

    def _ids(self, conditions: Sequence[ColumnElement[bool]], after: int) -> list[int]:
        """The next records in their lane for which all of this holds: each one is looked at once, and none
        locked that stays."""
        query = (
            select(tasks.c.id)
            .where(*conditions, tasks.c.confirmed_in == 0, tasks.c.id > after)
            .order_by(tasks.c.id)
            .limit(ROWS_AT_A_TIME)
        )
        return self._database.read(lambda on: list(on.execute(query).scalars()))

    # --- the log of runs --------------------------------------------------------------------------------

    def log_run(self, run: FlowRun) -> None:
        """Keep the figures of a run."""
        row: Mapping[str, Any] = {
            "flow_name": run.flow,
            "flow_instance_id": run.instance,
            "mode": run.mode,
            "records_claimed": run.claimed,
            "records_completed": run.completed,
            "records_failed": run.failed,
            "error_message": run.error,
            "started_at": run.started_at,
            "ended_at": run.ended_at,
        }
        self._database.write_one(lambda on: on.execute(insert(flow_execution_logs), row))


def _of(lane: int | None) -> ColumnElement[bool]:
    """Records of this lane, or of all."""
    return is_a_record() if lane is None else RANK == lane


def _resettable(lane: int, max_failures: int) -> tuple[ColumnElement[bool], ...]:
    return (
        tasks.c.status == Status.FAILED,
        _of(lane),
        tasks.c.failures < max_failures,
        or_(tasks.c.max_retries.is_(None), tasks.c.max_retries > 0),
    )


def _reset(on: Connection, lane: int, max_failures: int, after: int) -> list[AnyRow]:
    query = (
        select(*PLACED_COLUMNS)
        .where(*_resettable(lane, max_failures), tasks.c.id > after)
        .order_by(tasks.c.id)
        .limit(ROWS_AT_A_TIME)
        .with_for_update()
    )
    rows = list[AnyRow](on.execute(query))
    if rows:
        events.record(on, "reset", [row.id for row in rows])
        again = {"error": None, "result": None, "ended_at": None, "started_at": None}
        place(on, rows, LANE_ROUTES, **again)
    return rows


def _delete(on: Connection, conditions: Sequence[ColumnElement[bool]], among: Sequence[int]) -> int:
    query = select(tasks.c.id).where(tasks.c.id.in_(among), *conditions).with_for_update(skip_locked=True)
    ids = list(on.execute(query).scalars())
    if ids:
        on.execute(tasks.delete().where(tasks.c.id.in_(ids)))
        on.execute(task_events.delete().where(task_events.c.task_id.in_(ids)))
    return len(ids)


def _purgeable(
    lane: int | None, status: Status, older_than_seconds: float, failures: int
) -> tuple[ColumnElement[bool], ...]:
    return (
        tasks.c.status == status,
        _of(lane),
        tasks.c.ended_at < database_now(-older_than_seconds),
        tasks.c.failures >= failures,
    )
