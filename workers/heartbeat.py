"""The thread beside a running handler: keeps leases, carries progress and cancels, gives signs of life."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from app.system import System
from app.tasks.errors import TaskError
from app.tasks.runner import LiveTask, boot_clock

BEAT_SECONDS = 0.5
SEEN_SECONDS = 10.0
LIMIT_GRACE_SECONDS = 10.0
EXIT_TIME_LIMIT = 75

log = structlog.get_logger(__name__)


class Heartbeat:
    """One per worker process. Each beat costs at most one read while a task runs, and none when idle."""

    def __init__(self, system: System, worker_id: str) -> None:
        self._system = system
        self._worker_id = worker_id
        self._over = threading.Event()
        self._live: LiveTask | None = None
        self._hard_limit = 0.0
        self._next_renewal = 0.0
        self._next_seen = 0.0
        self._thread = threading.Thread(target=self._work, name="heartbeat", daemon=True)
        self.done = 0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join(timeout=5)

    @contextmanager
    def carrying(self, live: LiveTask, limit_seconds: float) -> Iterator[None]:
        """While inside, the task's lease is kept and its progress carried."""
        self._hard_limit = boot_clock() + limit_seconds + LIMIT_GRACE_SECONDS
        self._next_renewal = boot_clock() + self._system.settings.lease_seconds / 3
        self._live = live
        try:
            yield
        finally:
            self._live = None
            self.done += 1

    def _work(self) -> None:
        while not self._over.wait(BEAT_SECONDS):
            try:
                self._beat()
            except TaskError as error:
                log.warning("worker.beat_failed", worker=self._worker_id, reason=str(error))

    def _beat(self) -> None:
        live = self._live
        if live is not None:
            self._end_runaway(live)
            self._carry(live)
        if boot_clock() >= self._next_seen:
            self._next_seen = boot_clock() + SEEN_SECONDS
            state = "idle" if live is None else "busy"
            self._system.store.registry.seen(self._worker_id, state=state, done=self.done)

    def _carry(self, live: LiveTask) -> None:
        claims = self._system.store.claims
        progress = live.take_progress()
        if progress:
            claims.progress(live.claim, *progress)
        wishes = claims.wishes([live.claim])
        if self._live is not live:
            return  # it ended meanwhile: its row says nothing of a claim any more
        live.lost = live.claim.task_id not in wishes
        live.cancel_asked = live.cancel_asked or wishes.get(live.claim.task_id, False)
        if boot_clock() >= self._next_renewal:
            self._next_renewal = boot_clock() + self._system.settings.lease_seconds / 3
            claims.renew([live.claim], lease_seconds=self._system.settings.lease_seconds)

    def _end_runaway(self, live: LiveTask) -> None:
        """A handler that swallowed its time limit takes the process with it; the pool starts another."""
        if boot_clock() >= self._hard_limit:
            log.error("task.ran_away", task=live.claim.task_id, name=live.claim.name)
            os._exit(EXIT_TIME_LIMIT)
