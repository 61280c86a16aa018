"""Lanes: one database each, all running a chapter at once: mostly they wait, so two cores are enough."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.servers import DatabaseServer, MariaDbServer, PostgresServer, RedisServer
from tests.soak.installation import Installation

_migrating = threading.Lock()  # Alembic keeps its context in globals
DATABASES = ("sqlite", "mariadb", "postgresql")
SERVERS: dict[str, type[DatabaseServer]] = {"mariadb": MariaDbServer, "postgresql": PostgresServer}


class Lane:
    """The servers of one database kind; installations on it follow each other. `server` None: SQLite."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind = kind
        self.redis = RedisServer()
        self._folder = folder
        self.server: DatabaseServer | None = SERVERS[kind]() if kind in SERVERS else None
        self._count = 0

    @contextmanager
    def installation(self, **settings: Any) -> Iterator[Installation]:
        """A fresh one: empty database, empty Redis. It ends with everything that it started."""
        self._count += 1
        folder = self._folder / f"{self.kind}-{self._count}"
        folder.mkdir()
        self.redis.client().flushall()
        with ExitStack() as stack:
            url = f"sqlite:///{folder / 'tasks.db'}"
            if self.server is not None:
                url = stack.enter_context(self.server.database())
            with _migrating:
                place = Installation(folder, url, self.redis, **settings)
            stack.callback(place.close)
            yield place

    def __enter__(self) -> Lane:
        self.redis.start()
        if self.server is not None:
            self.server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.redis.close()
        if self.server is not None:
            self.server.close()


def run_in_lanes(kinds: Sequence[str], work: Callable[[Lane], None], stop: threading.Event) -> None:
    """Run `work` once per database, all at once. The first error stops the others and is raised."""

    def run(kind: str, folder: Path) -> None:
        try:
            with Lane(kind, folder) as lane:
                work(lane)
        except BaseException:
            stop.set()
            raise

    with tempfile.TemporaryDirectory(prefix="twintrack-soak-") as name:
        with ThreadPoolExecutor(len(kinds)) as threads:
            running = [threads.submit(run, kind, Path(name)) for kind in kinds]
            try:
                wait(running)
            except KeyboardInterrupt:
                stop.set()  # the rounds in work are finished, and what is known is told
        for one in running:
            one.result()
