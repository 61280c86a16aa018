"""The thread beside the batch in work: keeps its leases, carries progress and cancels, cuts it when it is
slow, and ends the process when a handler ran away."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import structlog

from app.system import System
from app.tasks.errors import TaskError
from app.tasks.model import Claim, Outcome
from app.tasks.runner import LiveTask, boot_clock
from app.tasks.store.settling import Settled
from workers.batch import Batch

BEAT_SECONDS = 0.05  # also the age at which a batch is cut
CARRY_SECONDS = 0.5
SEEN_SECONDS = 10.0
LIMIT_GRACE_SECONDS = 10.0
EXIT_TIME_LIMIT = 75

log = structlog.get_logger(__name__)

Record = Callable[[Sequence[Outcome], Settled], None]


class Heartbeat:
    """One per worker process. It costs no statement for tasks that are over before its next look."""

    def __init__(
        self, system: System, worker_id: str, record: Record, limit_of: Callable[[Claim], float]
    ) -> None:
        """`record` is told what a cut settled; `limit_of` gives the seconds that a claim may run."""
        self._system = system
        self._worker_id = worker_id
        self._record = record
        self._limit_of = limit_of
        self._over = threading.Event()
        self._busy = threading.Event()
        self._batch: Batch | None = None
        self._unsettled: list[Outcome] = []
        self._next_renewal = 0.0
        self._next_carry = 0.0
        self._next_seen = 0.0
        self._thread = threading.Thread(target=self._work, name="heartbeat", daemon=True)
        self.done = 0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread, with what it still has to settle settled."""
        self._over.set()
        self._busy.set()
        self._thread.join()

    @contextmanager
    def carrying(self, batch: Batch) -> Iterator[None]:
        """While inside, the batch's leases are kept and its progress carried."""
        now = boot_clock()
        self._next_renewal = now + self._system.settings.lease_seconds / 3
        self._next_carry = now + CARRY_SECONDS
        self._batch = batch
        self._busy.set()
        try:
            yield
        finally:
            self._batch = None
            self._busy.clear()
            self.done += len(batch.lives)

    def _work(self) -> None:
        while not self._over.is_set():
            busy = self._busy.wait(SEEN_SECONDS)
            if busy:
                self._over.wait(BEAT_SECONDS)
            try:
                self._beat()
            except TaskError as error:
                log.warning("worker.beat_failed", worker=self._worker_id, reason=str(error))
        self._settle_rest()

    def _beat(self) -> None:
        batch = self._batch
        now = boot_clock()
        if batch is not None:
            live = batch.running
            if live is not None:
                self._end_runaway(live, now)
            if now - batch.began >= BEAT_SECONDS and batch.is_cuttable():
                self._unsettled += batch.cut()
            if now >= self._next_carry:
                self._next_carry = now + CARRY_SECONDS
                self._carry(batch, live)
            if now >= self._next_renewal:
                self._renew(batch, now)
        self._settle_cut()
        if now >= self._next_seen:
            self._next_seen = now + SEEN_SECONDS
            state = "idle" if batch is None else "busy"
            self._system.store.registry.seen(self._worker_id, state=state, done=self.done)

    def _carry(self, batch: Batch, live: LiveTask | None) -> None:
        if live is None:
            return
        live.store_progress()
        wishes = self._system.store.claims.wishes([live.claim])
        if batch.running is not live:
            return  # it ended meanwhile: its row says nothing of a claim any more
        live.lost = live.claim.task_id not in wishes
        live.cancel_asked = live.cancel_asked or wishes.get(live.claim.task_id, False)

    def _renew(self, batch: Batch, now: float) -> None:
        lease = self._system.settings.lease_seconds
        self._system.store.claims.renew(batch.claims(), lease_seconds=lease)
        batch.lease_ends = now + lease
        self._next_renewal = now + lease / 3

    def _settle_cut(self) -> None:
        """Settle what a cut took out of the batch; it stays in hand until the database has it."""
        if not self._unsettled:
            return
        outcomes = list(self._unsettled)
        settled = self._system.store.settlements.settle(outcomes)
        self._unsettled = []
        self._record(outcomes, settled)

    def _settle_rest(self) -> None:
        deadline = boot_clock() + self._system.config.RQ_SHUTDOWN_TIMEOUT
        pause = threading.Event()
        while self._unsettled and boot_clock() < deadline:
            try:
                self._settle_cut()
            except TaskError as error:
                log.warning("worker.beat_failed", worker=self._worker_id, reason=str(error))
                pause.wait(CARRY_SECONDS)

    def _end_runaway(self, live: LiveTask, now: float) -> None:
        """A handler that swallowed its time limit takes the process with it; the pool starts another."""
        if now < live.started + self._limit_of(live.claim) + LIMIT_GRACE_SECONDS:
            return
        log.error("task.ran_away", task=live.claim.task_id, name=live.claim.name)
        os._exit(EXIT_TIME_LIMIT)
