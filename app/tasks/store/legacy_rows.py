"""The rows of legacy tables as statements: whether they are ours, and what they are told.

For one database, which may be another one than ours; each statement works in the transaction of the
connection that it is given. Only a row that still says `moved` is told its end: whoever changed it
has taken it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from app.tasks.database import Database, is_refusal
from app.tasks.errors import StatementRefused
from app.tasks.model import Status
from app.tasks.sources import Source, SourceKey
from app.tasks.store.driver_sql import DriverSql
from app.tasks.store.events import Happened

REFUSED_ITS_END = "its legacy row refused its end"
CHANGED_BY_OTHERS = "its legacy row was changed by others"

# How a database tells a guard (app.transfer.legacy.guard) that it is us: before our statement, and after it.
PASSES = {
    "mysql": ("SET @twintrack_writes = 1", "SET @twintrack_writes = NULL"),
    "postgresql": ("SET LOCAL twintrack.writes = 'on'", "SET LOCAL twintrack.writes = 'off'"),
    "sqlite": ("UPDATE legacy_sources SET writing = 1", "UPDATE legacy_sources SET writing = 0"),
}


class End(NamedTuple):
    """What a row is to be told: how its task has ended, or QUEUED for a row that is given back. Without
    `ended_at` it is told in the moment of the end."""

    task_id: int
    key: SourceKey
    status: Status
    result: str | None = None
    error: str | None = None
    attempts: int | None = None
    ended_at: datetime | None = None


class LegacyRows:
    def __init__(self, database: Database) -> None:
        self._sql = DriverSql(database)
        self._quote = database.engine.dialect.identifier_preparer.quote

    # --- looking --------------------------------------------------------------------------------------

    def ours(self, on: Connection, source: Source, keys: Sequence[str]) -> set[str]:
        """Those of the keys whose rows still say `moved`."""
        return self._saying(on, source, keys, source.words.moved)

    def _saying(self, on: Connection, source: Source, keys: Sequence[str], word: str) -> set[str]:
        key = self._quote(source.key)
        query = (
            f"SELECT {key} FROM {self._quote(source.table)} WHERE {key} IN ({self._sql.marks(len(keys))})"  # noqa: S608
            f" AND {self._quote(source.status)} = {self._sql.mark}"
        )
        rows = on.exec_driver_sql(query, (*keys, word)).cursor.fetchall()
        return {str(row[0]) for row in rows}

    # --- telling --------------------------------------------------------------------------------------

    def complete(self, on: Connection, source: Source, ends: Sequence[End]) -> list[Happened]:
        """Tell completions, all or none. Returns what is to be kept in the tasks' histories. Raises
        `StatementRefused` if the table does not take one."""
        columns = source.write_back.get(Status.COMPLETED.value, {})
        try:
            changed = self._update(on, source, Status.COMPLETED, columns, ends)
        except DBAPIError as error:
            if not is_refusal(error):
                raise
            raise StatementRefused(f"the legacy row refused its end ({type(error).__name__})") from error
        return [] if changed == len(ends) else self._lost(on, source, ends)

    def tell(self, on: Connection, source: Source, ends: Sequence[End]) -> list[Happened]:
        """Tell ends of one status, as much as the table takes of each: all of it, the status alone, or
        nothing but an event. Returns what is to be kept in the tasks' histories."""
        happened: list[Happened] = []
        changed = self._tell(on, source, source.write_back.get(ends[0].status.value, {}), ends, happened)
        return happened if changed == len(ends) else happened + self._lost(on, source, ends)

    def _tell(
        self,
        on: Connection,
        source: Source,
        columns: Mapping[str, Any],
        ends: Sequence[End],
        happened: list[Happened],
    ) -> int:
        """Returns how many rows were told something."""
        try:
            with on.begin_nested():
                return self._update(on, source, ends[0].status, columns, ends)
        except DBAPIError as error:
            if not is_refusal(error):
                raise
            if len(ends) > 1:
                return sum(self._tell(on, source, columns, [end], happened) for end in ends)
            if columns:
                return self._tell(on, source, {}, ends, happened)
            happened.append((ends[0].task_id, REFUSED_ITS_END, {"status": _word(source, ends[0].status)}))
            return 1

    def _update(
        self, on: Connection, source: Source, status: Status, columns: Mapping[str, Any], ends: Sequence[End]
    ) -> int:
        key, mark = self._quote(source.key), self._sql.mark
        settings, values = [f"{self._quote(source.status)} = {mark}"], [_word(source, status)]
        for name, written in columns.items():
            sql, given = self._value(key, written, ends)
            settings.append(f"{self._quote(name)} = {sql}")
            values += given
        statement = (
            f"UPDATE {self._quote(source.table)} SET {', '.join(settings)}"  # noqa: S608 - checked names
            f" WHERE {key} IN ({self._sql.marks(len(ends))}) AND {self._quote(source.status)} = {mark}"
        )
        keys = [end.key.key for end in ends]
        with passing_guard(on):
            return int(on.exec_driver_sql(statement, (*values, *keys, source.words.moved)).rowcount)

    def _value(self, key: str, written: Mapping[str, Any], ends: Sequence[End]) -> tuple[str, list[Any]]:
        """The SQL of a column's new value, with its parameters: one for all, or one for each."""
        if "value" in written:
            return self._sql.mark, [written["value"]]
        if written["is"] == "now":
            if ends[0].ended_at is None:
                return self._sql.now, []
            each = [self._moment(end.ended_at) for end in ends]
        else:
            each = [getattr(end, written["is"]) for end in ends]
        if len(set(each)) == 1:
            return self._sql.mark, each[:1]
        whens = f" WHEN {self._sql.mark} THEN {self._sql.mark}" * len(ends)
        pairs = [part for end, value in zip(ends, each, strict=True) for part in (end.key.key, value)]
        return f"CASE {key}{whens} END", pairs

    def _moment(self, when: datetime | None) -> Any:
        """As a column of times without a zone takes it: in UTC."""
        if when is None or self._sql.kind == "sqlite":
            return when and self._sql.moment(when)
        return when.astimezone(UTC).replace(tzinfo=None)

    def _lost(self, on: Connection, source: Source, ends: Sequence[End]) -> list[Happened]:
        """Rows that somebody had changed are left as they are; their tasks' history says so."""
        word = _word(source, ends[0].status)
        told = self._saying(on, source, [end.key.key for end in ends], word)
        return [(end.task_id, CHANGED_BY_OTHERS, {"status": word}) for end in ends if end.key.key not in told]

    # --- back and again ---------------------------------------------------------------------------------

    def queue(self, on: Connection, source: Source, keys: Sequence[str]) -> None:
        """Queue rows that say `moved` anew."""
        status, mark = self._quote(source.status), self._sql.mark
        statement = (
            f"UPDATE {self._quote(source.table)} SET {status} = {mark}"  # noqa: S608 - checked names
            f" WHERE {self._quote(source.key)} IN ({self._sql.marks(len(keys))}) AND {status} = {mark}"
        )
        with passing_guard(on):
            on.exec_driver_sql(statement, (source.words.queued, *keys, source.words.moved))

    def mark_again(self, on: Connection, source: Source, key: str) -> bool:
        """Mark the row of a task that is to run again as moved. False: it lives on without us."""
        status, mark = self._quote(source.status), self._sql.mark
        words = list(dict.fromkeys((source.words.failed, source.words.cancelled, source.words.queued)))
        words.append(source.words.moved)
        statement = (
            f"UPDATE {self._quote(source.table)} SET {status} = {mark}"  # noqa: S608 - checked names
            f" WHERE {self._quote(source.key)} = {mark} AND {status} IN ({self._sql.marks(len(words))})"
        )
        with passing_guard(on):
            return on.exec_driver_sql(statement, (source.words.moved, key, *words)).rowcount == 1


@contextmanager
def passing_guard(on: Connection) -> Iterator[None]:
    """Statements inside the block are ours, should the table have a guard."""
    kind = "mysql" if on.dialect.name == "mariadb" else on.dialect.name
    begin, end = PASSES[kind]
    on.exec_driver_sql(begin)
    try:
        yield
    except BaseException:
        if kind == "mysql" and not on.invalidated:  # the others' passes are rolled back with the statement
            on.exec_driver_sql(end)
        raise
    on.exec_driver_sql(end)


def _word(source: Source, status: Status) -> str:
    words = source.words
    found = {Status.COMPLETED: words.done, Status.FAILED: words.failed, Status.QUEUED: words.queued}
    return found.get(status, words.cancelled)
