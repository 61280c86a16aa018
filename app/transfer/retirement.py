"""An old system's table retires: its rows go into an archive that is read back, and only then it may go.

Refuses our own tables. Who still writes to a table that goes is met by an error at once: it is renamed before
the archive is written, so that no row can come behind it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from datetime import time as time_of_day
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, func, inspect, select, table, text
from sqlalchemy import column as column_of

from app.tasks.database import Database
from app.tasks.schema import metadata
from app.transfer.archive import Archive, ArchiveRefused, ArchiveWriter
from app.transfer.errors import NotPossible
from app.transfer.progress import Progress
from app.transfer.snapshots import snapshot

KIND = "twintrack-retired-table"
SUFFIX = "_retiring"
ROWS_AT_ONCE = 1_000
OUR_OWN = frozenset({*metadata.tables, "alembic_version"})


@dataclass(frozen=True, slots=True)
class Retired:
    table: str
    rows: int
    folder: Path
    dropped: bool


def retire(
    database: Database, name: str, folder: Path, *, drop: bool, progress: Progress | None = None
) -> Retired:
    """Archive the table, hold the archive against its checksums and its count of rows, and drop it if wanted.

    A run that is cut short leaves the table, if it was to go under its name with `_retiring`; the next one
    goes on with it. Raises `NotPossible`, `ArchiveRefused`, `FileExistsError`, `DatabaseUnavailable`.
    """
    present = _present(database, name)
    if drop and present == name:
        _execute(
            database, f"ALTER TABLE {_quoted(database, name)} RENAME TO {_quoted(database, name + SUFFIX)}"
        )
        present = name + SUFFIX
    rows = _archive(database, present, folder, progress)
    _read_back(folder, rows)
    if drop:
        _execute(database, f"DROP TABLE {_quoted(database, present)}")
    return Retired(name, rows, folder, drop)


def _present(database: Database, name: str) -> str:
    """The table's name now: its own, or the one that an earlier run gave it."""
    if name.lower() in OUR_OWN:
        raise NotPossible(f"{name} is a table of this system, and no old one")
    names = set(database.read(lambda on: inspect(on).get_table_names()))
    for candidate in (name, name + SUFFIX):
        if candidate in names:
            return candidate
    raise NotPossible(f"there is no table {name}")


def _archive(database: Database, name: str, folder: Path, progress: Progress | None) -> int:
    with ArchiveWriter(folder, KIND) as archive, snapshot(database) as on:
        columns = [{"name": c["name"], "type": str(c["type"])} for c in inspect(on).get_columns(name)]
        if progress:
            progress.stage(
                name, total=int(on.execute(select(func.count()).select_from(table(name))).scalar_one())
            )
        rows = archive.write_lines("rows", _lines(on, name, [str(c["name"]) for c in columns], progress))
        archive.facts = {"table": name, "columns": columns, "rows": rows, "database": database.kind}
    return rows


def _lines(on: Connection, name: str, columns: list[str], progress: Progress | None) -> Iterator[str]:
    query: Any = select(*[column_of(one) for one in columns]).select_from(table(name))
    found = on.execution_options(yield_per=ROWS_AT_ONCE).execute(query)
    for part in found.partitions():
        for row in part:
            yield json.dumps(list(row), ensure_ascii=False, default=_kept)
        if progress:
            progress.step(len(part))


def _kept(value: Any) -> Any:
    """A value that JSON has no word for. Bytes as base64; times, exact numbers and all else as text."""
    if isinstance(value, bytes | bytearray | memoryview):
        return {"base64": base64.b64encode(bytes(value)).decode("ascii")}
    return value.isoformat() if isinstance(value, date | time_of_day) else str(value)


def _read_back(folder: Path, rows: int) -> None:
    archive = Archive(folder, KIND)
    archive.check()
    kept = sum(1 for _ in archive.lines("rows"))
    if kept != rows:
        raise ArchiveRefused(f"{folder} has {kept} lines of {rows} rows")


def _execute(database: Database, statement: str) -> None:
    database.run(lambda on: on.execute(text(statement)))


def _quoted(database: Database, name: str) -> str:
    return database.engine.dialect.identifier_preparer.quote(name)
