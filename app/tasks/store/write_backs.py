"""The legacy rows of imported tasks: whether one is ours before a start, and what it is told at the end.

A row says `moved` from its import to the end of its task, whatever happens in between, and is written in the
transaction that ends the task. Only a row that still says so is written: whoever changed it has taken it.
Tasks that were not imported cost nothing here: their keys say so.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from app.tasks.database import Database, is_refusal
from app.tasks.errors import StatementRefused
from app.tasks.model import ENDED, Claim, Completed, Outcome, Status
from app.tasks.sources import Source, SourceKey, is_imported
from app.tasks.store import events
from app.tasks.store.driver_sql import DriverSql
from app.tasks.store.imports import Imports

TAKEN = "taken elsewhere: its legacy row is no longer marked as moved"

# How a database tells a guard (app.transfer.legacy.guard) that it is us: before our statement, and after it.
PASSES = {
    "mysql": ("SET @twintrack_writes = 1", "SET @twintrack_writes = NULL"),
    "postgresql": ("SET LOCAL twintrack.writes = 'on'", "SET LOCAL twintrack.writes = 'off'"),
    "sqlite": ("UPDATE legacy_sources SET writing = 1", "UPDATE legacy_sources SET writing = 0"),
}


class End(NamedTuple):
    """How an imported task has ended."""

    task_id: int
    key: SourceKey
    status: Status
    result: str | None = None
    error: str | None = None
    attempts: int | None = None


class WriteBacks:
    def __init__(self, database: Database, imports: Imports) -> None:
        self._database = database
        self._imports = imports
        self._sql = DriverSql(database)
        self._quote = database.engine.dialect.identifier_preparer.quote

    # --- before a start -------------------------------------------------------------------------------

    def taken(self, claims: Sequence[Claim]) -> list[Claim]:
        """Those of the claims whose legacy rows are not ours any more: an old worker took them, or they are
        gone. Asks the database only for imported tasks."""
        by_source: dict[str, dict[str, Claim]] = defaultdict(dict)
        for claim in claims:
            if (key := SourceKey.of_key(claim.idempotency_key)) is not None:
                by_source[key.source][key.key] = claim
        lost: list[Claim] = []
        for name, rows in by_source.items():
            source = self._imports.source(name)
            ours = self._database.read(lambda on, s=source, r=rows: self._ours(on, s, r)) if source else set()  # type: ignore[misc]
            lost += [claim for key, claim in rows.items() if key not in ours]
        return lost

    def _ours(self, on: Connection, source: Source, keys: Mapping[str, Any]) -> set[str]:
        key = self._quote(source.key)
        query = (
            f"SELECT {key} FROM {self._quote(source.table)} WHERE {key} IN ({self._sql.marks(len(keys))})"  # noqa: S608
            f" AND {self._quote(source.status)} = {self._sql.mark}"
        )
        rows = on.exec_driver_sql(query, (*keys, source.words.moved)).cursor.fetchall()
        return {str(row[0]) for row in rows}

    # --- at the end -----------------------------------------------------------------------------------

    def of_outcomes(
        self, on: Connection, outcomes: Sequence[Outcome], recorded: Mapping[int, Status]
    ) -> None:
        """Write back what these outcomes have ended, in the transaction that records them.

        Raises `StatementRefused` if the table does not take a completion; what failed or was cancelled is
        then told by its status alone, or by an event if even that is refused.
        """
        ends = []
        for outcome in outcomes:
            claim = outcome.claim
            status = recorded.get(claim.task_id)
            if status in ENDED and (key := SourceKey.of_key(claim.idempotency_key)) is not None:
                result = outcome.result if isinstance(outcome, Completed) else None
                error = getattr(outcome, "error", None)
                ends.append(End(claim.task_id, key, status, result, error, claim.attempt))
        self.write(on, ends)

    def of_row(self, on: Connection, row: Any, status: Status, error: str | None = None) -> None:
        """Write back one task that a verb has ended. `row` has its id and idempotency key."""
        if (key := SourceKey.of_key(row.idempotency_key)) is not None:
            self.write(on, [End(row.id, key, status, error=error)])

    def of_rows(self, on: Connection, rows: Sequence[Any], status: Status, error: str | None = None) -> None:
        """As `of_row`, of many."""
        found = [(row.id, SourceKey.of_key(row.idempotency_key)) for row in rows]
        self.write(on, [End(task_id, key, status, error=error) for task_id, key in found if key is not None])

    def write(self, on: Connection, ends: Sequence[End]) -> None:
        groups: dict[tuple[str, Status], list[End]] = defaultdict(list)
        for end in ends:
            groups[end.key.source, end.status].append(end)
        for (name, status), group in groups.items():
            source = self._imports.source(name, on)
            if source is not None:
                self._write_alike(on, source, status, sorted(group, key=lambda end: end.key))

    def _write_alike(self, on: Connection, source: Source, status: Status, ends: Sequence[End]) -> None:
        word = _word(source, status)
        if status is Status.COMPLETED:
            try:
                changed = self._update(on, source, word, source.write_back.get(status.value, {}), ends)
            except DBAPIError as error:
                if not is_refusal(error):
                    raise
                raise StatementRefused(f"the legacy row refused its end ({type(error).__name__})") from error
        else:
            changed = self._tell(on, source, word, source.write_back.get(status.value, {}), ends)
        if changed != len(ends):
            self._name_the_lost(on, source, word, ends)

    def _tell(
        self, on: Connection, source: Source, word: str, columns: Mapping[str, Any], ends: Sequence[End]
    ) -> int:
        """As much as the table takes of each. Returns how many rows were told something."""
        try:
            with on.begin_nested():
                return self._update(on, source, word, columns, ends)
        except DBAPIError as error:
            if not is_refusal(error):
                raise
            if len(ends) > 1:
                return sum(self._tell(on, source, word, columns, [end]) for end in ends)
            if columns:
                return self._tell(on, source, word, {}, ends)
            events.record(on, "its legacy row refused its end", [ends[0].task_id], status=word)
            return 1

    def _update(
        self, on: Connection, source: Source, word: str, columns: Mapping[str, Any], ends: Sequence[End]
    ) -> int:
        key, mark = self._quote(source.key), self._sql.mark
        settings, values = [f"{self._quote(source.status)} = {mark}"], [word]
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
            return self._sql.now, []
        each = [getattr(end, written["is"]) for end in ends]
        if len(set(each)) == 1:
            return self._sql.mark, each[:1]
        whens = f" WHEN {self._sql.mark} THEN {self._sql.mark}" * len(ends)
        pairs = [part for end, value in zip(ends, each, strict=True) for part in (end.key.key, value)]
        return f"CASE {key}{whens} END", pairs

    def _name_the_lost(self, on: Connection, source: Source, word: str, ends: Sequence[End]) -> None:
        """Rows that somebody had changed are left as they are; their tasks' history says so."""
        key = self._quote(source.key)
        query = (
            f"SELECT {key} FROM {self._quote(source.table)} WHERE {key} IN ({self._sql.marks(len(ends))})"  # noqa: S608
            f" AND {self._quote(source.status)} = {self._sql.mark}"
        )
        rows = on.exec_driver_sql(query, (*(end.key.key for end in ends), word)).cursor.fetchall()
        told = {str(row[0]) for row in rows}
        lost = [end.task_id for end in ends if end.key.key not in told]
        events.record(on, "its legacy row was changed by others", lost, status=word)

    # --- the way back -----------------------------------------------------------------------------------

    def give_back(self, name: str, *, limit: int) -> list[int]:
        """Queue the rows of tasks that never started anew, and cancel these tasks, both or neither.

        Returns the tasks' ids; repeat until there are none. What others have locked is left for a later
        call. Raises `DatabaseUnavailable`.
        """
        source = self._imports.source(name)
        if source is None:
            return []
        return self._database.run(lambda on: self._give_back(on, source, limit))

    def _give_back(self, on: Connection, source: Source, limit: int) -> list[int]:
        rows = self._imports.never_started(on, source.name, limit)
        if not rows:
            return []
        keys = {row.id: key.key for row in rows if (key := SourceKey.of_key(row.idempotency_key)) is not None}
        status, mark = self._quote(source.status), self._sql.mark
        statement = (
            f"UPDATE {self._quote(source.table)} SET {status} = {mark}"  # noqa: S608 - checked names
            f" WHERE {self._quote(source.key)} IN ({self._sql.marks(len(keys))}) AND {status} = {mark}"
        )
        with passing_guard(on):
            on.exec_driver_sql(statement, (source.words.queued, *keys.values(), source.words.moved))
        self._imports.close_given_back(on, [row.id for row in rows])
        return list(keys)

    # --- an operator's retry ----------------------------------------------------------------------------

    def reopen(self, on: Connection, row: Any) -> bool:
        """Mark the row of a task that is to run again as moved. False: it lives on without us."""
        key = SourceKey.of_key(row.idempotency_key)
        source = self._imports.source(key.source, on) if key is not None else None
        if key is None or source is None:
            return not is_imported(row.idempotency_key)
        status, mark = self._quote(source.status), self._sql.mark
        words = list(dict.fromkeys((source.words.failed, source.words.cancelled, source.words.queued)))
        words.append(source.words.moved)
        statement = (
            f"UPDATE {self._quote(source.table)} SET {status} = {mark}"  # noqa: S608 - checked names
            f" WHERE {self._quote(source.key)} = {mark} AND {status} IN ({self._sql.marks(len(words))})"
        )
        with passing_guard(on):
            return on.exec_driver_sql(statement, (source.words.moved, key.key, *words)).rowcount == 1


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
    return {Status.COMPLETED: words.done, Status.FAILED: words.failed}.get(status, words.cancelled)
