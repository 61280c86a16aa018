"""Named databases: what records are read from and written to, whatever SQLAlchemy can reach.

`app.database_names` says where one is; STAGING_GLOBAL_SALES_POOL_SIZE and …_MAX_OVERFLOW how many connections
`sales` has in the tier `staging`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session
from sqlalchemy.pool import QueuePool

from app.database_names import QUEUE_DATABASE as QUEUE_DATABASE
from app.database_names import url_of, variables_of
from app.tasks.database import Database
from app.tasks.errors import DatabaseUnavailable
from app.tasks.migrate import applied_revision, migrate, pending, revisions
from config import Config, ConfigError

CONNECT_TIMEOUT_SECONDS = 5
HEALTH_TRIES = 3
RETRY_SECONDS = 0.2
TIMED_DRIVERS = ("pymysql", "mysqldb", "psycopg", "psycopg2")

Parameters = Mapping[str, Any] | Sequence[Mapping[str, Any]] | None
Statement = str | tuple[str, Parameters]


class Rows(list[tuple[Any, ...]]):
    """What a statement gave: its rows, and how many it returned or changed."""

    def __init__(self, rows: Sequence[tuple[Any, ...]], rowcount: int) -> None:
        super().__init__(rows)
        self.rowcount = rowcount


class DatabaseManager:
    """One named database, or with a `Config` all of them. Connects with the first statement; safe for
    threads. Errors of a statement are SQLAlchemy's own; `DatabaseUnavailable` is an outage."""

    def __init__(self, name: str | Config = QUEUE_DATABASE, *, config: Config | None = None) -> None:
        """Raises `ConfigError` for a name that no variable resolves."""
        given = name if isinstance(name, Config) else config
        self.config = Config() if given is None else given
        self.name = QUEUE_DATABASE if isinstance(name, Config) else name
        self._engines: dict[str, Engine] = {}
        self._lock = threading.Lock()
        url_of(self.config, self.name)

    def queue_config(self) -> Config:
        """The settings of a task system over this database."""
        url = url_of(self.config, self.name).render_as_string(hide_password=False)
        return self.config.model_copy(update={"DATABASE_URL": url})

    # --- statements -----------------------------------------------------------------------------------

    def execute_query(self, first: str, second: str | Parameters = None, third: Parameters = None) -> Rows:
        """`execute_query(sql, parameters)` or `execute_query(database, sql, parameters)`: one statement in a
        transaction of its own. Parameters are named, `:name` in the SQL; a list of them repeats it."""
        if isinstance(second, str):
            return self._execute(first, second, third)
        return self._execute(self.name, first, second)

    def execute_transaction(self, statements: Sequence[Statement], database: str | None = None) -> list[int]:
        """Several statements, each SQL or (SQL, parameters): all or none. Returns how many rows each one
        changed."""
        with self._connected(database or self.name) as engine, engine.begin() as on:
            pairs = [one if isinstance(one, tuple) else (one, None) for one in statements]
            return [on.execute(text(sql), parameters).rowcount for sql, parameters in pairs]

    @contextmanager
    def get_session(self, database: str | None = None) -> Iterator[Session]:
        """A session that commits at the end of the block, and rolls back if it raises."""
        with self._connected(database or self.name) as engine, Session(engine) as session, session.begin():
            yield session

    def _execute(self, database: str, sql: str, parameters: Parameters) -> Rows:
        with self._connected(database) as engine, engine.begin() as on:
            result = on.execute(text(sql), parameters)
            if not result.returns_rows:
                return Rows([], result.rowcount)
            rows = [tuple(row) for row in result]
            return Rows(rows, len(rows))

    # --- looking --------------------------------------------------------------------------------------

    def health_check(self, database: str | None = None, *, retry: bool = True) -> dict[str, Any]:
        """`status` healthy, degraded (slow, or only a later try was answered) or unhealthy; `connection`,
        `response_time_ms`, `tries` and, if it failed, the kind of `error`. Never raises."""
        name, tries = database or self.name, HEALTH_TRIES if retry else 1
        said: dict[str, Any] = {"database": name, "connection": False, "response_time_ms": None}
        for number in range(1, tries + 1):
            began = time.perf_counter()
            try:
                self._execute(name, "SELECT 1", None)
            except (SQLAlchemyError, DatabaseUnavailable, ConfigError) as error:
                said |= {"status": "unhealthy", "tries": number, "error": type(error).__name__}
                if number < tries:
                    time.sleep(RETRY_SECONDS)
                continue
            milliseconds = (time.perf_counter() - began) * 1000
            slow = milliseconds > self.config.ALERT_DATABASE_RESPONSE_WARNING
            said |= {"connection": True, "response_time_ms": round(milliseconds, 2), "tries": number}
            return said | {"status": "degraded" if slow or number > 1 else "healthy"}
        return said

    def get_pool_status(self, database: str | None = None) -> dict[str, Any]:
        """The pool's sizes and use now. Without a pool (SQLite in memory) the numbers are 0."""
        name = database or self.name
        pool = self._engine(name).pool
        size, overflow = _pool_sizes(self.config, name)
        if not isinstance(pool, QueuePool):
            size, overflow, out, idle = 0, 0, 0, 0
        else:
            out, idle = pool.checkedout(), pool.checkedin()
        most = size + overflow
        return {
            "database": name,
            "pool_size": size,
            "max_overflow": overflow,
            "checked_out": out,
            "checked_in": idle,
            "utilization_percent": round(100 * out / most, 1) if most else 0.0,
        }

    # --- tables ---------------------------------------------------------------------------------------

    def run_migrations(self) -> list[str]:
        """Bring the tables of the queue up to date. Returns the revisions that were applied."""
        with self._queue() as database:
            missing = pending(database)
            migrate(database)
            return missing

    def get_migration_status(self) -> dict[str, Any]:
        """`current_version`, and `pending_migrations`, oldest first."""
        with self._queue() as database:
            missing = pending(database)
            return {
                "database": self.name,
                "current_version": applied_revision(database),
                "pending_migrations": missing,
                "total_migrations": len(revisions()),
                "is_current": not missing,
            }

    def close(self) -> None:
        """Close the pools; the object stays usable."""
        with self._lock:
            engines, self._engines = self._engines, {}
        for engine in engines.values():
            engine.dispose()

    @contextmanager
    def _queue(self) -> Iterator[Database]:
        database = Database(url_of(self.config, self.name), pool_size=1)
        try:
            yield database
        finally:
            database.dispose()

    @contextmanager
    def _connected(self, name: str) -> Iterator[Engine]:
        """The engine; a lost or refused connection is told as such, without what the URL keeps secret."""
        engine = self._engine(name)
        try:
            yield engine
        except PoolTimeout as error:
            raise DatabaseUnavailable(f"no connection to the database {name} came free") from error
        except DBAPIError as error:
            if error.statement is not None and not error.connection_invalidated:
                raise  # it answered
            reason = type(error).__name__
            raise DatabaseUnavailable(f"the database {name} cannot be reached: {reason}") from error

    def _engine(self, name: str) -> Engine:
        with self._lock:
            if name not in self._engines:
                self._engines[name] = _make_engine(self.config, name)
            return self._engines[name]


