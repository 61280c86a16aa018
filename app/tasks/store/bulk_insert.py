"""Many rows by few statements, in each database's quickest safe way.

Rows are grouped by what they have in common, which then travels once; a column that no row of a group
fills is left to its default.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from typing import Any

from sqlalchemy.engine import Connection

from app.tasks.database import Database
from app.tasks.model import NewTask, Status
from app.tasks.store.driver_sql import DriverSql

CHUNK_ROWS = 2000
CHUNK_CHARACTERS = 4_000_000  # of payload in one statement, far below any server's packet limit

# PostgreSQL takes each column as one array, and wants to be told of what.
_TYPES = {
    **dict.fromkeys(("name", "payload", "user_id", "active_key", "idempotency_key"), "text"),
    **dict.fromkeys(("max_retries", "timeout_seconds"), "integer"),
    "id": "bigint",
    "run_at": "timestamptz",
}


@dataclass(frozen=True, slots=True)
class NewRow:
    """A new task with its place."""

    new: NewTask
    status: Status
    held: bool = False
    active_key: str | None = None

    @property
    def kind(self) -> tuple[Status, bool, int]:
        return self.status, self.held, self.new.priority.rank


class BulkInsert:
    def __init__(self, database: Database) -> None:
        self._sql = DriverSql(database)

    def insert(self, rows: Iterable[NewRow], on: Connection, now: datetime) -> None:
        """Insert the rows. `now` is the database's clock. Raises `IntegrityError` on a duplicate key."""
        groups: dict[tuple[Status, bool, int], list[NewRow]] = defaultdict(list)
        for row in rows:
            groups[row.kind].append(row)
        for kind, group in groups.items():
            for chunk in _chunks(group):
                self._insert_alike(kind, chunk, on, now)

    def _insert_alike(
        self, kind: tuple[Status, bool, int], rows: Sequence[NewRow], on: Connection, now: datetime
    ) -> None:
        columns = self._columns(rows)
        fixed = self._fixed(kind, now)
        names = ", ".join((*columns, *fixed))
        constants = ", ".join(fixed.values())
        if self._sql.kind == "postgresql":
            arrays = ", ".join(f"%s::{_TYPES[name]}[]" for name in columns)
            text = f"SELECT given.*, {constants} FROM unnest({arrays}) AS given"  # noqa: S608
            on.exec_driver_sql(f"INSERT INTO tasks ({names}) {text}", tuple(columns.values()))
            return
        row_text = f"({self._sql.marks(len(columns))}, {constants})"
        values = list(zip(*columns.values(), strict=True))
        if self._sql.kind == "mysql":  # PyMySQL joins rows of its own accord only if they are marks alone
            text = ", ".join([row_text] * len(values))
            statement = f"INSERT INTO tasks ({names}) VALUES {text}"  # noqa: S608
            on.exec_driver_sql(statement, tuple(chain(*values)))
            return
        on.exec_driver_sql(f"INSERT INTO tasks ({names}) VALUES {row_text}", values)  # noqa: S608

    def _fixed(self, kind: tuple[Status, bool, int], now: datetime) -> dict[str, str]:
        """What all rows of a group have in common, as SQL: words and numbers of our own."""
        status, held, rank = kind
        moment = f"'{self._sql.moment(now)}'"
        fixed = {"status": f"'{status.value}'", "priority": str(rank), "created_at": moment}
        if held:
            fixed["held"] = self._sql.true
        if status is not Status.SCHEDULED:
            fixed["waiting_since"] = moment
        return fixed

    def _columns(self, rows: Sequence[NewRow]) -> dict[str, Sequence[Any]]:
        """The values by column; optional columns only if some row has one."""
        columns: dict[str, Sequence[Any]] = {
            "id": [row.new.task_id for row in rows],
            "name": [row.new.name for row in rows],
            "payload": [row.new.payload for row in rows],
        }
        optional: dict[str, Sequence[Any]] = {
            "active_key": [row.active_key for row in rows],
            "user_id": [row.new.user_id for row in rows],
            "idempotency_key": [row.new.idempotency_key for row in rows],
            "max_retries": [row.new.max_retries for row in rows],
            "timeout_seconds": [row.new.timeout_seconds for row in rows],
            "run_at": [row.new.run_at and self._sql.moment(row.new.run_at) for row in rows],
        }
        return columns | {name: some for name, some in optional.items() if some.count(None) < len(some)}


def _chunks(rows: Sequence[NewRow]) -> Iterator[Sequence[NewRow]]:
    """Parts of at most `CHUNK_ROWS` rows and about `CHUNK_CHARACTERS` of payload."""
    start = characters = 0
    for end, row in enumerate(rows):
        characters += len(row.new.payload)
        if end - start >= CHUNK_ROWS or (characters > CHUNK_CHARACTERS and end > start):
            yield rows[start:end]
            start, characters = end, len(row.new.payload)
    if start < len(rows):
        yield rows[start:]
