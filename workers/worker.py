"""One worker process: batch after batch. A turn settles the last batch and claims the next in one commit."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle

import structlog

from app.system import System
from app.tasks.errors import DatabaseUnavailable, RedisUnavailable, StatementRefused, TaskError
from app.tasks.model import Claim, Outcome, Track
from app.tasks.runner import LiveTask, Runner, boot_clock
from app.tasks.store.notices import Topic
from app.tasks.store.registry import POOL_WORD
from app.tasks.store.settling import Settled
from app.tasks.store.takes import Take
from app.tasks.tickets.bells import Bell, Bells, Rung
from workers.batch import Batch, BatchSize
from workers.consumers import Consumer, DatabaseConsumer, PoolConsumer, RedisConsumer
from workers.floating import Float
from workers.fork_server import ForkServer
from workers.heartbeat import Heartbeat
from workers.life import HOST, LifeFile, new_worker_id
from workers.recording import follow_up
from workers.slots import EXIT_RECYCLED
from workers.time_limit import TimeLimit
from workers.visiting import STRICT, Visits
from workers.waiting import SLEEP_SECONDS, Waiting

FAILURE_PAUSE_SECONDS = 0.5
FOREIGN_LOOK_SECONDS = FLOAT_LOOK_SECONDS = 5.0
ROOM_LOOK_SECONDS = 0.5

log = structlog.get_logger(__name__)


class _Stop(Exception):
    """Raised by the stop signal, only where the worker waits and holds nothing."""


class _StopFlag:
    """As `threading.Event`, whose lock a signal handler must not touch: who it interrupts may hold it."""

    def __init__(self) -> None:
        self._is_set = False

    def set(self) -> None:
        self._is_set = True

    def is_set(self) -> bool:
        return self._is_set

    def wait(self, seconds: float) -> None:
        if not self._is_set:
            time.sleep(seconds)


class Worker:
    """Serves one track, or Redis with the database as a dormant second, or one pool.

    Call `run` in the main thread of its own process: time limits are signals.
    """

    def __init__(
        self,
        system: System,
        *,
        track: Track,
        visits: Visits = STRICT,
        mark: str | None = None,
        supervisor: int = 0,
        pool: str | None = None,
    ) -> None:
        """`supervisor`: pid of a parent that enforces limits and says what this process died of. With a
        `pool` the worker takes the tasks of that pool, and no others."""
        self.worker_id = new_worker_id(mark)
        self._supervisor = supervisor
        self._system = system
        self._track = track
        self._visits = visits
        self._pool = pool
        self._stop = _StopFlag()
        self._may_interrupt = False
        self._stop_deadline = 0.0
        self._time_limit = TimeLimit()
        self._runner = Runner(
            system.store,
            system.handlers,
            system.settings,
            time_limit=self._time_limit,
            pause=self._gives_up,
            isolate=self._isolate,
            families=system.queue.families,
        )
        self._forks: ForkServer | None = None
        self._size = BatchSize(system.config.RQ_BATCH_SIZE)
        self._most_tasks = system.config.RQ_WORKER_MAX_TASKS
        self._redis = self._redis_consumer()
        self._database = self._database_consumer()
        self._consumers: list[Consumer] = [c for c in (self._redis, self._database) if c is not None]
        # with two sources, each goes first in turn: neither can starve the other
        self._orders = cycle([self._consumers, self._consumers[::-1]])
        self._last_asked: Consumer = self._consumers[-1]
        self._rung: Consumer | None = None
        self._waiting = self._make_waiting()

    def stop(self, *_: object) -> None:
        """Finish what runs, then leave. Safe as a signal handler."""
        self._stop_deadline = time.monotonic() + self._system.config.RQ_SHUTDOWN_TIMEOUT
        self._stop.set()
        if self._may_interrupt:
            self._may_interrupt = False
            raise _Stop

    def run(self) -> int:
        """Work until `stop`, or until it has done its share. Leaves no claim and no row of its own behind.

        Returns the exit code.
        """
        folder = self._system.config.VAR_DIR / "locks"
        self._life = LifeFile(folder, self.worker_id, supervisor=self._supervisor)
        self._page = self._life.page
        self._forks = ForkServer.if_needed(self._system)  # it holds the proof of life, too; and no connection
        self._float = Float.where_needed(self._system, self._runner, page=self._page, record=self._record)
        self._heartbeat = Heartbeat(
            self._system,
            self.worker_id,
            self._runner,
            page=self._page,
            record=self._record,
            time_limit=self._time_limit,
            floating=self._float,
        )
        self._arrive()
        if self._redis is not None:
            self._redis.show(None, False)
            self._heartbeat.show = self._redis.show
        self._heartbeat.start()
        log.info("worker.started", worker=self.worker_id, track=self._track.value)
        left_nothing = True
        try:
            self._loop()
            if self._float is not None:
                left_nothing = self._float.drain(self._seconds_to_stop)
        finally:
            self._heartbeat.stop()
            self._depart()
        if left_nothing:
            self._life.release()
        log.info("worker.stopped", worker=self.worker_id, done=self._heartbeat.done)
        return EXIT_RECYCLED if self._has_done_its_share() else 0

    # --- the loop ---------------------------------------------------------------------------------------

    def _loop(self) -> None:
        outcomes: list[Outcome] = []
        while outcomes or not self._stop.is_set():
            if self._has_done_its_share():
                self._stop.set()
            consumer, take = self._fetch()
            if take is None and not outcomes:
                if self._has_room():
                    self._idle()
                continue
            lease_ends = boot_clock() + self._system.settings.lease_seconds
            claims = self._turn(outcomes, consumer, take)
            if claims is None:
                continue  # the database is away: the outcomes stay in hand
            if claims:
                outcomes = self._work(claims, lease_ends)
                self._waiting.worked()
                continue
            outcomes = []
            self._page.begin((), lease_ends)
            if consumer is self._last_asked and self._database.contested:
                self._idle(briefly=True)

    def _has_done_its_share(self) -> bool:
        if self._forks is not None and self._forks.broken:
            return True
        overdue = self._float is not None and self._float.overdue
        return overdue or 0 < self._most_tasks <= self._heartbeat.done

    def _has_room(self) -> bool:
        """False, after a while, if as many async handlers run as may."""
        return self._float is None or self._float.wait_for_room(ROOM_LOOK_SECONDS)

    def _fetch(self) -> tuple[Consumer | None, Take | None]:
        """What to claim next, from the first source that has something."""
        if self._stop.is_set():
            return None, None
        count, spare = self._size.next(), self._size.spare()
        if self._float is not None and self._float.in_use:
            count, spare = min(count, self._float.room), 0
            if count < 1:
                return None, None
        order = next(self._orders)
        if self._rung is not None:
            order, self._rung = sorted(order, key=lambda consumer: consumer is not self._rung), None
        self._last_asked = order[-1]
        for consumer in order:
            try:
                take = consumer.fetch(count, spare=spare)
            except RedisUnavailable as error:
                log.debug("worker.redis_away", reason=str(error))
            except DatabaseUnavailable as error:
                log.warning("worker.database_away", reason=str(error))
                self._stop.wait(FAILURE_PAUSE_SECONDS)
                return None, None
            else:
                if take is not None:
                    return consumer, take
        return None, None

    def _turn(
        self, outcomes: list[Outcome], consumer: Consumer | None, take: Take | None
    ) -> Sequence[Claim] | None:
        """Settle and claim. Returns the claims won; None if the outcomes are still to be settled."""
        try:
            turned = self._system.store.turns.turn(
                outcomes, take, holder=self.worker_id, lease_seconds=self._system.settings.lease_seconds
            )
        except DatabaseUnavailable as error:
            log.warning("worker.turn_waits", outcomes=len(outcomes), reason=str(error))
            if consumer is not None:
                consumer.abandon()
            if self._gives_up(FAILURE_PAUSE_SECONDS):
                raise
            return None
        except StatementRefused:
            # something in this batch cannot be stored: find out which, one by one
            log.exception("worker.turn_refused", outcomes=len(outcomes))
            if consumer is not None:
                consumer.abandon()
            for settled in self._runner.settle_all(outcomes):
                self._record(outcomes, settled)
            return ()
        self._record(outcomes, turned.settled)
        if consumer is not None:
            consumer.accept(turned.claims)
        return turned.claims.won

    def _work(self, claims: Sequence[Claim], lease_ends: float) -> list[Outcome]:
        """Run a batch. Returns what is to be settled with the next turn."""
        store, limit_of = self._system.store, self._runner.limit_of
        lives = [
            LiveTask(
                claim,
                store,
                lease_ends=lease_ends,
                limit_seconds=limit_of(claim),
                isolated=self._forks is not None and self._runner.is_isolated(claim),
            )
            for claim in claims
        ]
        batch = Batch(lives, page=self._page, lease_ends=lease_ends)
        count = 0
        may_start = self._float.has_room_for if self._float is not None else None
        with self._heartbeat.carrying(batch):
            while (live := batch.start_next(may_start)) is not None:
                goes_on = self._run(batch, live)
                count += 1
                if not goes_on or self._stop.is_set():
                    break
        self._size.learn(boot_clock() - batch.began, count)
        rest = batch.cut()
        return [*self._heartbeat.hand_back(), *rest]

    def _run(self, batch: Batch, live: LiveTask) -> bool:
        """Run one task. False: the batch must be settled before the next."""
        if self._float is not None and self._float.takes(live.claim):
            self._float.launch(live)
            batch.forget_running()
            return True
        outcome = self._runner.execute(live)
        own = self._runner.settle_own(live, outcome)
        if own is None:
            return batch.add(outcome)
        batch.forget_running()
        self._record([outcome], own)
        return True

    def _isolate(self, live: LiveTask) -> Outcome:
        assert self._forks is not None
        outcome = self._forks.run(live)
        if self._forks.broken:
            self._stop.set()  # only a fresh worker can make another one
        return outcome

    def _record(self, outcomes: Sequence[Outcome], settled: Settled) -> None:
        follow_up(self._system.queue, self._redis, outcomes, settled)

    def _idle(self, *, briefly: bool = False) -> None:
        """Wait for work, or for the stop signal; `briefly` where rows wait that could not be had."""
        in_use = self._float is not None and self._float.in_use
        if self._redis is not None:
            self._redis.flush()
            if not in_use:
                self._redis.recover()
        self._waiting.prepare()
        rung = None
        try:
            self._may_interrupt = True
            if not self._stop.is_set():
                briefly = briefly or self._pool is not None  # nobody rings for its lane
                rung = self._waiting.wait(FLOAT_LOOK_SECONDS if in_use else None, briefly=briefly)
        except _Stop:
            log.debug("worker.woken_to_stop")
        finally:
            self._may_interrupt = False
        for consumer in self._consumers:
            consumer.waited(rung)
        self._rung = {Rung.TICKETS: self._redis, Rung.ROWS: self._database}.get(rung) if rung else None

    def _make_waiting(self) -> Waiting:
        # what other programs push does not ring
        longest = FOREIGN_LOOK_SECONDS if self._system.config.RQ_ALLOW_FOREIGN_JOBS else SLEEP_SECONDS
        return Waiting(
            self._system, topic=Topic.ROWS, bells=self._bells, stop=self._stop, longest_seconds=longest
        )

    def _bells(self, bells: Bells) -> list[Bell]:
        """What this worker wakes for: not for rows that pollers beside it are there for."""
        if self._pool is not None:
            return []
        serves_rows = self._redis is None or not self._system.config.pollers_enabled
        tracks = [Track.REDIS] * (self._redis is not None) + [Track.DATABASE] * serves_rows
        return [bells.of(track, priority) for track in tracks for priority in self._visits.priorities]

    def _gives_up(self, seconds: float) -> bool:
        """Wait; true if the worker was told to stop and its time is over."""
        self._stop.wait(seconds) if not self._stop.is_set() else time.sleep(seconds)
        return self._stop.is_set() and time.monotonic() >= self._stop_deadline

    def _seconds_to_stop(self) -> float | None:
        """Until this process must be gone; None while nobody has told it to stop."""
        return self._stop_deadline - time.monotonic() if self._stop_deadline else None

    # --- arriving and leaving -------------------------------------------------------------------------

    def _redis_consumer(self) -> RedisConsumer | None:
        system = self._system
        if self._track is not Track.REDIS or system.tickets is None:
            return None
        return RedisConsumer(
            system.store,
            system.tickets,
            holder=self.worker_id,
            visits=self._visits,
            on_foreign=self._meet_foreign if system.config.RQ_ALLOW_FOREIGN_JOBS else None,
        )

    def _database_consumer(self) -> DatabaseConsumer | PoolConsumer:
        system = self._system
        if self._pool is not None:
            return PoolConsumer(system.store, self._pool)
        return DatabaseConsumer(
            system.store,
            grace_seconds=system.settings.ticket_grace_seconds,
            always=self._track is Track.DATABASE,
            pollers_beside=system.config.pollers_enabled,
            visits=self._visits,
        )

    def _meet_foreign(self) -> None:
        """A job of another program is next: it waits for a worker of RQ's command line that may run it."""

    def _arrive(self) -> None:
        """The worker's own row is for people: without it the worker works all the same."""
        with _tolerant("worker.not_listed"):
            self._system.store.registry.arrive(
                self.worker_id,
                host=HOST,
                pid=os.getpid(),
                track=self._track.value,
                queues=self._serves(),
            )

    def _serves(self) -> list[str]:
        if self._pool is not None:
            return [f"{POOL_WORD}{self._pool}"]
        return [priority.value for priority in self._visits.priorities]

    def _depart(self) -> None:
        with _tolerant("worker.not_unlisted"):
            if self._redis is not None:
                self._redis.leave()
        with _tolerant("worker.not_unlisted"):
            self._system.store.registry.leave(self.worker_id)
        self._waiting.close()
        self._system.close()


@contextmanager
def _tolerant(event: str) -> Iterator[None]:
    try:
        yield
    except TaskError as error:
        log.info(event, reason=str(error))
