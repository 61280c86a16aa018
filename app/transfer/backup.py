"""Backup and restore: every table's rows as compressed JSON lines, from one moment, on any database.

A backup of one kind of database can be restored into another. What is not kept: named locks and the rows
of workers, which belong to living processes, and Redis, whose tickets the sweeper makes again from the rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Boolean,
    ColumnElement,
    Insert,
    SmallInteger,
    Table,
    bindparam,
    func,
    insert,
    select,
    text,
    true,
)
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from app.tasks.database import Database
from app.tasks.migrate import applied_revision
from app.tasks.schema import PriorityRank, UtcDateTime, metadata
from app.transfer.archive import Archive, ArchiveRefused, ArchiveWriter
from app.transfer.digests import time_text
from app.transfer.dumps import dump
from app.transfer.progress import Progress
from app.transfer.snapshots import snapshot

KIND = "twintrack-backup"
LEFT_OUT = frozenset({"locks", "workers"})
# Never emptied unasked: work, what is known of it, and what an operator has set.
PRECIOUS = frozenset({"tasks", "task_events", "schedules", "transfers", "procedures"}) | frozenset(
    {"flow_execution_logs", "variables", "tag_limits"}
)
ROWS_AT_ONCE = 1_000  # of the largest payloads: a quarter of a gigabyte
INSERT_ROWS = 1_000
DELETE_ROWS = 50_000


class NotEmpty(Exception):
    """The tables hold rows, and nobody said that they may go."""


def tables() -> list[Table]:
    """What is backed up."""
    return [table for table in metadata.sorted_tables if table.name not in LEFT_OUT]


def create(
    database: Database,
    folder: Path,
    *,
    facts: Mapping[str, Any],
    with_dump: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Back up every table; `facts` are kept in the manifest as they are. Returns the manifest's facts.

    `with_dump` adds what the database's own tool writes, where that tool is installed. Raises
    `FileExistsError`, `DatabaseUnavailable`, `DumpFailed`; then nothing is left behind.
    """
    counts: dict[str, int] = {}
    with ArchiveWriter(folder, KIND) as archive:
        with snapshot(database) as on:
            for table in tables():
                if progress:
                    progress.stage(table.name, total=_count(on, table))
                counts[table.name] = archive.write_lines(table.name, _lines(on, table, progress))
        dumped = dump(database.url, archive.place("dump.sql.gz")) if with_dump else None
        if dumped:
            archive.adopt("dump.sql.gz")
        archive.facts = {
            **facts,
            "database": database.kind,
            "revision": applied_revision(database),
            "tables": counts,
            "dumped_by": dumped,
            "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
    return archive.facts


def _count(on: Connection, table: Table) -> int:
    return int(on.execute(select(func.count()).select_from(table)).scalar_one())


def _lines(on: Connection, table: Table, progress: Progress | None) -> Iterator[str]:
    """The rows of a table in order of its key, each as a JSON list of its columns' values."""
    keys = [column.name for column in table.primary_key.columns]
    names = ", ".join(column.name for column in table.columns)
    key = ", ".join(keys)
    beyond = f"WHERE ({key}) > ({', '.join(f':{name}' for name in keys)})"
    last: dict[str, Any] = {}
    while True:
        bound = beyond if last else ""
        query = text(f"SELECT {names} FROM {table.name} {bound} ORDER BY {key} LIMIT :rows")  # noqa: S608
        rows = on.execute(query, {"rows": ROWS_AT_ONCE} | last).all()
        for row in rows:
            yield json.dumps(list(map(_kept, table.columns, row)), ensure_ascii=False)
        if progress:
            progress.step(len(rows))
        if len(rows) < ROWS_AT_ONCE:
            return
        last = {name: rows[-1]._mapping[name] for name in keys}


def _kept(column: Any, value: Any) -> Any:
    """A value as JSON has it, the same from every database."""
    if value is None:
        return None
    if isinstance(column.type, UtcDateTime):
        return time_text(value)
    return bool(value) if isinstance(column.type, Boolean) else value


class Restore:
    """A backup that is to be restored. Raises `ArchiveRefused` unless every byte is as it was written."""

    def __init__(self, folder: Path) -> None:
        self._archive = Archive(folder, KIND)
        self._archive.check()
        self.counts: dict[str, int] = self._archive.facts["tables"]
        self.facts = self._archive.facts

    def into(self, database: Database, *, replace: bool = False, progress: Progress | None = None) -> None:
        """Fill the tables. With `replace`, what they hold goes first.

        All in one transaction: a restore that fails changes nothing. Tickets count as not seen, so that the
        sweeper looks for each. Raises `NotEmpty`, `ArchiveRefused` for another revision of the tables, and
        the database's errors.
        """
        revision = applied_revision(database)
        if revision != self.facts["revision"]:
            wanted = self.facts["revision"]
            raise ArchiveRefused(f"the backup is of revision {wanted}, the tables are of {revision}")

        def work(on: Connection) -> None:
            self._make_room(on, replace=replace)
            for table in tables():
                self._fill(on, table, progress)
            _continue_numbers(on)

        try:
            database.run(work)
        except IntegrityError:
            raise ArchiveRefused("the rows of the backup do not fit the tables") from None

    def _make_room(self, on: Connection, *, replace: bool) -> None:
        if not replace:
            full = [table.name for table in tables() if table.name in PRECIOUS and _count(on, table)]
            if full:
                raise NotEmpty(f"{', '.join(full)} hold rows")
        for table in reversed(tables()):
            _empty(on, table)

    def _fill(self, on: Connection, table: Table, progress: Progress | None) -> None:
        if progress:
            progress.stage(table.name, total=self.counts.get(table.name))
        lines = self._archive.lines(table.name)
        statement = _insertion(table)
        written = 0
        while rows := [_row(table, line) for line in islice(lines, INSERT_ROWS)]:
            on.execute(statement, rows)
            written += len(rows)
            if progress:
                progress.step(len(rows))
        if written != self.counts.get(table.name, 0):
            raise ArchiveRefused(f"{table.name}: {written} rows in the backup, not {self.counts[table.name]}")


def _empty(on: Connection, table: Table) -> None:
    """In parts: of a large table one statement would not be done while a connection waits for its answer."""
    key = next(iter(table.primary_key.columns))
    beyond: ColumnElement[bool] = true()
    while True:
        end = select(key).where(beyond).order_by(key).offset(DELETE_ROWS - 1).limit(1)
        last = on.execute(end).scalar()
        if last is None:
            on.execute(table.delete().where(beyond))
            return
        on.execute(table.delete().where(beyond, key <= last))
        beyond = key > last  # past what is deleted and still has to be walked over until the end


def _insertion(table: Table) -> Insert:
    """An insert that takes ranks as they are stored: the lane of a flow's records is one that no `Priority`
    spells."""
    ranks = [column.name for column in table.columns if isinstance(column.type, PriorityRank)]
    return insert(table).values({name: bindparam(name, type_=SmallInteger) for name in ranks})


def _row(table: Table, line: str) -> dict[str, Any]:
    row = {
        column.name: _restored(column, value)
        for column, value in zip(table.columns, json.loads(line), strict=True)
    }
    return row | {"confirmed_in": 0} if table.name == "tasks" else row


def _restored(column: Any, value: Any) -> Any:
    """The value as the column's type takes it."""
    if value is None:
        return None
    if isinstance(column.type, UtcDateTime):
        return datetime.fromisoformat(value).replace(tzinfo=UTC)
    to_type = getattr(column.type, "process_result_value", None)
    return value if to_type is None or isinstance(column.type, PriorityRank) else to_type(value, None)


def _continue_numbers(on: Connection) -> None:
    """PostgreSQL counts rows apart from the table: new ones must not get numbers that were restored."""
    if on.dialect.name != "postgresql":
        return
    for table in tables():
        for column in table.primary_key.columns:
            if column.autoincrement is True:
                sequence = f"pg_get_serial_sequence('{table.name}', '{column.name}')"
                highest = f"(SELECT COALESCE(MAX({column.name}), 0) + 1 FROM {table.name})"  # noqa: S608
                on.execute(text(f"SELECT setval({sequence}, {highest}, false)"))


def latest(folder: Path, kind: str) -> Path | None:
    """The newest archive of a kind below `folder`, by name: names begin with the time."""
    found: Sequence[Path] = sorted(path.parent for path in folder.glob("*/manifest.json"))
    return next((path for path in reversed(found) if _is(path, kind)), None)


def _is(path: Path, kind: str) -> bool:
    try:
        Archive(path, kind)
    except ArchiveRefused:
        return False
    return True
