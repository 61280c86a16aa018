"""SQLite databases whose tables are there from the beginning: copies of one that this process has migrated.

A migration costs more than most tests that need one. Those that judge migrations begin with an empty file.
"""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

from app.tasks.database import Database
from app.tasks.migrate import migrate

_FILE = "sqlite:///"


def put_tables(url: str) -> None:
    """Put our tables, empty, where a SQLite database does not exist yet. Other databases are left alone."""
    if not url.startswith(_FILE):
        return
    path = Path(url.removeprefix(_FILE))
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_migrated())


@cache
def _migrated() -> bytes:
    with tempfile.TemporaryDirectory(prefix="twintrack-test-") as folder:
        path = Path(folder) / "empty.db"
        database = Database(f"{_FILE}{path}")
        migrate(database)
        database.dispose()
        assert [found.name for found in path.parent.iterdir()] == [path.name], "a part of it lies beside it"
        return path.read_bytes()
