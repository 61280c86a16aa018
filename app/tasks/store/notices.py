"""Notices over the database: how a process that waits hears at once that there is something to do.

PostgreSQL has NOTIFY and LISTEN. Beside a SQLite file lies one named pipe per topic. MariaDB and MySQL have
nothing like it: there a poller asks now and then. A notice says "look", nothing more, and may be lost:
whoever waits looks by itself, too, only seldom.

NOTIFY takes a lock that all notifying transactions of a server share, until their commit. So it never rides
in a transaction with a row, and a process sends at most one per `SPARING_SECONDS`. What it leaves out is not
lost: whoever heard the last one goes on looking for longer than that (`Listener.settling_seconds`).
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from select import POLLIN, poll
from typing import Protocol

import structlog
from sqlalchemy import func, literal, select

from app.tasks.database import Database
from app.tasks.errors import TaskError

SPARING_SECONDS = 0.01
# What is due later needs no notice: a sweeper sleeps for less, even if its clock differs from ours.
NEAR_SECONDS = 60.0

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
        return self._has_notify or self._pipe(Topic.ROWS) is not None

    @property
    def _has_notify(self) -> bool:
        return self._database.engine.driver == "psycopg"

    def announce(self, topic: Topic) -> None:
        """Wake who listens, after the commit of what there is to see. Never raises."""
        pipe = self._pipe(topic)
        if pipe is not None:
            _ring(pipe)
        elif self._has_notify and self._is_worth_it(topic):
            try:
                self._notify(topic, "")
            except TaskError as error:
                log.info("notice.not_sent", topic=topic.value, reason=str(error))

    def listen(self, topic: Topic) -> Listener:
        """A listener of one's own. Raises `NotListening`."""
        pipe = self._pipe(topic)
        if pipe is not None:
            return PipeListener(pipe)
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

    def _pipe(self, topic: Topic) -> Path | None:
        file = self._database.url.database
        if self._database.kind != "sqlite" or not file or file == ":memory:" or file.startswith("file:"):
            return None
        return Path(f"{file}-{topic}-pipe")


class PipeListener:
    """Waits at a named pipe into which nobody writes: to open and close it for writing wakes all who have it
    open for reading, and the kernel forgets whoever dies."""

    settling_seconds = 0.0

    def __init__(self, pipe: Path) -> None:
        self._pipe = pipe
        try:
            with suppress(FileExistsError):
                os.mkfifo(pipe, 0o600)
            self._file = self._open()
        except OSError as error:
            raise NotListening(f"no pipe for notices: {type(error).__name__}") from error
        if self._is_rung(0):  # no pipe at all, or a kernel that says so of each new one
            self.close()
            raise NotListening("the pipe for notices is never silent")

    def wait(self, seconds: float) -> bool:
        if not self._is_rung(seconds):
            return False
        heard = self._file
        try:
            self._file = self._open()  # before anybody looks: what comes from now on is heard
        except OSError as error:
            raise NotListening("the pipe for notices is gone") from error
        finally:
            os.close(heard)
        return True

    def close(self) -> None:
        os.close(self._file)

    def _open(self) -> int:
        return os.open(self._pipe, os.O_RDONLY | os.O_NONBLOCK)

    def _is_rung(self, seconds: float) -> bool:
        ear = poll()
        ear.register(self._file, POLLIN)
        return bool(ear.poll(seconds * 1000))


def _channel(topic: Topic) -> str:
    return f"twintrack_{topic}"


def _ring(pipe: Path) -> None:
    try:
        os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
    except OSError as error:
        if error.errno not in (errno.ENXIO, errno.ENOENT):  # nobody listens
            log.info("notice.not_sent", topic=pipe.name, reason=str(error))
