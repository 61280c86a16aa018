"""Notices over the database: how a process that waits hears at once that there is something to do.

PostgreSQL has NOTIFY and LISTEN. Beside a SQLite file lies one small file per topic, whose time is set.
MariaDB and MySQL have nothing like it: there a poller asks now and then. A notice says "look", nothing more,
and may be lost: whoever waits looks by itself, too, only seldom.

NOTIFY takes a lock that all notifying transactions of a server share, until their commit. So it never rides
in a transaction with a row, and a process sends at most one per `SPARING_SECONDS`. What it leaves out is not
lost: whoever heard the last one goes on looking for longer than that (`Listener.settling_seconds`).
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Protocol

import structlog
from sqlalchemy import func, literal, select

from app.tasks.database import Database
from app.tasks.errors import TaskError

SPARING_SECONDS = 0.01
# What is due later needs no notice: a sweeper sleeps for less, even if its clock differs from ours.
NEAR_SECONDS = 60.0
FILE_LOOK_SECONDS = 0.01

log = structlog.get_logger(__name__)


class Topic(StrEnum):
    """What there is to look for."""

    ROWS = "rows"  # a row became QUEUED: for pollers
    DUE = "due"  # a row became due soon: for the sweeper


class NotListening(Exception):
    """The way of notices is broken: poll, and try again later."""


class Listener(Protocol):
    settling_seconds: float
    """For how long to go on looking after a notice: more may have been meant by it."""

    def wait(self, seconds: float) -> bool:
        """True as soon as there was a notice since the last call; false after `seconds`.

        Raises `NotListening`.
        """

    def close(self) -> None: ...


class Notices:
    """Sending, and making listeners. Safe for threads."""

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._clock = clock
        self._lock = threading.Lock()
        self._sent: dict[Topic, float] = {}

    @property
    def possible(self) -> bool:
        """False where the database has no way to wake anybody."""
        return self._has_notify or self._bell_file(Topic.ROWS) is not None

    @property
    def _has_notify(self) -> bool:
        return self._database.engine.driver == "psycopg"

    def announce(self, topic: Topic) -> None:
        """Wake who listens, after the commit of what there is to see. Never raises."""
        file = self._bell_file(topic)
        if file is not None:
            _ring(file)
        elif self._has_notify and self._is_worth_it(topic):
            try:
                self._notify(topic, "")
            except TaskError as error:
                log.info("notice.not_sent", topic=topic.value, reason=str(error))

    def listen(self, topic: Topic) -> Listener:
        """A listener of one's own. Raises `NotListening`."""
        file = self._bell_file(topic)
        if file is not None:
            return FileListener(file)
        if not self._has_notify:
            raise NotListening("this database sends no notices")
        from app.tasks.store.listening import PostgresListener  # its driver need not be here

        return PostgresListener(
            self._database,
            _channel(topic),
            prove=lambda word: self._notify(topic, word),
            settling_seconds=2 * SPARING_SECONDS,
        )

    def _is_worth_it(self, topic: Topic) -> bool:
        """The time counts from before the sending: who hears it goes on looking from a later one."""
        with self._lock:
            now = self._clock()
            if now - self._sent.get(topic, -SPARING_SECONDS) < SPARING_SECONDS:
                return False
            self._sent[topic] = now
            return True

    def _notify(self, topic: Topic, word: str) -> None:
        statement = select(func.pg_notify(_channel(topic), literal(word)))
        self._database.read(lambda on: on.execute(statement))  # may be repeated: a second one does no harm

    def _bell_file(self, topic: Topic) -> Path | None:
        file = self._database.url.database
        if self._database.kind != "sqlite" or not file or file == ":memory:" or file.startswith("file:"):
            return None
        return Path(f"{file}-{topic}-bell")


class FileListener:
    """Watches the time of a file that announcers set."""

    settling_seconds = 0.0

    def __init__(self, file: Path) -> None:
        self._file = file
        self._seen = _time_of(file)

    def wait(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while (seen := _time_of(self._file)) == self._seen:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(FILE_LOOK_SECONDS, left))
        self._seen = seen
        return True

    def close(self) -> None:
        """Nothing is held."""


def _channel(topic: Topic) -> str:
    return f"twintrack_{topic}"


def _ring(file: Path) -> None:
    """Set the file's time to one that it never had: the kernel's own clock for files is too coarse."""
    moment = time.time_ns()
    try:
        try:
            os.utime(file, ns=(moment, moment))
        except FileNotFoundError:
            file.touch(mode=0o600)
            os.utime(file, ns=(moment, moment))
    except OSError as error:
        log.info("notice.not_sent", topic=file.name, reason=str(error))


def _time_of(file: Path) -> int:
    try:
        return os.stat(file).st_mtime_ns
    except OSError:
        return 0
