"""Private Redis, MariaDB and PostgreSQL servers for tests and benchmarks."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import uuid
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import psycopg
import pymysql
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.server_process import Server, ServerStartError, program


class RedisServer(Server):
    """redis-server. `persistence` keeps an append-only file; `maxmemory` is such as "10mb"; `also_on`: one
    more address of this machine to answer on, for everybody."""

    def __init__(
        self, *, persistence: bool = False, maxmemory: str | None = None, also_on: str | None = None
    ) -> None:
        super().__init__()
        self.also_on = also_on
        self.persistence = persistence
        self.maxmemory = maxmemory
        self._clients: list[redis.Redis] = []

    @property
    def url(self) -> str:
        """URL of database 0."""
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self, **options: Any) -> redis.Redis:
        """A client that is closed with the server."""
        client = redis.Redis.from_url(self.url, **options)
        self._clients.append(client)
        return client

    def command(self) -> list[str]:
        options = {
            "port": str(self.port),
            "dir": str(self.folder),
            "save": "",
            "appendonly": "yes" if self.persistence else "no",
            "maxmemory": self.maxmemory or "0",
            "maxmemory-policy": "noeviction",
            "enable-debug-command": "local",
        }
        return [
            program("redis-server"),
            *("--bind", "127.0.0.1", *([self.also_on, "--protected-mode", "no"] if self.also_on else [])),
            *(word for name, value in options.items() for word in (f"--{name}", value)),
        ]

    def answers(self) -> bool:
        with redis.Redis(port=self.port, socket_timeout=5, retry=Retry(NoBackoff(), 0)) as probe:
            try:
                return bool(probe.ping())
            except redis.RedisError:
                return False

    def close(self) -> None:
        while self._clients:
            self._clients.pop().close()
        super().close()


class DatabaseServer(Server):
    """A server of SQL databases.

    Commits always survive a kill of the server; with `durable` they are written through to the disk,
    as in production, and survive a power cut too.
    """

    _made: ClassVar[dict[type, Path]] = {}

    def __init__(self, *, durable: bool = False) -> None:
        super().__init__()
        self.durable = durable

    @property
    def data(self) -> Path:
        """The data folder."""
        return self.folder / "data"

    def prepare(self) -> None:
        """A copy of what the first server of its kind in this process had made: making it takes seconds."""
        if type(self) not in self._made:
            folder = Path(tempfile.mkdtemp(prefix="twintrack-test-"))
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
            self._make(folder)
            self._made[type(self)] = folder
        self._own(self.folder)
        subprocess.run(["cp", "-a", self._made[type(self)] / "data", self.data], check=True)

    @abstractmethod
    def _make(self, folder: Path) -> None:
        """Make an empty server's data in `data` below this folder."""

    def _own(self, folder: Path) -> None:
        """Give the folder to the user who is to run the server."""
        if self.user:
            shutil.chown(folder, self.user, self.user)

    @abstractmethod
    def url(self, database: str) -> str:
        """SQLAlchemy URL of a database."""

    @abstractmethod
    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        """Run one statement as administrator, outside any database, and return its rows."""

    def create_database(self) -> str:
        """Create an empty database with a new name and return its URL."""
        name = f"test_{uuid.uuid4().hex[:12]}"
        self.execute(self.creation_of(name))
        return self.url(name)

    def drop_database(self, url: str) -> None:
        """Drop the database of this URL with everything in it, whoever is still connected to it."""
        self.disconnect_all(name := url.rpartition("/")[2])
        self.execute(self.removal_of(name))

    @abstractmethod
    def creation_of(self, name: str) -> str:
        """The statement that creates a database."""

    def removal_of(self, name: str) -> str:
        """The statement that drops a database."""
        return f"DROP DATABASE IF EXISTS {name}"

    @abstractmethod
    def disconnect_all(self, database: str) -> None:
        """End every connection to the database."""

    @contextlib.contextmanager
    def database(self) -> Iterator[str]:
        """A database that exists as long as the context; gives its URL."""
        url = self.create_database()
        try:
            yield url
        finally:
            if self.running:
                self.drop_database(url)

    def answers(self) -> bool:
        try:
            return bool(self.execute("SELECT 1"))
        except (pymysql.Error, psycopg.Error):
            return False


