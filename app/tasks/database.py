"""Connections, transactions and the errors of four databases, behind one small object.

Owns the engines, the isolation level, deadlock retries and the translation of driver errors. It knows no
table. Statements live in `store` and in the few other modules that ARCHITECTURE.md names.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import Engine, create_engine, event, select
from sqlalchemy.engine import URL, Connection, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    IntegrityError,
    InterfaceError,
    NoSuchModuleError,
    OperationalError,
    ProgrammingError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import Pool, PoolProxiedConnection, QueuePool

from app.tasks.errors import DatabaseUnavailable, LoginRefused, SchemaMissing, StatementRefused
from app.tasks.schema import database_now

T = TypeVar("T")

CONNECT_TIMEOUT_SECONDS = 5
ANSWER_TIMEOUT_SECONDS = 60
SQLITE_BUSY_SECONDS = 15
TRIES = 6
LOOPBACK = ("localhost", "127.0.0.1", "::1", None)

_DEADLOCK_CODES = {1213, 1205, 1020}  # MySQL: deadlock, lock wait time-out, record changed
_DEADLOCK_STATES = {"40P01", "40001", "55P03"}  # PostgreSQL: deadlock, serialization, lock not available
# What a sound server says of values and of a statement, and PyMySQL reports as if it had gone away.
_VALUE_CODES = {1644, 3819, 4025, 3140}  # a trigger's signal, a check (MySQL's, MariaDB's), no JSON
_STATEMENT_CODES = {1054}  # no such column
_SIGNAL_STATE = "P0001"  # PostgreSQL: a trigger's exception
_LOGIN_CODES = {1044, 1045, 1698}  # MySQL: no access to the database, to the server, by this way
_LOGIN_WORDS = ("authentication failed", "pg_hba.conf", "role ", "permission denied for database")
_READ_ONLY_STATE = "25006"  # PostgreSQL: a standby, or a server that its operator made read-only


class CommitUnknown(DatabaseUnavailable):
    """The connection was lost while COMMIT was on its way: it may have happened. Read back, never repeat."""


class Database:
    """One database, reached through three pools: transactions, statements that commit by themselves, and the
    driver itself for who has no time for more. Only what is used gets connections."""

    def __init__(
        self,
        url: str | URL,
        *,
        pool_size: int = 5,
        max_overflow: int = 10,
        answer_seconds: int = ANSWER_TIMEOUT_SECONDS,
        own: bool = True,
    ) -> None:
        """Raises `ValueError` with a sentence for a URL that no driver understands. Does not connect. A
        server that does not answer for `answer_seconds` counts as away. One that is not our `own` stays as it
        is set up."""
        try:
            self.url = make_url(url)
            self.kind = self.url.get_backend_name()
            options = _engine_options(self.url, pool_size, max_overflow, answer_seconds)
            self.engine = create_engine(self.url, **options)
            alone = {"isolation_level": "AUTOCOMMIT", "skip_autocommit_rollback": True}
            self._auto = create_engine(self.url, **(options | alone))
            self._driver = create_engine(self.url, **_driver_options(self.url, options | alone))
        except (ArgumentError, NoSuchModuleError) as error:
            raise ValueError(f"DATABASE_URL is no usable database URL: {_first_line(error)}") from None
        except ModuleNotFoundError as error:
            drivers = "mysql+pymysql://, postgresql+psycopg:// or sqlite:///"
            raise ValueError(f"DATABASE_URL needs {error.name}, which is not here: use {drivers}") from None
        if self.kind == "mariadb":
            self.kind = "mysql"
        if self.kind not in ("sqlite", "mysql", "postgresql"):
            raise ValueError(f"DATABASE_URL names {self.kind}; SQLite, MariaDB/MySQL and PostgreSQL work")
        if self.kind == "sqlite":
            busy_seconds = min(SQLITE_BUSY_SECONDS, answer_seconds)
            _prepare_sqlite(self.engine, begin="BEGIN IMMEDIATE", busy_seconds=busy_seconds, own=own)
            _prepare_sqlite(self._auto, begin=None, busy_seconds=busy_seconds, own=own)
            _prepare_sqlite(self._driver, begin=None, busy_seconds=busy_seconds, own=own)
        if self.engine.driver == "pymysql":
            for engine in (self.engine, self._auto, self._driver):
                _connect_quickly(engine)

    def run(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in one transaction and commit.

        Deadlocks repeat the whole `work`, so it must not act outside the database. Raises
        `DatabaseUnavailable`, or `CommitUnknown` if only the answer to COMMIT is missing.
        """

        def once() -> T:
            with self.engine.connect() as connection:
                result = work(connection)
                _commit(connection)
                return result

        return _repeating(once)

    def read(self, work: Callable[[Connection], T]) -> T:
        """Run reading statements without a transaction. Repeats them once over a fresh connection."""

        def once() -> T:
            with self._auto.connect() as connection:
                return work(connection)

        return _repeating(once)

    def write_one(self, work: Callable[[Connection], T]) -> T:
        """Run exactly one statement that commits by itself: one round trip.

        Raises `CommitUnknown` when the connection was lost and it may have happened.
        """

        def once() -> T:
            with self._auto.connect() as connection:
                try:
                    return work(connection)
                except DBAPIError as error:
                    if error.connection_invalidated:
                        raise CommitUnknown("the database went away during a statement") from error
                    raise

        return _repeating(once)

    def direct(self, work: Callable[[Any], T]) -> T:
        """Run `work` with a cursor of the driver's own, whose statements commit by themselves unless they say
        BEGIN; on MySQL one text may hold several. For the few of the hot path: no layer's time is added.

        Deadlocks repeat the whole `work`. Raises as `run`; `CommitUnknown` whenever the connection was lost.
        """

        def once() -> T:
            connection = self._driver.raw_connection()
            try:
                return work(connection.cursor())
            except self._driver.dialect.dbapi.Error as error:  # type: ignore[union-attr]
                raise self._of_driver(error, connection) from error
            except BaseException:
                connection.invalidate()  # in the middle of who knows what
                raise
            finally:
                connection.close()

        return _repeating(once)

    def _of_driver(self, error: Exception, connection: PoolProxiedConnection) -> Exception:
        """The driver's error as SQLAlchemy would give it, the connection rolled back or thrown away."""
        dialect: Any = self._driver.dialect
        lost = dialect.is_disconnect(error, connection.dbapi_connection, None)
        try:
            if lost:
                connection.invalidate(error)
                return CommitUnknown("the database went away during a statement")
            connection.rollback()
        except dialect.dbapi.Error:
            connection.invalidate(error)
        return DBAPIError.instance(None, None, error, dialect.dbapi.Error, dialect=dialect)

    def now(self) -> Any:
        """The database's clock, aware UTC."""
        return self.read(lambda connection: connection.execute(select(database_now())).scalar_one())

    def pool_use(self) -> dict[str, float]:
        """How much of each pool's connections is in use, in percent of its most; 0 without a pool."""
        pools = {"transactions": self.engine, "statements": self._auto, "the driver's": self._driver}
        return {name: _use(engine.pool) for name, engine in pools.items()}

    def dispose(self) -> None:
        """Close the pooled connections; the object stays usable."""
        self.engine.dispose()
        self._auto.dispose()
        self._driver.dispose()


