"""Reading a database as it is at one moment, while everybody else goes on writing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import event, text
from sqlalchemy.engine import Connection, create_engine
from sqlalchemy.exc import DBAPIError

from app.tasks.database import Database
from app.tasks.errors import DatabaseUnavailable


@contextmanager
def snapshot(database: Database) -> Iterator[Connection]:
    """A connection all of whose reads see the same moment. It writes nothing and holds nobody up.

    Raises `DatabaseUnavailable`: what was read before is worth nothing without the rest.
    """
    engine = create_engine(database.url, **_OPTIONS[database.kind])
    if database.kind == "sqlite":
        event.listen(engine, "connect", _no_begin_of_the_drivers_own)
    try:
        with engine.connect() as connection:
            for statement in _BEGIN[database.kind]:
                connection.execute(text(statement))
            yield connection
            connection.rollback()
    except DBAPIError as error:
        raise DatabaseUnavailable(f"the database did not answer: {type(error.orig).__name__}") from error
    finally:
        engine.dispose()


def _no_begin_of_the_drivers_own(connection: object, _record: object) -> None:
    connection.isolation_level = None  # type: ignore[attr-defined]


_OPTIONS: dict[str, dict[str, object]] = {
    "mysql": {
        "isolation_level": "REPEATABLE READ",
        "connect_args": {"charset": "utf8mb4", "init_command": "SET time_zone='+00:00'"},
    },
    "postgresql": {
        "isolation_level": "REPEATABLE READ",
        "connect_args": {"options": "-c timezone=UTC"},
    },
    "sqlite": {},
}
_BEGIN = {
    "mysql": ("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY",),
    "postgresql": ("SET TRANSACTION READ ONLY", "SELECT 1"),
    "sqlite": ("BEGIN", "SELECT COUNT(*) FROM tasks"),
}