class MariaDbServer(DatabaseServer):
    """mariadbd with an administrator `root` that needs no password. `also_on`: another address of this
    machine to answer on."""

    def __init__(self, *, durable: bool = False, also_on: str | None = None) -> None:
        super().__init__(durable=durable)
        self.also_on = also_on

    def url(self, database: str) -> str:
        return f"mysql+pymysql://root@127.0.0.1:{self.port}/{database}"

    def _make(self, folder: Path) -> None:
        done = subprocess.run(
            [
                *(program("mariadb-install-db"), "--no-defaults", f"--datadir={folder / 'data'}"),
                *("--skip-test-db", "--auth-root-authentication-method=normal", "--innodb-log-file-size=4M"),
                *(*self._as_root(), self._own_scratch()),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise ServerStartError(f"mariadb-install-db failed:\n{done.stdout}{done.stderr}")

    def command(self) -> list[str]:
        return [
            *(program("mariadbd"), "--no-defaults", *self._as_root()),
            *(f"--datadir={self.data}", f"--socket={self.folder / 's.sock'}"),
            *(f"--pid-file={self.folder / 'pid'}", f"--port={self.port}"),
            "--bind-address=" + ",".join(filter(None, ("127.0.0.1", self.also_on))),
            *("--skip-log-bin", "--skip-name-resolve", "--max-connections=300", self._own_scratch()),
            "--innodb-log-file-size=48M",
            f"--innodb-flush-log-at-trx-commit={1 if self.durable else 2}",
        ]

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        connection = pymysql.connect(
            host="127.0.0.1", port=self.port, user="root", autocommit=True, connect_timeout=5, read_timeout=30
        )
        with connection, connection.cursor() as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall())

    def creation_of(self, name: str) -> str:
        return f"CREATE DATABASE {name} CHARACTER SET utf8mb4"

    def disconnect_all(self, database: str) -> None:
        for (number,) in self.execute(
            f"SELECT id FROM information_schema.processlist WHERE db = '{database}'"
        ):
            with contextlib.suppress(pymysql.Error):
                self.execute(f"KILL {number}")

    def _own_scratch(self) -> str:
        # In a folder that servers share, one that starts removes the temporary tables of all others.
        return f"--tmpdir={self.folder}"

    @staticmethod
    def _as_root() -> list[str]:
        return ["--user=root"] if os.geteuid() == 0 else []


class PostgresServer(DatabaseServer):
    """PostgreSQL with an administrator `postgres` that needs no password; never runs as root."""

    @property
    def user(self) -> str | None:
        return "postgres" if os.geteuid() == 0 else None

    @property
    def stop_signal(self) -> signal.Signals:
        # "Fast": the usual signal would wait for every client to leave.
        return signal.SIGINT

    def url(self, database: str) -> str:
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/{database}"

    def _make(self, folder: Path) -> None:
        self._own(folder)
        done = subprocess.run(
            [
                *(self._program("initdb"), "-D", str(folder / "data"), "-A", "trust", "-U", "postgres"),
                *("-E", "UTF8", "--locale=C.UTF-8", "--no-sync"),
            ],
            cwd=folder,
            user=self.user,
            group=self.user,
            extra_groups=[] if self.user else None,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise ServerStartError(f"initdb failed:\n{done.stdout}{done.stderr}")

    def command(self) -> list[str]:
        options = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(self.folder),
            "fsync": "on" if self.durable else "off",
            "full_page_writes": "on" if self.durable else "off",
            "max_connections": "200",
            "shared_buffers": "128MB",
        }
        return [
            *(self._program("postgres"), "-D", str(self.data), "-p", str(self.port)),
            *(word for name, value in options.items() for word in ("-c", f"{name}={value}")),
        ]

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        address = f"postgresql://postgres@127.0.0.1:{self.port}/postgres?connect_timeout=5"
        with psycopg.connect(address, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def creation_of(self, name: str) -> str:
        # template0 has no connections that could hold the copy up.
        return f"CREATE DATABASE {name} TEMPLATE template0"

    def removal_of(self, name: str) -> str:
        # A worker that was just disconnected comes back at once.
        return f"{super().removal_of(name)} WITH (FORCE)"

    def disconnect_all(self, database: str) -> None:
        self.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'")

    @staticmethod
    def _program(name: str) -> str:
        return program(name, "usr/lib/postgresql/*/bin")