def _make_engine(config: Config, name: str) -> Engine:
    url = url_of(config, name)
    # a server may have closed what nobody used for a while: asking first costs a trip, and saves a statement
    options: dict[str, Any] = {"pool_pre_ping": True}
    if not (url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:")):
        options["pool_size"], options["max_overflow"] = _pool_sizes(config, name)
    try:
        if url.get_driver_name() in TIMED_DRIVERS:
            options["connect_args"] = {"connect_timeout": CONNECT_TIMEOUT_SECONDS}
        return create_engine(url, **options)
    except ModuleNotFoundError as error:
        raise ConfigError([f"The database {name} needs {error.name}, which is not installed."]) from None
    except (ArgumentError, NoSuchModuleError):
        raise ConfigError([f"The database {name} is of a kind that no driver here understands."]) from None


def _pool_sizes(config: Config, name: str) -> tuple[int, int]:
    prefix = variables_of(config, name)
    defaults = {"POOL_SIZE": config.DB_POOL_SIZE, "MAX_OVERFLOW": config.DB_MAX_OVERFLOW}
    sizes = []
    for word, default in defaults.items():
        variable = f"{prefix}_{word}"
        given = config.variable(variable)
        if given is not None and not (
            given.isdecimal() and 0 < int(given) + (word == "MAX_OVERFLOW") <= 1001
        ):
            raise ConfigError([f"{variable} must be a whole number of connections, not {given[:20]!r}."])
        sizes.append(default if given is None else int(given))
    return sizes[0], sizes[1]