def _use(pool: Pool) -> float:
    if not isinstance(pool, QueuePool):
        return 0.0
    return round(100 * pool.checkedout() / (pool.size() + max(0, pool._max_overflow)), 1)


def _engine_options(url: URL, pool_size: int, max_overflow: int, answer_seconds: int) -> dict[str, Any]:
    kind = url.get_backend_name()
    # We always commit or roll back ourselves, so the pool's own reset would be one wasted round trip.
    options: dict[str, Any] = {"pool_reset_on_return": None, "pool_size": pool_size}
    options |= {"max_overflow": max_overflow, "pool_timeout": 10}
    if kind in ("mysql", "mariadb"):
        options["isolation_level"] = "READ COMMITTED"
        options["pool_recycle"] = 3600
        options["connect_args"] = {
            "charset": "utf8mb4",
            "connect_timeout": CONNECT_TIMEOUT_SECONDS,
            "read_timeout": answer_seconds,
            "write_timeout": answer_seconds,
            "init_command": "SET time_zone='+00:00', sql_mode='STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION'",
        }
        if url.host in LOOPBACK and not any(name.startswith("ssl") for name in url.query):
            # PyMySQL loads the system's certificates for each connection, 40 ms, if it may use TLS
            options["connect_args"]["ssl_disabled"] = True
    elif kind == "postgresql":
        options["connect_args"] = {
            "connect_timeout": CONNECT_TIMEOUT_SECONDS,
            "options": "-c timezone=UTC",
            # a dead server must not hold a worker for the kernel's two hours
            "tcp_user_timeout": answer_seconds * 1000,
        }
        if answer_seconds < ANSWER_TIMEOUT_SECONDS:
            options["connect_args"]["options"] += f" -c statement_timeout={answer_seconds * 1000}"
    elif kind == "sqlite":
        options["connect_args"] = {"timeout": SQLITE_BUSY_SECONDS}
    return options


def _driver_options(url: URL, options: dict[str, Any]) -> dict[str, Any]:
    """The options of the driver's own pool, whose statements all search by ids or walk one index."""
    arguments = dict(options["connect_args"])
    kind = url.get_backend_name()
    if kind in ("mysql", "mariadb"):
        from pymysql.constants import CLIENT  # only where its driver is used

        # rows count as changed when they matched, as SQLAlchemy has it
        arguments["client_flag"] = CLIENT.MULTI_STATEMENTS | CLIENT.FOUND_ROWS
        # a packet is a transaction of its own: under the default, its updates would lock gaps and the routing
        arguments["init_command"] += "; SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED"
    elif kind == "postgresql":
        # One plan, made once: nested loops along an index are right for no row and for millions.
        plans = ("enable_seqscan", "enable_bitmapscan", "enable_hashjoin", "enable_mergejoin", "jit")
        arguments["options"] += "".join(f" -c {plan}=off" for plan in plans)
        arguments["options"] += " -c plan_cache_mode=force_generic_plan"
    return options | {"connect_args": arguments}


