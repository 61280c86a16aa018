"""Rows of legacy tables in other databases that an import may have marked, and that have no task yet.

A row is written here before it is marked there, and deleted in the transaction that stores its task. Who is
killed in between leaves it to whoever imports, or gives back, from that table next.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import delete, func, insert, select
from sqlalchemy.engine import Connection

from app.tasks.database import Database
from app.tasks.model import Priority
from app.tasks.source_tables import legacy_stages

ROWS_AT_A_TIME = 1000


class Staged(NamedTuple):
    """A row by its key as text; `number` orders the rows of a table as they were found."""

    number: int
    key: str


class Stages:
    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, source: str, priority: Priority, keys: Sequence[str]) -> list[Staged]:
        """Stage rows, in this order; committed when it returns. Raises `DatabaseUnavailable`."""
        rows = [{"source": source, "priority": priority, "row_key": key} for key in keys]
        own = (legacy_stages.c.source == source, legacy_stages.c.priority == priority)
        number = legacy_stages.c.id

        def work(on: Connection) -> list[Staged]:
            last = on.execute(select(func.max(number)).where(*own)).scalar() or 0
            for at in range(0, len(rows), ROWS_AT_A_TIME):
                on.execute(insert(legacy_stages), rows[at : at + ROWS_AT_A_TIME])
            query = select(number, legacy_stages.c.row_key).where(*own, number > last).order_by(number)
            return [Staged(*row) for row in on.execute(query)]

        return self._database.run(work)

    def next(
        self, source: str, priority: Priority | None = None, *, after: int = 0, limit: int
    ) -> list[Staged]:
        """The first rows behind a number, of one priority or of all."""
        query = select(legacy_stages.c.id, legacy_stages.c.row_key).where(
            legacy_stages.c.source == source, legacy_stages.c.id > after
        )
        if priority is not None:
            query = query.where(legacy_stages.c.priority == priority)
        query = query.order_by(legacy_stages.c.id).limit(limit)
        return self._database.read(lambda on: [Staged(*row) for row in on.execute(query)])

    def count(self, source: str, priority: Priority) -> int:
        query = select(func.count()).where(
            legacy_stages.c.source == source, legacy_stages.c.priority == priority
        )
        return self._database.read(lambda on: int(on.execute(query).scalar_one()))

    def delete(self, on: Connection, staged: Sequence[Staged]) -> None:
        """Each of them is a task now, or is nobody's to import."""
        numbers = [one.number for one in staged]
        for at in range(0, len(numbers), ROWS_AT_A_TIME):
            part = numbers[at : at + ROWS_AT_A_TIME]
            on.execute(delete(legacy_stages).where(legacy_stages.c.id.in_(part)))
