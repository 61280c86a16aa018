"""Migrations: safe to repeat, safe for processes that start together, and equal to what the code believes."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine, inspect, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.pool import NullPool

from app.tasks.database import Database
from app.tasks.errors import StatementRefused, TaskError
from app.tasks.migrate import applied_revision, migrate, pending
from app.tasks.schema import metadata

ROOT = Path(__file__).resolve().parents[2]
MIGRATE = "import sys; from app.tasks.database import Database; from app.tasks.migrate import migrate;" + (
    " database = Database(sys.argv[1]); migrate(database); database.dispose()"
)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    made = Database(database_url)
    yield made
    made.dispose()


def test_processes_that_start_together_migrate_an_empty_database_once(database_url: str) -> None:
    starting = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", MIGRATE, database_url],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    errors = [process.communicate(timeout=60)[1] for process in starting]
    assert [process.returncode for process in starting] == [0, 0], errors
    engine = create_engine(database_url, poolclass=NullPool)
    with engine.connect() as connection:
        revisions = list(connection.execute(text("SELECT version_num FROM alembic_version")))
        assert len(revisions) == 1
        assert set(metadata.tables) < set(inspect(connection).get_table_names())


def test_migrations_that_fail_on_their_way_leave_nothing(database: Database) -> None:
    """Else a process that starts at the same moment could go on between two of them. MariaDB's tables commit
    themselves: there a named lock is held from the first to the last."""
    last = "CREATE TABLE variables (name VARCHAR(10))"
    database.run(lambda on: on.execute(text(last)))
    with pytest.raises(TaskError):
        migrate(database)
    with database.engine.connect() as connection:
        left = set(inspect(connection).get_table_names())
    if database.kind != "mysql":
        assert left == {"variables"}
    database.run(lambda on: on.execute(text("DROP TABLE variables")))
    migrate(database)
    assert pending(database) == []


def test_the_migrated_schema_is_the_one_that_the_code_believes_in(database: Database) -> None:
    assert applied_revision(database) is None
    assert pending(database) != []
    migrate(database)
    assert pending(database) == []
    migrate(database)  # a second time changes nothing
    with database.engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": False}
        )
        assert compare_metadata(context, metadata) == []


def test_the_database_itself_refuses_what_no_row_may_hold(database: Database) -> None:
    migrate(database)
    good = {"id": 1, "name": "n", "status": "'QUEUED'", "priority": 2, "payload": "'{}'"}
    wrong: list[dict[str, Any]] = [{"status": "'WAITING'"}, {"priority": 4}, {"priority": -1}]

    def put(row: dict[str, Any]) -> None:
        created = "'2026-01-01 00:00:00'"
        statement = (
            "INSERT INTO tasks (id, name, status, priority, payload, created_at)"
            f" VALUES ({row['id']}, '{row['name']}', {row['status']}, {row['priority']},"
            f" {row['payload']}, {created})"
        )
        database.run(lambda on: on.execute(text(statement)))

    for part in wrong:
        with pytest.raises((IntegrityError, StatementRefused)) as caught:
            put(good | part)
        assert re.search("(?i)check|constraint", f"{caught.value} {caught.value.__cause__}")
    put(good)
    with pytest.raises(IntegrityError):
        put(good)
    row = database.read(lambda on: on.execute(text("SELECT * FROM tasks")).one())
    assert (row.epoch, row.attempt, row.failures, row.confirmed_in, row.progress_percent) == (1, 0, 0, 0, 0)
    assert not row.cancel_requested
    assert not row.held
