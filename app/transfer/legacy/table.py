"""What a mapping means for its table as it is: which columns are there, and how each value is spelt in SQL.

Statements are text for the driver: words and columns of the mapping are checked names, values are parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import inspect
from sqlalchemy.engine import Connection
from sqlalchemy.exc import NoSuchTableError
from sqlalchemy.types import BINARY, VARBINARY, LargeBinary, TypeEngine

from app.tasks.database import Database
from app.tasks.errors import SourceUnavailable
from app.tasks.model import PRIORITIES, Priority
from app.tasks.sources import Source, Words
from app.tasks.store import Store
from app.transfer.errors import NotPossible
from app.transfer.legacy.mapping import ConstantText, Fault, Mapping, Value, Written

KEYS_AT_A_TIME = 5000  # every database takes more parameters than that
_CHARACTERS = {"mysql": "CHAR", "postgresql": "TEXT", "sqlite": "TEXT"}


@dataclass(frozen=True, slots=True)
class Column:
    """A value of a picked row: its name there, and its SQL."""

    name: str
    sql: str


def database_of(store: Store, mapping: Mapping) -> Database:
    """The database that a mapping's table is in. Raises `NotPossible` for a name that nothing resolves, or
    that means our own."""
    if mapping.database is None:
        return store.database
    try:
        found = store.source_databases.database(mapping.database)
    except SourceUnavailable as error:
        raise NotPossible(str(error)) from None
    if found.url == store.database.url:
        raise NotPossible(f"the database {mapping.database} is the tasks' own: leave it away in the mapping")
    return found


class LegacyTable:
    """Raises `NotPossible` if the table, or a column that has no default, is missing, or its key is bytes."""

    def __init__(self, database: Database, mapping: Mapping) -> None:
        """`database` is the one that the table is in."""
        self.database = database
        self.mapping = mapping
        self.kind = database.kind
        self._quote = database.engine.dialect.identifier_preparer.quote
        self.columns, self._tables = _found(database, mapping.table)
        if isinstance(self.columns.get(mapping.key), BINARY | VARBINARY | LargeBinary):
            raise NotPossible(f"{mapping.table}.{mapping.key} holds bytes, and a task's key is text")
        self.mark = "?" if self.kind == "sqlite" else "%s"
        locks = {"sqlite": "", "mysql": " FOR UPDATE SKIP LOCKED"}
        self.lock = locks.get(self.kind, " FOR UPDATE OF legacy SKIP LOCKED")
        self.table = self._quote(mapping.table)
        self.key = self.column(mapping.key)
        self.status = self.column(mapping.status.column)
        self.created = self._optional(mapping.created)
        self.faults = [fault for fault in mapping.fault if set(fault.needs) <= self._tables]
        self.skipped = [fault.name for fault in mapping.fault if fault not in self.faults]

    def column(self, name: str) -> str:
        """A column of the row, as SQL. Raises `NotPossible` if the table has none of this name."""
        if name not in self.columns:
            raise NotPossible(f"{self.mapping.table} has no column {name}, which the mapping needs")
        return f"legacy.{self._quote(name)}"

    def quoted(self, name: str) -> str:
        """A checked name as this database spells it."""
        return self._quote(name)

    def _optional(self, value: Value | None) -> str | None:
        """The SQL of a value; None where the table has no such column and the default has to do."""
        if value is None:
            return None
        if value.expression is not None:
            return f"({self._escaped(value.expression)})"
        return self.column(value.column) if value.column in self.columns else None

    def _escaped(self, sql: str) -> str:
        """Drivers with %s for a mark read every % of the text."""
        return sql.replace("%", "%%") if self.mark == "%s" else sql

    # --- what is read of a row ----------------------------------------------------------------------

    @property
    def payload_columns(self) -> list[tuple[str, str]]:
        """(field, column) of the payload's fields that are columns as they are, then those of JSON texts."""
        payload = self.mapping.payload
        if payload.whole:
            return [("", payload.whole)]
        return [*payload.columns.items(), *payload.json_columns.items()]

    @property
    def read(self) -> list[Column]:
        """What a pick reads of each row, in this order."""
        mapping = self.mapping
        wanted = [Column("key", self.key)]
        optional = {
            name: self._optional(getattr(mapping, name))
            for name in ("created", "user", "attempts", "retries")
        }
        wanted += [Column(name, sql) for name, sql in optional.items() if sql is not None]
        wanted += [Column(f"payload {at}", self.column(c)) for at, (_, c) in enumerate(self.payload_columns)]
        wanted += [Column(f"fault {at}", self._flag(fault)) for at, fault in enumerate(self.faults)]
        return wanted

    def _flag(self, fault: Fault) -> str:
        return f"CASE WHEN {self._escaped(fault.when)} THEN 1 ELSE 0 END"

    # --- conditions -----------------------------------------------------------------------------------

    def of_state(self, *, queued: bool) -> tuple[str, list[str]]:
        """The rows that wait, or those that have no status: a condition with its values."""
        if queued:
            return f"{self.status} = {self.mark}", [self.mapping.status.queued]
        return f"{self.status} IS NULL", []

    def of_priority(self, priority: Priority) -> tuple[str, list[str]]:
        """The rows that count as of this priority: a condition with its values."""
        sql = self._optional(self.mapping.priority)
        default = self.mapping.priority.default if self.mapping.priority else Priority.NORMAL
        if sql is None:
            return ("1 = 1" if priority is default else "1 = 0"), []
        text = f"LOWER(CAST({sql} AS {_CHARACTERS[self.kind]}))"
        if priority is not default:
            words = self._words_of([priority])
            return f"{text} IN ({self.marks(len(words))})", words
        others = self._words_of([other for other in PRIORITIES if other is not default])
        return f"({text} IS NULL OR {text} NOT IN ({self.marks(len(others))}))", others

    def _words_of(self, priorities: Sequence[Priority]) -> list[str]:
        given = self.mapping.priority.words if self.mapping.priority else {}
        words = {priority.value: priority for priority in PRIORITIES}
        words |= {word.lower(): priority for word, priority in given.items()}
        return [word for word, priority in words.items() if priority in priorities]

    def has_task(self, *statuses: str) -> str:
        """True for a row of which there is a task, in one of these statuses if any are given."""
        start = f"'legacy:{self.mapping.name}:'"
        if self.kind == "mysql":
            text = f"CONCAT({start}, {self.key})"
            key = f"CONVERT({text} USING utf8mb4) COLLATE utf8mb4_bin"
        else:
            key = f"{start} || CAST({self.key} AS TEXT)"
        within = f" AND tasks.status IN ({', '.join(repr(str(s)) for s in statuses)})" if statuses else ""
        return f"EXISTS (SELECT 1 FROM tasks WHERE tasks.idempotency_key = {key}{within})"  # noqa: S608

    def marks(self, count: int) -> str:
        return ", ".join([self.mark] * count)

    # --- what the tasks' transitions need ---------------------------------------------------------------

    def source(self) -> Source:
        """The table as its tasks will write back to it: columns that it lacks are left out."""
        words = self.mapping.status
        back = self.mapping.write_back
        cancelled = back.cancelled if words.cancelled else back.failed
        return Source(
            name=self.mapping.name,
            table=self.mapping.table,
            key=self.mapping.key,
            status=words.column,
            words=Words(
                queued=words.queued,
                running=words.running,
                moved=words.moved,
                done=words.done,
                failed=words.failed,
                cancelled=words.cancelled or words.failed,
            ),
            write_back={
                status: {name: _written(value) for name, value in given.items() if name in self.columns}
                for status, given in (
                    ("COMPLETED", back.done),
                    ("FAILED", back.failed),
                    ("CANCELLED", cancelled),
                )
            },
            mapping=self.mapping.model_dump(mode="json", by_alias=True),
            database=self.mapping.database,
        )

    def run_by_keys(
        self, on: Connection, sql: str, keys: Sequence[Any], *before: Any, after: Sequence[Any] = ()
    ) -> tuple[int, list[Any]]:
        """Run a statement with `{keys}` for parts of the keys. Returns the rows that it changed, and those
        that it gave."""
        count, rows = 0, list[Any]()
        for at in range(0, len(keys), KEYS_AT_A_TIME):
            part = keys[at : at + KEYS_AT_A_TIME]
            text = sql.replace("{keys}", self.marks(len(part)))
            result = on.exec_driver_sql(text, (*before, *part, *after))
            if result.returns_rows:
                rows += result.cursor.fetchall()
            else:
                count += result.rowcount
        return count, rows


def _written(value: Written) -> dict[str, Any]:
    if isinstance(value, ConstantText):
        return {"value": value.text}
    if isinstance(value, str):
        return {"value": None} if value == "nothing" else {"is": value}
    return {"value": value}


def _found(database: Database, table: str) -> tuple[dict[str, TypeEngine[Any]], set[str]]:
    """The table's columns with their types, and the names of all tables. Raises `NotPossible` if there is
    no such table."""

    def work(on: Connection) -> tuple[dict[str, TypeEngine[Any]], set[str]]:
        looking = inspect(on)
        names = set(looking.get_table_names()) | set(looking.get_view_names())
        return {str(column["name"]): column["type"] for column in looking.get_columns(table)}, names

    try:
        return database.read(work)
    except NoSuchTableError:
        raise NotPossible(f"the database has no table {table}") from None
