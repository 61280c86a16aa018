"""The private servers of a run, with what they count about themselves.

MariaDB and PostgreSQL write each commit through to the disk.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.processes import cpu_seconds
from tests.servers import DatabaseServer, MariaDbServer, PostgresServer, RedisServer

COUNTING_LIBRARY = "pg_stat_statements"


class CountingPostgres(PostgresServer):
    """PostgreSQL that counts statements, which costs it a few per cent: not for rates."""

    def command(self) -> list[str]:
        return [*super().command(), "-c", f"shared_preload_libraries={COUNTING_LIBRARY}"]


@dataclass(frozen=True, slots=True)
class Site:
    """An empty folder and an empty database: one system under measurement."""

    folder: Path
    kind: str
    database_url: str
    redis_url: str


class Arena:
    """Redis, MariaDB and PostgreSQL, started on demand and kept until the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stack = ExitStack()
        self._numbers = itertools.count(1)
        self._databases: dict[str, DatabaseServer] = {}
        self._own_statements: dict[str, float] = {}  # of one look
        self._looks: Counter[str] = Counter()
        self.redis = RedisServer()

    def __enter__(self) -> Self:
        self._stack.enter_context(self.redis)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def database(self, kind: str) -> DatabaseServer | None:
        """The server of this kind; None for SQLite."""
        if kind == "SQLite":
            return None
        if kind not in self._databases:
            classes: dict[str, Callable[[], DatabaseServer]] = {
                "MariaDB": lambda: MariaDbServer(durable=True),
                "PostgreSQL": lambda: PostgresServer(durable=True),
                "counting": lambda: CountingPostgres(durable=True),
            }
            started = self._stack.enter_context(classes[kind]())
            if kind == "counting":
                started.execute(f"CREATE EXTENSION {COUNTING_LIBRARY}")
            self._databases[kind] = started
            first = self._counted(kind) or 0.0  # nobody else asks it anything yet
            self._own_statements[kind] = (self._counted(kind) or 0.0) - first
        return self._databases[kind]

    def site(self, kind: str) -> Site:
        """A new place for one measurement; Redis is emptied."""
        folder = self.folder / f"{next(self._numbers):04}"
        folder.mkdir(parents=True)
        client = self.redis.client()
        client.flushall()
        client.close()
        server = self.database(kind)
        url = f"sqlite:///{folder / 'tasks.db'}" if server is None else server.create_database()
        return Site(folder, kind, url, self.redis.url)

    def server_cpu(self, kind: str) -> float:
        """CPU seconds of the database's processes so far; 0 for SQLite, whose work is the workers' own."""
        server = self.database(kind)
        return 0.0 if server is None else cpu_seconds(process.pid for process in server.processes())

    def redis_cpu(self) -> float:
        return cpu_seconds([self.redis.pid])

    def statements(self, site: Site) -> float | None:
        """Statements that the database has been sent so far, less those of this counting; None where nobody
        counts them."""
        counted = self._counted(site.kind)
        if counted is None:
            return None
        self._looks[site.kind] += 1
        return counted - self._own_statements[site.kind] * self._looks[site.kind]

    def _counted(self, kind: str) -> float | None:
        server = self.database(kind)
        if kind == "MariaDB" and server is not None:
            return float(server.execute("SHOW GLOBAL STATUS LIKE 'Questions'")[0][1])
        if kind == "counting" and server is not None:
            rows = server.execute(f"SELECT sum(calls) FROM {COUNTING_LIBRARY}")
            return float(rows[0][0])
        return None
