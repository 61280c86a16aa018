"""One worker process: take, run, settle, end, one claim after the other, until it is told to stop."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import structlog

from app.system import System
from app.tasks.errors import DatabaseUnavailable, RedisUnavailable, TaskError
from app.tasks.handlers import TimeLimitExceeded
from app.tasks.model import PRIORITIES, Claim, Priority, Released, Track
from app.tasks.runner import LiveTask, Runner
from workers.consumers import EMPTY, Batch, Consumer, DatabaseConsumer, RedisConsumer
from workers.heartbeat import Heartbeat
from workers.identity import HOST, LifeLock, new_worker_id

IDLE_SECONDS = (0.02, 0.5)  # a poller's pause: doubles while nothing comes
BELL_SECONDS = 1.0
BATCH_CLAIMS = 1
FAILURE_PAUSE_SECONDS = 1.0

log = structlog.get_logger(__name__)


class Worker:
    """Serves one track, or Redis with the database as a dormant second.

    Call `run` in the main thread of its own process: time limits are signals.
    """

    def __init__(self, system: System, *, track: Track, priorities: Sequence[Priority] = PRIORITIES) -> None:
        self.worker_id = new_worker_id()
        self._system = system
        self._track = track
        self._priorities = list(priorities)
        self._stop = threading.Event()
        self._heartbeat = Heartbeat(system, self.worker_id)
        self._runner = Runner(
            system.store,
            system.handlers,
            system.settings,
            time_limit=alarm,
            pause=self._stop.wait,
        )
        self._consumers = self._make_consumers()

    def stop(self, *_: object) -> None:
        """Finish what runs, then leave. Safe as a signal handler."""
        self._stop.set()

    def run(self) -> None:
        """Work until `stop`. Leaves no claim and no row of its own behind."""
        life = LifeLock(self._system.config.VAR_DIR / "locks", self.worker_id)
        self._arrive()
        self._heartbeat.start()
        log.info("worker.started", worker=self.worker_id, track=self._track.value)
        try:
            self._loop()
        finally:
            self._heartbeat.stop()
            self._depart()
            life.release()
            log.info("worker.stopped", worker=self.worker_id, done=self._heartbeat.done)

    def _make_consumers(self) -> list[Consumer]:
        system, lease = self._system, self._system.settings.lease_seconds
        consumers: list[Consumer] = []
        if self._track is Track.REDIS and system.tickets is not None:
            consumers.append(
                RedisConsumer(
                    system.store,
                    system.tickets,
                    holder=self.worker_id,
                    lease_seconds=lease,
                    priorities=self._priorities,
                )
            )
        consumers.append(
            DatabaseConsumer(
                system.store,
                holder=self.worker_id,
                lease_seconds=lease,
                grace_seconds=system.settings.ticket_grace_seconds,
                always=self._track is Track.DATABASE,
                pause=self._stop.wait,
                priorities=self._priorities,
            )
        )
        return consumers

    def _loop(self) -> None:
        idle = IDLE_SECONDS[0]
        while not self._stop.is_set():
            consumer, batch = self._take()
            if consumer is None:
                self._idle(idle)
                idle = min(IDLE_SECONDS[1], idle * 2)
                continue
            idle = IDLE_SECONDS[0]
            for claim in batch.claims:
                self._work(consumer, claim, batch.lease_ends)

    def _take(self) -> tuple[Consumer | None, Batch]:
        """The first claims that any consumer has; an outage of one track does not stop the other."""
        for consumer in self._consumers:
            try:
                batch = consumer.take(BATCH_CLAIMS)
            except RedisUnavailable as error:
                log.debug("worker.redis_away", reason=str(error))
                continue
            except DatabaseUnavailable as error:
                log.warning("worker.database_away", reason=str(error))
                self._stop.wait(FAILURE_PAUSE_SECONDS)
                return None, EMPTY
            if batch.claims:
                return consumer, batch
        return None, EMPTY

    def _idle(self, seconds: float) -> None:
        first = self._consumers[0]
        if isinstance(first, RedisConsumer) and first.reachable:
            try:
                first.wait(BELL_SECONDS)
            except RedisUnavailable:
                self._stop.wait(seconds)
        else:
            self._stop.wait(seconds)

    def _work(self, consumer: Consumer, claim: Claim, lease_ends: float) -> None:
        live = LiveTask(claim, self._system.store, lease_ends=lease_ends)
        if self._stop.is_set():
            settled = self._system.store.settlements.settle([Released(claim)])
        else:
            with self._heartbeat.carrying(live, self._runner.limit_of(claim)):
                result = self._runner.run(live)
            if result is None:
                return
            settled = result
        self._system.queue.push_moved(settled.moves)
        consumer.ended(claim, settled.recorded.get(claim.task_id))

    def _arrive(self) -> None:
        """The worker's own row is for people: without it the worker works all the same."""
        with _tolerant("worker.not_listed"):
            self._system.store.registry.arrive(
                self.worker_id,
                host=HOST,
                pid=os.getpid(),
                track=self._track.value,
                queues=[priority.value for priority in self._priorities],
            )

    def _depart(self) -> None:
        with _tolerant("worker.not_unlisted"):
            self._system.store.registry.leave(self.worker_id)
            if self._system.tickets is not None:
                self._system.tickets.leave(self.worker_id)
        self._system.close()


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """Raise `TimeLimitExceeded` in the main thread after `seconds`. The heartbeat ends the process if
    the handler does not let go."""

    def over(_signal: int, _frame: Any) -> None:
        raise TimeLimitExceeded

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def _tolerant(event: str) -> Iterator[None]:
    try:
        yield
    except TaskError as error:
        log.info(event, reason=str(error))
