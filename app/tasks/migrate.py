"""Bring a database's tables up to date: Alembic, one process at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config as AlembicConfig
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlalchemy.engine import Connection

from app.tasks.database import Database

FOLDER = Path(__file__).parent / "migrations"
LOCK_WAIT_SECONDS = 120
_POSTGRESQL_LOCK = 7_714_830_115_261  # any constant that is ours


def migrate(database: Database) -> None:
    """Apply every pending migration. Processes that start together wait for the first.

    Raises `DatabaseUnavailable`.
    """
    if not pending(database):
        return

    def work(connection: Connection) -> None:
        with _alone(connection, database.kind):
            command.upgrade(_alembic(connection), "head")
            if database.kind == "mysql":
                connection.commit()  # before the lock goes: its DDL has committed itself, the version has not

    database.run(work)


def pending(database: Database) -> list[str]:
    """Revisions that are not applied yet, oldest first."""
    script = ScriptDirectory.from_config(_alembic(None))

    def current(connection: Connection) -> tuple[str, ...]:
        return MigrationContext.configure(connection).get_current_heads()

    applied = database.read(current)
    newer = [revision.revision for revision in script.iterate_revisions("heads", applied or "base")]
    return newer[::-1]


def revisions() -> list[str]:
    """Every revision there is, oldest first."""
    script = ScriptDirectory.from_config(_alembic(None))
    return [revision.revision for revision in script.iterate_revisions("heads", "base")][::-1]


def _alembic(connection: Connection | None) -> AlembicConfig:
    config = AlembicConfig()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


@contextmanager
def _alone(connection: Connection, kind: str) -> Iterator[None]:
    """A lock held by this connection; on SQLite its transaction, the only writer. It begins here, for Alembic
    would end one of its own after each revision, and another process would come between."""
    if kind == "mysql":
        take = text("SELECT GET_LOCK('twintrack_migrate', :seconds)")
        connection.execute(take, {"seconds": LOCK_WAIT_SECONDS})
    elif kind == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _POSTGRESQL_LOCK})
    else:
        connection.execute(text("SELECT 1"))
    try:
        yield
    finally:
        if kind == "mysql":
            connection.execute(text("SELECT RELEASE_LOCK('twintrack_migrate')"))


def applied_revision(database: Database) -> Any:
    """The revision that the database is at; None before the first."""
    return database.read(lambda on: MigrationContext.configure(on).get_current_revision())
