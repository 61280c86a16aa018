"""A backup keeps every row of one moment, and a restore brings it back: whole, or not at all."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from app.tasks.database import Database
from app.tasks.migrate import migrate
from app.transfer import backup
from app.transfer.archive import ArchiveRefused
from app.transfer.backup import NotEmpty, Restore, tables
from app.transfer.digests import row_digest
from app.transfer.dumps import TOOLS
from tests.contract.parts import MakeStore
from tests.contract.rows import Rows
from tests.contract.test_digests import NASTY

STATUSES = ("SCHEDULED", "QUEUED", "DISPATCHED", "PROCESSING", "COMPLETED", "FAILED", "CANCELLED")


@pytest.fixture
def filled(rows: Rows, make_store: MakeStore, monkeypatch: pytest.MonkeyPatch) -> Rows:
    """Rows of every status and shape; read in many parts."""
    monkeypatch.setattr(backup, "ROWS_AT_ONCE", 3)
    monkeypatch.setattr(backup, "INSERT_ROWS", 2)
    monkeypatch.setattr(backup, "DELETE_ROWS", 3)
    make_store(rows)
    for status in STATUSES:
        rows.put(status, count=2)
    for columns in NASTY:
        rows.put("FAILED", **columns)
    rows.execute(
        "INSERT INTO task_events (task_id, at, kind, detail) VALUES (1000, :at, 'was', '{}')", at=rows.at(0)
    )
    return rows


@pytest.fixture
def kept(filled: Rows, tmp_path: Path) -> Path:
    backup.create(filled.database, tmp_path / "backup", facts={"settings": {"A": "1"}})
    return tmp_path / "backup"


def content(rows: Rows) -> dict[str, list[Any]]:
    """Every row of every table that is backed up, but for what a restore forgets on purpose."""
    found = {}
    for table in tables():
        key = next(iter(table.primary_key.columns)).name
        read = rows.execute(f"SELECT * FROM {table.name} ORDER BY {key}")
        found[table.name] = [dict(row._mapping) | {"confirmed_in": 0} for row in read]
    return found


def test_a_restore_brings_every_row_back(filled: Rows, kept: Path) -> None:
    before = content(filled)
    filled.execute("UPDATE tasks SET payload = 'spoilt'")
    filled.execute("DELETE FROM task_events")

    Restore(kept).into(filled.database, replace=True)

    assert content(filled) == before
    assert filled.scalar("SELECT COUNT(*) FROM tasks WHERE confirmed_in <> 0") == 0
    assert len(before["tasks"]) == 2 * len(STATUSES) + len(NASTY)


def test_rows_that_must_go_are_deleted_in_parts(filled: Rows, kept: Path) -> None:
    deleted: list[int] = []

    def count(_on: Any, cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("DELETE FROM tasks"):
            deleted.append(cursor.rowcount)

    event.listen(filled.database.engine, "after_cursor_execute", count)
    Restore(kept).into(filled.database, replace=True)

    assert sum(deleted) == 2 * len(STATUSES) + len(NASTY)
    assert max(deleted) == 3


def test_new_events_get_numbers_of_their_own_after_a_restore(filled: Rows, kept: Path) -> None:
    Restore(kept).into(filled.database, replace=True)

    statement = "INSERT INTO task_events (task_id, at, kind, detail) VALUES (1001, :at, 'new', '{}')"
    filled.execute(statement, at=filled.at(0))

    assert filled.scalar("SELECT COUNT(*) FROM task_events") == 2


def test_a_table_with_rows_is_left_alone_unless_they_may_go(filled: Rows, kept: Path) -> None:
    before = content(filled)

    with pytest.raises(NotEmpty, match="tasks"):
        Restore(kept).into(filled.database)

    assert content(filled) == before


def test_a_backup_that_was_changed_is_refused_and_nothing_happens(filled: Rows, kept: Path) -> None:
    part = kept / "tasks-00001.gz"
    part.write_bytes(part.read_bytes()[:-1] + b"\1")
    before = content(filled)

    with pytest.raises(ArchiveRefused, match="tasks-00001"):
        Restore(kept).into(filled.database, replace=True)

    assert content(filled) == before


def test_a_restore_that_fails_on_its_way_changes_nothing(
    filled: Rows, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = content(filled)
    restore = Restore(kept)
    monkeypatch.setitem(restore.counts, "tasks", 999)

    with pytest.raises(ArchiveRefused, match="999"):
        restore.into(filled.database, replace=True)

    assert content(filled) == before


def test_a_backup_is_of_one_moment_whatever_is_written_meanwhile(
    filled: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = content(filled)
    ask = backup._count

    def ask_and_write(on: Any, table: Any) -> int:
        count = ask(on, table)  # the snapshot is taken; now somebody else goes on
        if table.name == "tasks":
            filled.put("QUEUED", count=5)
            filled.execute("UPDATE tasks SET payload = 'later' WHERE status = 'COMPLETED'")
        return count

    monkeypatch.setattr(backup, "_count", ask_and_write)

    backup.create(filled.database, tmp_path / "of-one-moment", facts={})

    monkeypatch.setattr(backup, "_count", ask)
    Restore(tmp_path / "of-one-moment").into(filled.database, replace=True)
    assert content(filled)["tasks"] == before["tasks"]


def test_what_belongs_to_living_processes_is_not_in_it(kept: Path) -> None:
    names = {part["of"] for part in Restore(kept).facts["parts"]}

    assert "tasks" in names
    assert not names & {"locks", "workers"}


@pytest.fixture
def empty_sqlite(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path / 'other.db'}")
    migrate(database)
    yield database
    database.dispose()


def test_a_backup_of_any_database_is_restored_into_another(
    filled: Rows, kept: Path, empty_sqlite: Database
) -> None:
    Restore(kept).into(empty_sqlite)

    other = Rows(str(empty_sqlite.url), empty_sqlite)
    digests = {task_id: row_digest(row) for task_id, row in filled.all().items()}
    assert {task_id: row_digest(row) for task_id, row in other.all().items()} == digests
    other.close()


def test_a_dump_holds_the_rows_too_where_the_database_has_a_tool(filled: Rows, tmp_path: Path) -> None:
    facts = backup.create(filled.database, tmp_path / "dumped", facts={}, with_dump=True)

    assert facts["dumped_by"] == next(filter(shutil.which, TOOLS.get(filled.kind, ())), None)
    if facts["dumped_by"]:
        dumped = gzip.decompress((tmp_path / "dumped" / "dump.sql.gz").read_bytes())
        assert b"O'Hara" in dumped.replace(b"\\'", b"'")


def test_tables_of_another_revision_are_left_alone(
    filled: Rows, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup, "applied_revision", lambda _: "9999")

    with pytest.raises(ArchiveRefused, match="revision"):
        Restore(kept).into(filled.database, replace=True)


def test_rows_that_do_not_fit_are_refused(filled: Rows, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Restore, "_make_room", lambda *_, **__: None)  # so that each is there already
    before = content(filled)

    with pytest.raises(ArchiveRefused, match="do not fit"):
        Restore(kept).into(filled.database, replace=True)

    assert content(filled) == before
