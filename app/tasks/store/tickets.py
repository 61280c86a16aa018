"""What the sweeper asks of rows that wait in Redis: which tickets to look for, and which were seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, func, select, tuple_, union_all, update
from sqlalchemy.engine import Connection

from app.tasks.database import Database
from app.tasks.model import Priority, Status, Ticket
from app.tasks.schema import database_now, status_is, tasks
from app.tasks.store.row_texts import rows_as_text

_TICKET_COLUMNS = (
    tasks.c.id,
    tasks.c.epoch,
    tasks.c.name,
    tasks.c.timeout_seconds,
)


class DispatchedRows:
    def __init__(self, database: Database) -> None:
        self._database = database

    def unconfirmed(
        self, priority: Priority, *, older_than_seconds: float, limit: int, before: int | None = None
    ) -> list[Ticket]:
        """DISPATCHED rows whose ticket was not yet seen, in order of service; `before`: of lower ids only.

        `confirmed_in` is 0 in them, so that the index gives the order: a row that another incarnation has
        confirmed is for `unconfirm_others` first.
        """
        query = _dispatched(priority, older_than_seconds, limit).where(tasks.c.confirmed_in == 0)
        if before is not None:
            query = query.where(tasks.c.id < before)
        return self._tickets(query, priority)

    def unpushed(self, priority: Priority, *, start: int, limit: int) -> list[Ticket]:
        """The first DISPATCHED and unconfirmed rows from id `start` on: what waits beyond the window."""
        if self._database.kind == "mysql":
            found = self._database.read(lambda on: _unpushed_as_text(on, priority, start, limit))
            if found is not None:
                return found
        query = _in_order(priority, limit).where(tasks.c.confirmed_in == 0, tasks.c.id >= start)
        return self._tickets(query, priority)

    def unconfirm_others(self, priority: Priority, *, incarnation: int, limit: int) -> int:
        """Forget tickets that were seen in another incarnation of Redis. Returns how many; repeat while it is
        `limit`. Writes nothing if there are none."""
        waiting = and_(tasks.c.status == Status.DISPATCHED, tasks.c.priority == priority)
        # two ranges beside the known value, each read by the index: no planner does that for <>
        below = select(tasks.c.id).where(waiting, tasks.c.confirmed_in.between(1, incarnation - 1))
        above = select(tasks.c.id).where(waiting, tasks.c.confirmed_in > incarnation)
        parts = [part.limit(limit).subquery() for part in (below, above)]
        query = union_all(*(select(part.c.id) for part in parts))
        ids = sorted(self._database.read(lambda on: on.execute(query).scalars().all()))[:limit]
        if not ids:
            return 0
        seen_elsewhere = and_(tasks.c.confirmed_in != incarnation, status_is(Status.DISPATCHED))
        statement = update(tasks).where(tasks.c.id.in_(ids), seen_elsewhere).values(confirmed_in=0)
        self._database.run(lambda on: on.execute(statement))
        return len(ids)

    def confirmed(
        self, priority: Priority, *, incarnation: int, older_than_seconds: float, limit: int
    ) -> list[Ticket]:
        """DISPATCHED rows whose ticket was seen: the second look's candidates, oldest first."""
        query = _dispatched(priority, older_than_seconds, limit).where(tasks.c.confirmed_in == incarnation)
        return self._tickets(query, priority)

    def confirm(self, seen: Sequence[Ticket], *, incarnation: int) -> int:
        """Write the incarnation into rows that still have the epoch of the ticket that was seen."""
        if not seen:
            return 0
        pairs = [(ticket.task_id, ticket.epoch) for ticket in seen]
        statement = update(tasks).where(_named(pairs)).values(confirmed_in=incarnation)
        return self._database.run(lambda on: on.execute(statement).rowcount)

    def unconfirm(self, references: Sequence[tuple[int, int]]) -> int:
        """Forget that these tickets were seen: they were dropped on purpose."""
        if not references:
            return 0
        statement = update(tasks).where(_named(references)).values(confirmed_in=0)
        return self._database.run(lambda on: on.execute(statement).rowcount)

    def current(self, references: Sequence[tuple[int, int]]) -> set[tuple[int, int]]:
        """Those of the (id, epoch) pairs that name a DISPATCHED row at that epoch."""
        wanted = set(references)
        query = select(tasks.c.id, tasks.c.epoch).where(
            tasks.c.id.in_(sorted({task_id for task_id, _ in wanted})), status_is(Status.DISPATCHED)
        )
        rows = self._database.read(lambda on: on.execute(query).all())
        return {(row.id, row.epoch) for row in rows} & wanted

    def among(self, task_ids: Sequence[int]) -> list[Ticket]:
        """The tickets of those rows that are DISPATCHED now, in order of service."""
        if not task_ids:
            return []
        columns = (tasks.c.id, tasks.c.epoch, tasks.c.priority, tasks.c.name, tasks.c.timeout_seconds)
        query = (
            select(*columns)
            .where(tasks.c.id.in_(sorted(task_ids)), status_is(Status.DISPATCHED))
            .order_by(tasks.c.priority, tasks.c.id)
        )
        rows = self._database.read(lambda on: on.execute(query).all())
        return [Ticket(row.id, row.epoch, row.priority, row.name, row.timeout_seconds) for row in rows]

    def some_dispatched(self, priority: Priority) -> bool:
        query = (
            select(tasks.c.id)
            .where(tasks.c.status == Status.DISPATCHED, tasks.c.priority == priority)
            .limit(1)
        )
        return self._database.read(lambda on: on.execute(query).first()) is not None

    def count(self, priority: Priority) -> int:
        query = select(func.count()).where(tasks.c.status == Status.DISPATCHED, tasks.c.priority == priority)
        return self._database.read(lambda on: int(on.execute(query).scalar_one()))

    def _tickets(self, query: Select[Any], priority: Priority) -> list[Ticket]:
        def work(on: Connection) -> list[Ticket]:
            return [
                Ticket(task_id, epoch, priority, name, timeout)
                for task_id, epoch, name, timeout in on.execute(query)
            ]

        return self._database.read(work)


