"""Many rows by few statements, in each database's quickest safe way.

Rows are grouped by what they have in common, which then travels once; a column that no row of a group
fills is left to its default.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import chain
from typing import Any

from sqlalchemy.engine import Connection

from app.tasks.database import Database
from app.tasks.model import NewTask, Status
from app.tasks.store.driver_sql import DriverSql, array_text

CHUNK_ROWS = 2000
CHUNK_CHARACTERS = 4_000_000  # of payload in one statement, far below any server's packet limit

# PostgreSQL takes each column as one array, and wants to be told of what.
_TYPES = {
    **dict.fromkeys(("name", "payload", "user_id", "active_key", "idempotency_key"), "text"),
    **dict.fromkeys(("max_retries", "timeout_seconds"), "integer"),
    "id": "bigint",
    "run_at": "timestamptz",
}


Kind = tuple[Status, bool, int]
"""What rows of one group have in common: status, whether they are held, rank or lane."""
NewRow = tuple[NewTask, str | None]
"""A new task, with its active key."""


class BulkInsert:
    def __init__(self, database: Database) -> None:
        self._sql = DriverSql(database)

    def insert(self, groups: Mapping[Kind, Sequence[NewRow]], on: Connection, now: datetime) -> None:
        """Insert the rows. `now` is the database's clock. Raises `IntegrityError` on a duplicate key."""
        for kind, group in groups.items():
            for chunk in _chunks(group):
                self._insert_alike(kind, chunk, on, now)

    def _insert_alike(self, kind: Kind, rows: Sequence[NewRow], on: Connection, now: datetime) -> None:
        columns = self._columns(rows)
        fixed = self._fixed(kind, f"'{self._sql.moment(now)}'")
        names = ", ".join((*columns, *fixed))
        constants = ", ".join(fixed.values())
        if self._sql.kind == "postgresql":
            arrays = ", ".join(f"%s::{_TYPES[name]}[]" for name in columns)
            text = f"SELECT given.*, {constants} FROM unnest({arrays}) AS given"  # noqa: S608
            on.exec_driver_sql(
                f"INSERT INTO tasks ({names}) {text}", tuple(map(array_text, columns.values()))
            )
            return
        row_text = f"({self._sql.marks(len(columns))}, {constants})"
        values = list(zip(*columns.values(), strict=True))
        if self._sql.kind == "mysql":  # PyMySQL joins rows of its own accord only if they are marks alone
            text = ", ".join([row_text] * len(values))
            statement = f"INSERT INTO tasks ({names}) VALUES {text}"  # noqa: S608
            on.exec_driver_sql(statement, tuple(chain(*values)))
            return
        on.exec_driver_sql(f"INSERT INTO tasks ({names}) VALUES {row_text}", values)  # noqa: S608

    def insert_guarded(self, kind: Kind, rows: Sequence[NewRow], cursor: Any, version: int) -> bool:
        """Insert the rows, all or none, if their priority's routing still has this version; false if it has
        not. One transaction, on a connection of the driver's own that commits by itself."""
        columns = self._columns(rows)
        fixed = self._fixed(kind, self._sql.now)
        into = f"INSERT INTO tasks ({', '.join((*columns, *fixed))})"
        constants = ", ".join(fixed.values())
        guard = f"routing.priority = {kind[2]:d} AND routing.version = {version:d}"
        if self._sql.kind == "postgresql":
            arrays = ", ".join(f"%s::{_TYPES[name]}[]" for name in columns)
            held = f"(SELECT 1 FROM routing WHERE {guard} FOR SHARE) AS held"  # noqa: S608
            cursor.execute(
                f"{into} SELECT given.*, {constants} FROM unnest({arrays}) AS given, {held}",  # noqa: S608
                tuple(map(array_text, columns.values())),
            )
            return bool(cursor.rowcount)
        values = list(zip(*columns.values(), strict=True))
        if self._sql.kind == "mysql":
            first = "SELECT " + ", ".join(f"%s AS {name}" for name in columns)
            others = f" UNION ALL SELECT {self._sql.marks(len(columns))}" * (len(values) - 1)
            cursor.execute(
                f"{into} SELECT given.*, {constants} FROM ({first}{others}) AS given"  # noqa: S608
                f" JOIN routing ON {guard} LOCK IN SHARE MODE",
                tuple(chain(*values)),
            )
            return bool(cursor.rowcount)
        cursor.execute("BEGIN IMMEDIATE")
        marks = self._sql.marks(len(columns))
        cursor.executemany(f"{into} SELECT {marks}, {constants} FROM routing WHERE {guard}", values)  # noqa: S608
        done = bool(cursor.rowcount)  # all or none: nobody changes the version now
        cursor.execute("COMMIT")
        return done

    def _fixed(self, kind: Kind, moment: str) -> dict[str, str]:
        """What all rows of a group have in common, as SQL: words and numbers of our own."""
        status, held, rank = kind
        fixed = {"status": f"'{status.value}'", "priority": str(rank), "created_at": moment}
        if held:
            fixed["held"] = self._sql.true
        if status is not Status.SCHEDULED:
            fixed["waiting_since"] = moment
        return fixed

    def _columns(self, rows: Sequence[NewRow]) -> dict[str, Sequence[Any]]:
        """The values by column; optional columns only if some row has one."""
        columns: dict[str, Sequence[Any]] = {
            "id": [new.task_id for new, _ in rows],
            "name": [new.name for new, _ in rows],
            "payload": [new.payload for new, _ in rows],
        }
        optional: dict[str, Sequence[Any]] = {
            "active_key": [key for _, key in rows],
            "user_id": [new.user_id for new, _ in rows],
            "idempotency_key": [new.idempotency_key for new, _ in rows],
            "max_retries": [new.max_retries for new, _ in rows],
            "timeout_seconds": [new.timeout_seconds for new, _ in rows],
            "run_at": [new.run_at and self._sql.moment(new.run_at) for new, _ in rows],
        }
        return columns | {name: some for name, some in optional.items() if some.count(None) < len(some)}


def _chunks(rows: Sequence[NewRow]) -> Iterator[Sequence[NewRow]]:
    """Parts of at most `CHUNK_ROWS` rows and about `CHUNK_CHARACTERS` of payload."""
    start = characters = 0
    for end, (new, _) in enumerate(rows):
        characters += len(new.payload)
        if end - start >= CHUNK_ROWS or (characters > CHUNK_CHARACTERS and end > start):
            yield rows[start:end]
            start, characters = end, len(new.payload)
    if start < len(rows):
        yield rows[start:]
