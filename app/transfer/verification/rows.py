"""What the table says, read for the proof: totals of stretches of ids, and single rows.

Own statements, none of the store's. A stretch is added up by the database, or, where it must not compute
digests, row by row in this process. Raises `DatabaseUnavailable`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import CursorResult, bindparam, text
from sqlalchemy.engine import Connection

from app.tasks.database import Database
from app.tasks.schema import UtcDateTime
from app.transfer.digests import KEPT, DigestSql, TimeLimits, digest_of_kept, summed, ticket_digest

NO_WINDOW = 2**63 - 1
RANKS = range(4)
IDS_AT_ONCE = 1_000
PAYLOADS_AT_ONCE = 500
SILENT_SECONDS = 30.0
NAME_PLACE = KEPT.index("name") + 1  # so many of the kept columns say what a ticket must

DISPATCHED = "DISPATCHED"


@dataclass(slots=True)
class Totals:
    """A stretch of rows, added up. Rows beyond a window's start have no part in `tickets`."""

    rows: int = 0
    row_sum: int = 0
    completed: int = 0
    completed_sum: int = 0
    statuses: dict[tuple[str, int], int] = field(default_factory=dict)  # by status and rank
    tickets: dict[int, tuple[int, int]] = field(default_factory=dict)  # by rank: count and sum

    def add(self, status: str, rank: int, rows: int, row_sum: int) -> None:
        self.rows += rows
        self.row_sum += row_sum
        self.statuses[status, rank] = self.statuses.get((status, rank), 0) + rows
        if status == "COMPLETED":
            self.completed += rows
            self.completed_sum += row_sum


@dataclass(frozen=True, slots=True)
class RowState:
    """A row as the proof needs it. `waiting_at`: when its wait began; `waited`: seconds since then."""

    task_id: int
    status: str
    epoch: int
    rank: int
    attempt: int
    timeout_seconds: int
    waiting_at: float
    waited: float

    @property
    def digest(self) -> int:
        """What its ticket must say."""
        return ticket_digest(self.task_id, self.epoch, self.rank, self.timeout_seconds)


