"""Reasons to wait: servers that are under pressure from others, or from us."""

from __future__ import annotations

import time
from collections.abc import Callable

from sqlalchemy import text

from app.tasks.database import Database
from app.tasks.errors import RedisUnavailable
from app.tasks.tickets import RQQueueManager
from app.transfer.plans import Limits

LOOK_SECONDS = 1.0

_MYSQL = text(  # of MariaDB and MySQL each has a table of these where the other has none
    "SHOW GLOBAL STATUS WHERE variable_name IN ('threads_running', 'innodb_row_lock_current_waits')"
)
_POSTGRESQL = text(
    "SELECT COUNT(*) FILTER (WHERE state = 'active'), COUNT(*) FILTER (WHERE wait_event_type = 'Lock')"
    " FROM pg_stat_activity WHERE datname = current_database()"
)


class Throttle:
    """Looks at both servers once a second at most. SQLite tells nothing; its own locks slow us down."""

    def __init__(
        self,
        database: Database,
        tickets: RQQueueManager | None,
        limits: Limits,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._tickets = tickets
        self._limits = limits
        self._clock = clock
        self._next_look = clock()
        self._reason: str | None = None

    def reason(self) -> str | None:
        """Why to wait now, in a few words for operators; None: go on. Raises `DatabaseUnavailable`."""
        if self._clock() >= self._next_look:
            self._reason = self._of_database() or self._of_redis()
            self._next_look = self._clock() + LOOK_SECONDS
        return self._reason

    def _of_database(self) -> str | None:
        began = self._clock()
        threads, waits = self._pressure()
        milliseconds = (self._clock() - began) * 1000
        limits = self._limits
        if limits.database_threads is not None and threads > limits.database_threads:
            return f"{threads} database threads run, the limit is {limits.database_threads}"
        if limits.lock_waits is not None and waits > limits.lock_waits:
            return f"{waits} statements wait for locks, the limit is {limits.lock_waits}"
        return _too_slow("the database", milliseconds, limits.database_milliseconds)

    def _pressure(self) -> tuple[int, int]:
        """Threads that run, and statements that wait for a lock."""
        if self._database.kind == "mysql":
            rows = self._database.read(lambda on: on.execute(_MYSQL).all())
            found = {str(name).lower(): int(value) for name, value in rows}
            return found.get("threads_running", 0), found.get("innodb_row_lock_current_waits", 0)
        if self._database.kind == "postgresql":
            row = self._database.read(lambda on: on.execute(_POSTGRESQL).one())
            return int(row[0]), int(row[1])
        return 0, 0

    def _of_redis(self) -> str | None:
        if self._tickets is None:
            return None
        began = self._clock()
        try:
            used, maximum = self._tickets.memory()
        except RedisUnavailable as error:
            return f"Redis is away: {error}"
        milliseconds = (self._clock() - began) * 1000
        limit = self._limits.redis_memory_percent
        if limit is not None and maximum and used / maximum * 100 > limit:
            return f"Redis uses {used / maximum:.0%} of its memory, the limit is {limit:g} %"
        return _too_slow("Redis", milliseconds, self._limits.redis_milliseconds)


def _too_slow(what: str, milliseconds: float, limit: float | None) -> str | None:
    if limit is None or milliseconds <= limit:
        return None
    return f"{what} took {milliseconds:.0f} ms to answer, the limit is {limit:g} ms"