def _connect_quickly(engine: Engine) -> None:
    from app.tasks.mysql_connection import QuickConnection  # only where its driver is used

    @event.listens_for(engine, "do_connect")
    def connect(_dialect: Any, _record: Any, arguments: Any, options: Any) -> Any:
        return QuickConnection(*arguments, **options)


def _prepare_sqlite(engine: Engine, *, begin: str | None, busy_seconds: int, own: bool) -> None:
    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # we say BEGIN, not the driver
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {busy_seconds * 1000}")
        if own:
            cursor.execute("PRAGMA journal_mode = WAL")
            cursor.execute("PRAGMA synchronous = NORMAL")
        cursor.close()

    if begin is not None:

        @event.listens_for(engine, "begin")
        def begin_now(connection: Connection) -> None:
            # IMMEDIATE: a transaction that starts by reading could not become a writer later
            connection.exec_driver_sql(begin)


def _repeating(once: Callable[[], T]) -> T:
    """Its answer; again, after a pause, while nothing has happened and another try may succeed at once."""
    for number in range(TRIES):
        if number:
            time.sleep(random.uniform(0.5, 1.5) * 0.005 * 2**number)
        try:
            return once()
        except IntegrityError:
            raise
        except (DBAPIError, PoolTimeout) as error:
            if number == TRIES - 1 or not _repeatable(error):
                raise _translated(error) from error
    raise AssertionError("unreachable: the last try returns or raises")


def _commit(connection: Connection) -> None:
    try:
        connection.commit()
    except DBAPIError as error:
        if error.connection_invalidated:
            raise CommitUnknown("the database went away during COMMIT") from error
        raise


def _repeatable(error: Exception) -> bool:
    """True if nothing has happened and another try may succeed at once."""
    if not isinstance(error, DBAPIError):
        return False
    if error.connection_invalidated:
        return True
    return is_deadlock(error) and not _waited_out(error)


def _waited_out(error: DBAPIError) -> bool:
    """SQLite has waited for its one write lock for as long as we allow: another try would double that."""
    return "database is locked" in str(error.orig)


def is_deadlock(error: DBAPIError) -> bool:
    original = error.orig
    state = getattr(original, "sqlstate", None)
    if state is not None:
        return state in _DEADLOCK_STATES
    arguments = getattr(original, "args", ())
    if arguments and isinstance(arguments[0], int):
        return arguments[0] in _DEADLOCK_CODES
    return "database is locked" in str(original)


def refuses_values(error: DBAPIError) -> bool:
    """True if the database is well and turns down what a row was to hold, by its type, a key, a check or a
    trigger."""
    if isinstance(error, IntegrityError | DataError) or _code_of(error) in _VALUE_CODES:
        return True
    return getattr(error.orig, "sqlstate", None) == _SIGNAL_STATE


def is_refusal(error: DBAPIError) -> bool:
    """True if the database is well and turns down the values or the statement: it would do so again."""
    return refuses_values(error) or isinstance(error, ProgrammingError) or _code_of(error) in _STATEMENT_CODES


def _code_of(error: DBAPIError) -> Any:
    return next(iter(getattr(error.orig, "args", ())), None)


def _translated(error: Exception) -> Exception:
    """Our error for what the driver said: the database is away, or it refused the statement."""
    if isinstance(error, PoolTimeout):
        return DatabaseUnavailable("no database connection came free within 10 s")
    assert isinstance(error, DBAPIError)
    if _misses_table(error):
        return SchemaMissing("the tables are missing: start the web app or the workers once")
    if _refuses_login(error):
        return LoginRefused(f"the database refused the login: {_first_line(error.orig)}")
    away = isinstance(error, OperationalError | InterfaceError) and not is_refusal(error)
    if error.connection_invalidated or away:
        return DatabaseUnavailable(f"the database did not answer: {_first_line(error.orig)}")
    if getattr(error.orig, "sqlstate", None) == _READ_ONLY_STATE:
        return DatabaseUnavailable("the database takes no writes now")
    return StatementRefused(f"the database refused a statement ({type(error).__name__})")


def _refuses_login(error: DBAPIError) -> bool:
    """By MySQL's code; of a refused connection psycopg has nothing but what the server said."""
    said = str(error.orig)
    return _code_of(error) in _LOGIN_CODES or ("FATAL" in said and any(word in said for word in _LOGIN_WORDS))


def _misses_table(error: DBAPIError) -> bool:
    original = error.orig
    arguments = getattr(original, "args", ())
    return (
        getattr(original, "sqlstate", None) == "42P01"
        or bool(arguments and arguments[0] == 1146)
        or "no such table" in str(original)
    )


def _first_line(error: object) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
