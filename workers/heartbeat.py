"""The thread beside the batch in work: keeps its leases if nobody else does, carries progress and cancels,
cuts it when it is slow, and tells a handler that its time is over."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import structlog

from app.system import System
from app.tasks.errors import TaskError
from app.tasks.model import Outcome
from app.tasks.runner import LiveTask, Runner, boot_clock
from app.tasks.store.settling import Settled
from workers.batch import Batch
from workers.causes import Cause, CauseOfDeath
from workers.floating import Float
from workers.page import Page
from workers.time_limit import TimeLimit

BEAT_SECONDS = 0.05  # also the age at which a batch is cut
CARRY_SECONDS = 0.5
SEEN_SECONDS = 10.0
STILL_SEEN_SECONDS = 30.0  # while nothing changes: a third of the silence after which a worker counts as gone
EXIT_KILLED = 75

log = structlog.get_logger(__name__)

Record = Callable[[Sequence[Outcome], Settled], None]


class Heartbeat:
    """One per worker process. It costs no statement for tasks that are over before its next look."""

    def __init__(
        self,
        system: System,
        worker_id: str,
        runner: Runner,
        *,
        page: Page,
        record: Record,
        time_limit: TimeLimit,
        floating: Float | None = None,
    ) -> None:
        """`record` is told what a cut settled; `floating` are the tasks beside the batches."""
        self._system = system
        self._worker_id = worker_id
        self._runner = runner
        self._page = page
        self._record = record
        self._time_limit = time_limit
        self._float = floating
        self._over = threading.Event()
        self._busy = threading.Event()
        self._batch: Batch | None = None
        self._unsettled: list[Outcome] = []
        self._settling = threading.Lock()  # held while outcomes are neither in a batch nor in the list
        self._next_carry = 0.0
        self._said: tuple[str, int] | None = None
        self._said_at = 0.0
        self._thread = threading.Thread(target=self._work, name="heartbeat", daemon=True)
        self.done = 0
        self.show: Callable[[LiveTask | None, bool], None] = lambda live, busy: None

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._over.set()
        self._busy.set()
        self._thread.join()

    @contextmanager
    def carrying(self, batch: Batch) -> Iterator[None]:
        """While inside, the batch's leases are kept and its progress carried."""
        self._next_carry = batch.began + CARRY_SECONDS
        self._batch = batch
        self._busy.set()
        try:
            yield
        finally:
            self._batch = None
            self._busy.clear()
            self.done += len(batch.lives)

    def hand_back(self) -> list[Outcome]:
        """What it has cut out of a batch and not settled yet: before the page shows another batch."""
        with self._settling:
            outcomes, self._unsettled = self._unsettled, []
            return outcomes

    def _work(self) -> None:
        while not self._over.is_set():
            floats = self._float is not None and self._float.in_use
            busy = self._busy.wait(BEAT_SECONDS if floats else SEEN_SECONDS)
            if busy:
                self._over.wait(BEAT_SECONDS)
            try:
                self._beat()
            except TaskError as error:
                log.warning("worker.beat_failed", worker=self._worker_id, reason=str(error))

    def _beat(self) -> None:
        batch = self._batch
        now = boot_clock()
        self._page.beat(now)
        self._time_limit.enforce(now)
        if batch is not None:
            self._tend(batch, now)
        self._settle_cut()
        if self._float is not None:
            self._float.tend(now)
        self._give_a_sign("idle" if batch is None else "busy", now)
        self.show(None if batch is None else batch.running, batch is not None)

    def _give_a_sign(self, state: str, now: float) -> None:
        """Into the worker's own row, which is for people."""
        said = (state, self.done)
        if now - self._said_at >= (STILL_SEEN_SECONDS if said == self._said else SEEN_SECONDS):
            self._said, self._said_at = said, now
            self._system.store.registry.seen(self._worker_id, state=state, done=self.done)

    def _tend(self, batch: Batch, now: float) -> None:
        live = batch.running
        if live is not None and not live.isolated and not self._page.supervisor:
            self._end_runaway(live, now)
        if now - batch.began >= BEAT_SECONDS and batch.is_cuttable():
            with self._settling:
                self._unsettled += batch.cut()
        if now >= self._next_carry:
            self._next_carry = now + CARRY_SECONDS
            self._carry(batch, live)
        self._renew(batch, now)

    def _carry(self, batch: Batch, live: LiveTask | None) -> None:
        if live is None:
            return
        live.store_progress()
        wishes = self._system.store.claims.wishes([live.claim])
        if batch.running is not live:
            return  # it ended meanwhile: its row says nothing of a claim any more
        live.lost = live.claim.task_id not in wishes
        live.cancel_asked = live.cancel_asked or wishes.get(live.claim.task_id, False)
        if live.cancel_asked and not live.isolated:
            batch.kill_unless_over(live, boot_clock() + self._system.config.RQ_KILL_GRACE)

    def _renew(self, batch: Batch, now: float) -> None:
        """Renew what the keeper has not: later than it would, unless there is none."""
        lease = self._system.settings.lease_seconds
        batch.lease_ends = max(batch.lease_ends, self._page.renewed_until(batch.token))
        patience = lease / 2 if self._page.supervisor else lease * 2 / 3
        if batch.lease_ends - now > patience:
            return
        unstarted = batch.unstarted()
        kept = self._system.store.claims.renew(batch.claims(), lease_seconds=lease)
        if all((claim.task_id, claim.token) in kept for claim in unstarted):  # else a lost one would start
            batch.lease_ends = max(batch.lease_ends, now + lease)

    def _settle_cut(self) -> None:
        """Settle what a cut took out of the batch; it stays in hand until the database has it."""
        with self._settling:
            if not self._unsettled:
                return
            all_settled = self._runner.settle_together(self._unsettled)
            outcomes, self._unsettled = self._unsettled, []
        for settled in all_settled:
            self._record(outcomes, settled)

    def _end_runaway(self, live: LiveTask, now: float) -> None:
        """Without a parent to kill it: a handler that swallowed its time limit takes the process with it."""
        if now < live.started + live.limit_seconds + self._system.config.RQ_KILL_GRACE:
            return
        log.error("task.ran_away", task=live.claim.task_id, name=live.claim.name)
        self._page.set_cause(CauseOfDeath(Cause.TIME_LIMIT, live.limit_seconds))
        os._exit(EXIT_KILLED)
