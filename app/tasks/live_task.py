"""A claim in the hands of this process, in memory: what its handler reports, and what it is told."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import structlog
from sqlalchemy.engine import Connection

from app.tasks.errors import TaskError
from app.tasks.families import Families
from app.tasks.model import Claim, Outcome, Progress, Released
from app.tasks.sentences import storable
from app.tasks.store import Store

STEP_CHARACTERS = 200

_BOOT_CLOCK: int = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

log = structlog.get_logger(__name__)


def boot_clock() -> float:
    """Seconds that go on while the machine sleeps: a lease ends during a suspend, too."""
    seconds: float = time.clock_gettime(_BOOT_CLOCK)
    return seconds


class LiveTask:
    """A claim in the hands of this process: what the handler reports and what it is told, in memory.

    Another thread carries both to and from the database (`Heartbeat` in the workers).
    """

    def __init__(
        self,
        claim: Claim,
        store: Store,
        *,
        lease_ends: float,
        limit_seconds: int = 0,
        isolated: bool = False,
    ) -> None:
        """`lease_ends` is on the boot clock. `limit_seconds` may run; 0: as the runner's settings say.
        `isolated`: the run has a process of its own, and whoever made that holds it to its limits."""
        self.claim = claim
        self.lease_ends = lease_ends
        self.limit_seconds = limit_seconds
        self.isolated = isolated
        self.started = boot_clock()
        self.percent = 0
        self.step: str | None = None
        self.progress_changed = False
        self.cancel_asked = claim.cancel_requested
        self.lost = False
        self.outcome: Outcome | None = None
        self.has_loop = False
        self.families: Families | None = None
        self._store = store
        self._connection: Connection | None = None
        self._lock = threading.Lock()

    # ContextBackend ---------------------------------------------------------------------------------

    def report_progress(self, percent: int | None, step: str | None) -> None:
        with self._lock:
            if percent is not None:
                # never backwards within an attempt: a bar that jumps back tells nothing
                self.percent = max(self.percent, min(100, int(percent)))
            if step is not None:
                self.step = storable(str(step))[:STEP_CHARACTERS]
            self.progress_changed = True

    def cancel_requested(self) -> bool:
        return self.cancel_asked or self.lost

    def connection(self) -> Connection:
        if self.has_loop:
            raise RuntimeError("an async handler has no connection: its statements would hold up its loop")
        if self._connection is None:
            self._connection = self._store.database.engine.connect()
            self._connection.begin()
        return self._connection

    # for the runner and the heartbeat ---------------------------------------------------------------

    def take_progress(self) -> Progress | None:
        """What changed since the last call; None if nothing did."""
        with self._lock:
            if not self.progress_changed:
                return None
            self.progress_changed = False
            return Progress(self.percent, self.step)

    def with_progress(self, outcome: Outcome) -> Outcome:
        """The outcome, with what the handler said last: that is recorded with it, at no price of its own."""
        if isinstance(outcome, Released):
            return outcome
        progress = self.take_progress()
        return outcome if progress is None else replace(outcome, progress=progress)

    def store_progress(self) -> None:
        """Write what changed into the row; one statement, or none. Progress is not worth an error.

        SQLite has one write lock: while the task's own transaction holds it, this waits for the settle.
        """
        if self._connection is not None and self._store.database.kind == "sqlite":
            return
        progress = self.take_progress()
        if progress is None:
            return
        try:
            self._store.claims.progress(self.claim, *progress)
        except TaskError as error:
            log.info("task.progress_lost", task=self.claim.task_id, reason=str(error))

    def undo_writes(self) -> None:
        """Roll back what the handler has written through its connection; its next use opens another."""
        connection = self.take_connection()
        if connection is not None:
            with connection:
                connection.rollback()

    @property
    def has_connection(self) -> bool:
        return self._connection is not None

    def take_connection(self) -> Connection | None:
        connection, self._connection = self._connection, None
        return connection