class RowReader:
    """The table `tasks` of one database. `starts`, by rank, says where rows may be without a ticket."""

    def __init__(self, database: Database, limits: TimeLimits, *, in_database: bool = True) -> None:
        self._database = database
        self._limits = limits
        self._in_database = in_database
        self._sql = DigestSql(database.kind)
        self._totals: dict[bool, Any] = {}

    def count(self) -> int:
        """How many rows there are."""
        query = text("SELECT COUNT(*) FROM tasks")
        return int(self._database.read(lambda on: on.execute(query).scalar_one()))

    def stretch_end(self, after: int, rows: int) -> int | None:
        """The id of the `rows`-th row behind `after`; None if fewer are left."""
        query = text("SELECT id FROM tasks WHERE id > :after ORDER BY id LIMIT 1 OFFSET :skipped")
        values = {"after": after, "skipped": rows - 1}
        found = self._database.read(lambda on: on.execute(query, values).scalar())
        return None if found is None else int(found)

    def totals(self, after: int, last: int, starts: Mapping[int, int], *, digests: bool) -> Totals:
        """The rows with `after` < id <= `last`. `digests`: with the sum of what must not change, too."""
        values = {"after": after, "last": last}
        values |= {f"start_{rank}": starts.get(rank, NO_WINDOW) for rank in RANKS}
        if not self._in_database:
            return self._added_here(values, starts, digests=digests)
        query, own = self._totals_query(digests=digests)

        def work(on: Connection) -> Totals:
            self._sql.prepare(on)
            return _added_up(on.execute(query, values | own))

        return self._database.read(work)

    def _totals_query(self, *, digests: bool) -> tuple[Any, dict[str, Any]]:
        """Per status and rank: rows, sum of their digests, tickets due and theirs."""
        if digests not in self._totals:
            timeout, values = self._sql.time_limit(self._limits)
            whens = " ".join(f"WHEN {rank} THEN :start_{rank}" for rank in RANKS)
            due = f"status = '{DISPATCHED}' AND id < CASE priority {whens} END"
            # a row too long for the database's functions adds nothing: its stretch is opened then
            row = self._sql.summed(self._sql.row()) if digests else "0"
            statement = f"""
                SELECT status, priority, COUNT(*), SUM({row}),
                       SUM(CASE WHEN {due} THEN 1 ELSE 0 END),
                       SUM(CASE WHEN {due} THEN {self._sql.ticket(timeout)} ELSE 0 END)
                FROM tasks WHERE id > :after AND id <= :last
                GROUP BY status, priority"""  # noqa: S608 - our own words only
            self._totals[digests] = text(statement), values
        found: tuple[Any, dict[str, Any]] = self._totals[digests]
        return found

    def _added_here(self, values: Mapping[str, int], starts: Mapping[int, int], *, digests: bool) -> Totals:
        as_text = {"created_at": f"{self._sql.time('created_at')} AS created_at"}
        wanted = KEPT if digests else KEPT[:NAME_PLACE]
        columns = ", ".join(["status", "epoch", *(as_text.get(name, name) for name in wanted)])
        total = Totals()
        for status, epoch, *of_row in self._paged(columns, values["after"], values["last"]):
            task_id, rank, _, own_limit, _, name = of_row[:NAME_PLACE]
            total.add(status, rank, 1, summed(digest_of_kept(of_row)) if digests else 0)
            if status == DISPATCHED and task_id < starts.get(rank, NO_WINDOW):
                count, of_tickets = total.tickets.get(rank, (0, 0))
                ticket = ticket_digest(task_id, epoch, rank, self._limits.of(name, rank, own_limit))
                total.tickets[rank] = (count + 1, of_tickets + ticket)
        return total

    def _paged(self, columns: str, after: int, last: int) -> Iterator[Any]:
        """Rows of a stretch with their payloads, which may be long: a few at a time. `id` is the third."""
        query = text(
            f"SELECT {columns} FROM tasks WHERE id > :after AND id <= :last"  # noqa: S608
            " ORDER BY id LIMIT :rows"
        )
        while True:
            values = {"after": after, "last": last, "rows": PAYLOADS_AT_ONCE}
            rows = self._database.read(lambda on, values=values: on.execute(query, values).all())  # type: ignore[misc]
            yield from rows
            if len(rows) < PAYLOADS_AT_ONCE:
                return
            after = int(rows[-1][2])

    # --- single rows --------------------------------------------------------------------------------

    def dispatched(self, after: int, last: int, starts: Mapping[int, int]) -> list[RowState]:
        """Those of a stretch that must have a ticket."""
        where = f"id > :after AND id <= :last AND status = '{DISPATCHED}'"
        states = self._states(where, {"after": after, "last": last})
        return [state for state in states if state.task_id < starts.get(state.rank, NO_WINDOW)]

    def left_behind(self, after: int, last: int, status: str, ranks: Iterable[int]) -> list[int]:
        """Ids of rows of a stretch that wait in this status, of these priorities."""
        query = text(
            "SELECT id FROM tasks WHERE id > :after AND id <= :last"
            " AND status = :status AND priority IN :ranks"
        ).bindparams(bindparam("ranks", expanding=True))
        values = {"after": after, "last": last, "status": status, "ranks": list(ranks)}
        return self._database.read(lambda on: [int(row[0]) for row in on.execute(query, values)])

    def states(self, ids: Iterable[int]) -> dict[int, RowState]:
        """The rows of these ids that exist."""
        found: dict[int, RowState] = {}
        ordered = sorted(ids)
        for start in range(0, len(ordered), IDS_AT_ONCE):
            part = ordered[start : start + IDS_AT_ONCE]
            found |= {state.task_id: state for state in self._states("id IN :ids", {"ids": part})}
        return found

    def _states(self, where: str, values: Mapping[str, Any]) -> list[RowState]:
        columns = ", ".join(_STATE_COLUMNS)
        query = text(f"SELECT {columns}, {_NOW[self._sql.kind]} AS now FROM tasks WHERE {where}")  # noqa: S608
        if "ids" in values:
            query = query.bindparams(bindparam("ids", expanding=True))
        typed = query.columns(waiting_since=UtcDateTime(), now=UtcDateTime())
        rows = self._database.read(lambda on: _dicts(on.execute(typed, dict(values))))
        return [self._state(row) for row in rows]

    def _state(self, row: Mapping[str, Any]) -> RowState:
        since: datetime = row["waiting_since"] or row["now"]
        return RowState(
            task_id=row["id"],
            status=row["status"],
            epoch=row["epoch"],
            rank=row["priority"],
            attempt=row["attempt"],
            timeout_seconds=self._limits.of(row["name"], row["priority"], row["timeout_seconds"]),
            waiting_at=since.timestamp(),
            waited=(row["now"] - since).total_seconds(),
        )

    def kept(self, after: int, last: int) -> dict[int, dict[str, Any]]:
        """The rows of a stretch with what the baseline records of them: digest, status, rank, attempt."""
        query = text(
            f"SELECT id, priority, status, epoch, attempt, {self._sql.row()} AS digest"  # noqa: S608
            " FROM tasks WHERE id > :after AND id <= :last"
        )

        def work(on: Connection) -> dict[int, dict[str, Any]]:
            self._sql.prepare(on)
            rows = on.execute(query, {"after": after, "last": last}).mappings()
            return {row["id"]: dict(row) for row in rows}

        return self._database.read(work)

    def not_completed(self, after: int, last: int) -> dict[int, str]:
        """The rows of a stretch that are not COMPLETED, with their status."""
        query = text(
            "SELECT id, status FROM tasks WHERE id > :after AND id <= :last AND status <> 'COMPLETED'"
        )
        values = {"after": after, "last": last}
        return self._database.read(lambda on: {row[0]: row[1] for row in on.execute(query, values)})

    def wholes(self, ids: Sequence[int]) -> dict[int, dict[str, Any]]:
        """What must not change of these rows, as it is; of those that exist. At most `IDS_AT_ONCE`."""
        query = text(f"SELECT {', '.join(KEPT)} FROM tasks WHERE id IN :ids").bindparams(  # noqa: S608
            bindparam("ids", expanding=True)
        )
        rows = self._database.read(lambda on: _dicts(on.execute(query, {"ids": list(ids)})))
        return {row["id"]: row for row in rows}

    def priority_was_changed(self, ids: Sequence[int]) -> set[int]:
        """Those of these rows whose history tells of another priority."""
        query = text(
            "SELECT DISTINCT task_id FROM task_events"
            " WHERE task_id IN :ids AND kind IN ('reprioritised', 'moved up')"
        ).bindparams(bindparam("ids", expanding=True))
        return self._database.read(lambda on: {row[0] for row in on.execute(query, {"ids": list(ids)})})

    # --- beside the tasks ---------------------------------------------------------------------------

    def worker_ids(self) -> list[str]:
        query = text("SELECT id FROM workers")
        return self._database.read(lambda on: [row[0] for row in on.execute(query)])

    def somebody_heals(self) -> bool:
        """Whether a worker or a sweeper is alive: then much that is odd does not stay so."""
        now = _NOW[self._sql.kind]
        query = text(
            f"SELECT seen_at AS at, {now} AS now FROM workers"  # noqa: S608
            f" UNION ALL SELECT until_at, {now} FROM locks"
        ).columns(at=UtcDateTime(), now=UtcDateTime())
        rows = self._database.read(lambda on: on.execute(query).all())
        return any((row.now - row.at).total_seconds() < SILENT_SECONDS for row in rows)

    def closed_ranks(self) -> set[int]:
        """Priorities for which nobody pushes tickets now: paused, fenced off, or fallen back."""
        query = text("SELECT priority, paused, fenced_track, fallback FROM routing")
        rows = self._database.read(lambda on: on.execute(query).all())
        return {rank for rank, paused, fenced, fallback in rows if paused or fallback or fenced == "redis"}


def _dicts(result: CursorResult[Any]) -> list[dict[str, Any]]:
    return [dict(row) for row in result.mappings()]


def _added_up(groups: Iterable[Any]) -> Totals:
    total = Totals()
    for status, rank, rows, row_sum, due, ticket_sum in groups:
        total.add(status, rank, int(rows), int(row_sum or 0))
        if due:
            total.tickets[rank] = (int(due), int(ticket_sum))
    return total


_TICKET_COLUMNS = ("id", "status", "epoch", "name", "priority", "timeout_seconds")
_STATE_COLUMNS = (*_TICKET_COLUMNS, "attempt", "waiting_since")
_NOW = {
    "mysql": "UTC_TIMESTAMP(6)",
    "postgresql": "clock_timestamp()",
    "sqlite": "strftime('%Y-%m-%d %H:%M:%f', 'now') || '000'",
}