def _unpushed_as_text(on: Connection, priority: Priority, start: int, limit: int) -> list[Ticket] | None:
    rest = (
        "FROM tasks FORCE INDEX (ix_tasks_waiting) WHERE status = 'DISPATCHED'"
        f" AND priority = {priority.rank} AND confirmed_in = 0 AND id >= {int(start)}"
        f" ORDER BY id LIMIT {int(limit)}"
    )
    lines = rows_as_text(on, ("id", "epoch", "timeout_seconds", "name"), rest)
    if lines is None:
        return None
    return [
        Ticket(int(i), int(epoch), priority, name, int(timeout) if timeout else None)
        for i, epoch, timeout, name in lines
    ]


def _named(references: Sequence[tuple[int, int]]) -> ColumnElement[bool]:
    """DISPATCHED rows at these epochs. The ids by themselves too: SQLite finds no pair by an index."""
    pairs = sorted(references)
    return and_(
        tasks.c.id.in_([task_id for task_id, _ in pairs]),
        tuple_(tasks.c.id, tasks.c.epoch).in_(pairs),
        status_is(Status.DISPATCHED),
    )


def _in_order(priority: Priority, limit: int) -> Select[Any]:
    query = (
        select(*_TICKET_COLUMNS)
        .where(tasks.c.status == Status.DISPATCHED, tasks.c.priority == priority)
        .order_by(tasks.c.id)
        .limit(limit)
    )
    # left alone, MariaDB walks past every row before a bound on the id, by this index or by the primary key
    for dialect in ("mysql", "mariadb"):
        query = query.with_hint(tasks, "FORCE INDEX (ix_tasks_waiting)", dialect)
    return query


def _dispatched(priority: Priority, older_than_seconds: float, limit: int) -> Select[Any]:
    return _in_order(priority, limit).where(tasks.c.waiting_since <= database_now(-older_than_seconds))
