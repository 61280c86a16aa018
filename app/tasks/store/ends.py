"""What rows of legacy tables in other databases are still to be told of their tasks.

No transaction spans two databases. So an end is written here in the transaction that ends the task, told to
the row in one of the row's database, and deleted. Who is killed in between leaves it to be told again: a row
that no longer says `moved` takes nothing. Whoever gives such a row to a task again deletes what it was to be
told before.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy import delete, func, insert, select
from sqlalchemy.engine import Connection

from app.tasks.database import Database
from app.tasks.model import Status
from app.tasks.schema import database_now
from app.tasks.source_tables import legacy_ends
from app.tasks.sources import SourceKey
from app.tasks.store.legacy_rows import End


class Ends:
    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, on: Connection, ends: Sequence[End]) -> None:
        """In the transaction that ends the tasks."""
        rows = [
            {
                "task_id": end.task_id,
                "source": end.key.source,
                "row_key": end.key.key,
                "told": end.status.value,
                "result": end.result,
                "error": end.error,
                "attempts": end.attempts,
            }
            for end in ends
        ]
        on.execute(insert(legacy_ends).values(ended_at=database_now()), rows)

    def void(self, on: Connection, task_ids: Collection[int]) -> set[int]:
        """Forget what the rows of these tasks were to be told; waits for who is just telling them. Returns
        the tasks of which there was something."""
        if not task_ids:
            return set()
        found = self.lock(on, task_ids)
        on.execute(delete(legacy_ends).where(legacy_ends.c.task_id.in_(found)))
        return found

    def lock(self, on: Connection, task_ids: Collection[int]) -> set[int]:
        """Those of the tasks whose rows are to be told something; until the commit nobody tells them."""
        if not task_ids:
            return set()
        query = select(legacy_ends.c.task_id).where(legacy_ends.c.task_id.in_(sorted(task_ids)))
        return set(on.execute(query.order_by(legacy_ends.c.task_id).with_for_update()).scalars())

    def sources(self) -> list[str]:
        """The sources whose rows are to be told something."""
        query = select(legacy_ends.c.source).distinct().order_by(legacy_ends.c.source)
        return self._database.read(lambda on: list(on.execute(query).scalars()))

    def count(self, source: str) -> int:
        query = select(func.count()).select_from(legacy_ends).where(legacy_ends.c.source == source)
        return self._database.read(lambda on: int(on.execute(query).scalar_one()))

    def next(self, on: Connection, source: str, *, limit: int) -> list[End]:
        """Lock the next ends that nobody else has."""
        query = select(legacy_ends).where(legacy_ends.c.source == source).order_by(legacy_ends.c.task_id)
        rows = on.execute(query.limit(limit).with_for_update(skip_locked=True))
        return [
            End(
                row.task_id,
                SourceKey(row.source, row.row_key),
                Status(row.told),
                row.result,
                row.error,
                row.attempts,
                row.ended_at,
            )
            for row in rows
        ]

    def delete(self, on: Connection, ends: Sequence[End]) -> None:
        """The rows were told."""
        on.execute(delete(legacy_ends).where(legacy_ends.c.task_id.in_([end.task_id for end in ends])))
