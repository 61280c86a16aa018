"""The figures of records: every number that a page, a report or an alert tells about them comes from here.

Each method is one statement, whose cost grows with what it counts and never with the number of flows or of
answers. Times are judged by the database's clock. It writes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Float, Integer, String, case, func, select, type_coerce, union_all
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from app.tasks.database import Database
from app.tasks.model import Status
from app.tasks.schema import AnyRow, database_now, flow_execution_logs, tasks
from app.tasks.store.lanes import is_a_record

HEAD_ROWS = 501
HEADS_AT_A_TIME = 100
RUNS_LOOKED_AT = 5000
ERROR_CHARACTERS = 300
ENDS = (Status.COMPLETED, Status.FAILED)

_LANE: ColumnElement[int] = type_coerce(tasks.c.priority, Integer)


class _seconds(FunctionElement[float]):  # noqa: N801 (reads as an SQL function)
    """Seconds from the first moment to the second."""

    type = Float()
    inherit_cache = True
    name = "seconds_between"


@compiles(_seconds)
def _seconds_mysql(element: Any, compiler: Any, **kw: Any) -> str:
    start, end = (compiler.process(clause, **kw) for clause in element.clauses)
    return f"(TIMESTAMPDIFF(MICROSECOND, {start}, {end}) / 1000000.0)"


@compiles(_seconds, "postgresql")
def _seconds_postgresql(element: Any, compiler: Any, **kw: Any) -> str:
    start, end = (compiler.process(clause, **kw) for clause in element.clauses)
    return f"CAST(EXTRACT(EPOCH FROM {end} - {start}) AS DOUBLE PRECISION)"


@compiles(_seconds, "sqlite")
def _seconds_sqlite(element: Any, compiler: Any, **kw: Any) -> str:
    start, end = (compiler.process(clause, **kw) for clause in element.clauses)
    return f"((julianday({end}) - julianday({start})) * 86400.0)"


class _hour(FunctionElement[str]):  # noqa: N801
    """The hour of a moment, UTC, as text: 2026-01-31 09."""

    type = String()
    inherit_cache = True
    name = "hour_of"


@compiles(_hour)
def _hour_mysql(element: Any, compiler: Any, **kw: Any) -> str:
    # text that SQLAlchemy hands on has its percent signs doubled
    return f"DATE_FORMAT({compiler.process(element.clauses, **kw)}, '%%Y-%%m-%%d %%H')"


@compiles(_hour, "postgresql")
def _hour_postgresql(element: Any, compiler: Any, **kw: Any) -> str:
    return f"to_char({compiler.process(element.clauses, **kw)}, 'YYYY-MM-DD HH24')"


@compiles(_hour, "sqlite")
def _hour_sqlite(element: Any, compiler: Any, **kw: Any) -> str:
    return f"strftime('%Y-%m-%d %H', {compiler.process(element.clauses, **kw)})"


@dataclass(frozen=True, slots=True)
class Held:
    """What one owner holds of one flow. An overdue record's lease is over; an orphan was claimed longer ago
    than the limit besides."""

    lane: int
    holder: str
    records: int
    overdue: int
    orphans: int
    oldest_claim_seconds: float


@dataclass(frozen=True, slots=True)
class Ended:
    """Records of one flow that ended in one status in one hour (aware UTC); `lately` of them in the last
    3600 seconds. Seconds are from claim to end."""

    lane: int
    status: Status
    hour: datetime
    records: int
    lately: int
    seconds: float
    slowest_seconds: float


@dataclass(frozen=True, slots=True)
class Waiting:
    """The head of a flow's lane: how long its first waits at most, and how many of the first 501 have waited
    longer than was asked for."""

    lane: int
    oldest_seconds: float
    long_waiting: int


@dataclass(frozen=True, slots=True)
class Runs:
    """What the runs that ended in a window did: by how many instances, for how many seconds in sum."""

    instances: int
    runs: int
    records: int
    seconds: float


@dataclass(frozen=True, slots=True)
class LastRun:
    """What the last run of a flow said. None claimed, with an error: it could claim none."""

    instance: str
    claimed: int
    error: str | None


class RecordFigures:
    def __init__(self, database: Database) -> None:
        self._database = database

    def held(self, *, orphaned_after_seconds: float) -> list[Held]:
        """What is in processing, by flow and owner."""
        overdue = tasks.c.lease_until < database_now()
        old = tasks.c.started_at < database_now(-orphaned_after_seconds)
        age = _seconds(tasks.c.started_at, database_now())
        query = (
            select(
                *(_LANE, tasks.c.holder, func.count(), _count_of(overdue)),
                *(_count_of(overdue & old), func.coalesce(func.max(age), 0.0)),
            )
            .where(tasks.c.status == Status.PROCESSING, is_a_record())
            .group_by(_LANE, tasks.c.holder)
        )
        return [
            Held(row[0], row[1] or "", row[2], int(row[3]), int(row[4]), max(0.0, float(row[5])))
            for row in self._rows(query)
        ]

    def ended(self, *, hours: float) -> list[Ended]:
        """What ended in the last so many hours, by flow, status and hour."""
        took = _seconds(tasks.c.started_at, tasks.c.ended_at)
        hour = _hour(tasks.c.ended_at)
        query = (
            select(
                *(_LANE, tasks.c.status, hour, func.count()),
                _count_of(tasks.c.ended_at >= database_now(-3600)),
                *(func.coalesce(func.sum(took), 0.0), func.coalesce(func.max(took), 0.0)),
            )
            .where(*_ended_within(ENDS, hours))
            .group_by(_LANE, tasks.c.status, hour)
        )
        return [
            Ended(
                *(row[0], row[1], datetime.strptime(row[2], "%Y-%m-%d %H").replace(tzinfo=UTC), row[3]),
                *(int(row[4]), float(row[5]), float(row[6])),
            )
            for row in self._rows(query)
        ]

    def errors(self, *, hours: float, limit: int) -> list[tuple[int, str, int]]:
        """What records failed of in the last so many hours: (lane, message, how many), the most frequent
        first. Messages count as one if their first 300 characters are the same."""
        message = func.substr(func.coalesce(tasks.c.error, ""), 1, ERROR_CHARACTERS).label("message")
        number = func.count().label("number")
        query = (
            select(_LANE.label("lane"), message, number)
            .where(*_ended_within([Status.FAILED], hours))
            .group_by(_LANE, message)
            .order_by(number.desc(), message, _LANE)
            .limit(limit)
        )
        return [(row[0], row[1], row[2]) for row in self._rows(query)]

    def overlong(self, *, seconds: float, limit: int) -> list[tuple[int, int, float]]:
        """Records that a living owner has had for longer than so many seconds: (id, lane, seconds)."""
        query = (
            select(tasks.c.id, _LANE, _seconds(tasks.c.started_at, database_now()))
            .where(
                tasks.c.status == Status.PROCESSING,
                is_a_record(),
                tasks.c.started_at < database_now(-seconds),
                tasks.c.lease_until >= database_now(),
            )
            .order_by(tasks.c.started_at, tasks.c.id)
            .limit(limit)
        )
        return [(row[0], row[1], float(row[2])) for row in self._rows(query)]

    def waiting(self, lanes: Sequence[int], *, longer_than_seconds: float) -> list[Waiting]:
        """How long records wait at the head of each of these lanes; a statement for each hundred of them."""
        found: list[Waiting] = []
        for start in range(0, len(lanes), HEADS_AT_A_TIME):
            parts = [_head(lane) for lane in lanes[start : start + HEADS_AT_A_TIME]]
            heads = union_all(*parts).subquery()
            age = _seconds(heads.c.waiting_since, database_now())
            query = select(heads.c.lane, func.max(age), _count_of(age > longer_than_seconds)).group_by(
                heads.c.lane
            )
            found += [Waiting(row[0], max(0.0, float(row[1])), int(row[2])) for row in self._rows(query)]
        return found

    def runs(self, *, hours: float) -> Runs:
        """What the log of runs says of the last so many hours, of its last 5000 entries at most."""
        log = flow_execution_logs
        latest = select(log).order_by(log.c.id.desc()).limit(RUNS_LOOKED_AT).subquery()
        query = select(
            func.count(latest.c.flow_instance_id.distinct()),
            func.count(),
            func.coalesce(func.sum(latest.c.records_completed + latest.c.records_failed), 0),
            func.coalesce(func.sum(_seconds(latest.c.started_at, latest.c.ended_at)), 0.0),
        ).where(
            latest.c.ended_at >= database_now(-hours * 3600),
            latest.c.mode == "distributed",
            latest.c.records_claimed > 0,
        )
        (row,) = self._rows(query)
        return Runs(row[0], row[1], int(row[2]), float(row[3]))

    def last_runs(self, names: Sequence[str]) -> dict[str, LastRun]:
        """The last line of the log of runs of each of these flows."""
        log = flow_execution_logs
        last = select(func.max(log.c.id)).where(log.c.flow_name.in_(names)).group_by(log.c.flow_name)
        query = select(log.c.flow_name, log.c.flow_instance_id, log.c.records_claimed, log.c.error_message)
        rows = self._rows(query.where(log.c.id.in_(last.scalar_subquery()))) if names else []
        return {row[0]: LastRun(row[1], row[2], row[3]) for row in rows}

    def _rows(self, query: Any) -> list[AnyRow]:
        return self._database.read(lambda on: list[AnyRow](on.execute(query)))


def _count_of(condition: ColumnElement[bool]) -> ColumnElement[int]:
    return func.coalesce(func.sum(case((condition, 1), else_=0)), 0)


def _ended_within(statuses: Sequence[Status], hours: float) -> tuple[ColumnElement[bool], ...]:
    since = database_now(-hours * 3600)
    return (tasks.c.status.in_(statuses), is_a_record(), tasks.c.ended_at >= since)


def _head(lane: int) -> Any:
    """The first records of a lane, in order of service: one walk along the index."""
    rows = (
        select(_LANE.label("lane"), tasks.c.waiting_since)
        .where(tasks.c.status == Status.QUEUED, _LANE == lane, tasks.c.confirmed_in == 0)
        .order_by(tasks.c.id)
        .limit(HEAD_ROWS)
        .subquery()
    )
    return select(rows.c.lane, rows.c.waiting_since)


def named(lanes: Mapping[str, int], lane: int) -> str:
    """The flow of a lane; one that nobody knows is told by its number."""
    return next((name for name, number in lanes.items() if number == lane), f"lane {lane}")
