"""Finding an import's rows: their keys in the order of their making, far ahead and without a lock.

A table without an index on that order (the old shape) sorts all of its queued rows for each look, however few
are asked for. So one look finds the keys of many batches. What was found may be somebody else's by the time
that it is used: whoever locks a row looks at it again, and what came in between is a later look's.
"""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

from sqlalchemy.engine import Connection

from app.tasks.model import Priority
from app.transfer.legacy.table import LegacyTable

AHEAD_ROWS = 20_000  # a few megabytes of keys


class Stretch(NamedTuple):
    """Rows that one index gives in order: queued or with no status, with a time of making or without."""

    queued: bool
    timed: bool


class Finder:
    """Finds the rows of one table, for one walk at a time."""

    def __init__(self, table: LegacyTable, *, but: str = "") -> None:
        """`but`: a condition of rows that are not wanted."""
        self._table = table
        self._but = [f"NOT {but}"] if but else []
        self._found: deque[Any] = deque()
        self._stands: Any = None  # where the last row was given out: priority, stretch and cursor

    def next(self, on: Connection, priority: Priority, stretch: Stretch, after: Any, limit: int) -> list[Any]:
        """The next rows behind the cursor, not locked, each (key,) or (key, time). A cursor is the last row
        that was given before; None: a walk begins."""
        if after is None or not self._found or self._stands != (priority, stretch, after):
            self._found = deque(self._look(on, priority, stretch, after, max(limit, AHEAD_ROWS)))
        rows = [tuple(self._found.popleft()) for _ in range(min(limit, len(self._found)))]
        self._stands = (priority, stretch, rows[-1]) if rows else None
        return rows

    def _look(self, on: Connection, priority: Priority, stretch: Stretch, after: Any, limit: int) -> Any:
        table, mark = self._table, self._table.mark
        of_priority, values = table.of_priority(priority)
        state, given = table.of_state(queued=stretch.queued)
        where, order, columns = [state, of_priority, *self._but], table.key, table.key
        given += values
        if table.created and not stretch.timed:
            where.append(f"{table.created} IS NULL")
        if stretch.timed:
            columns, order = f"{table.key}, {table.created}", f"{table.created}, {table.key}"
            if after is None:
                where.append(f"{table.created} IS NOT NULL")
            else:
                where.append(f"{table.created} >= {mark}")  # said by itself, it lets an index begin here
                where.append(f"({table.created} > {mark} OR {table.key} > {mark})")
                given += [after[1], after[1], after[0]]
        elif after is not None:
            where.append(f"{table.key} > {mark}")
            given.append(after[0])
        query = (
            f"SELECT {columns} FROM {table.table} legacy WHERE {' AND '.join(where)}"  # noqa: S608
            f" ORDER BY {order} LIMIT {int(limit)}"
        )
        return on.exec_driver_sql(query, tuple(given)).cursor.fetchall()
