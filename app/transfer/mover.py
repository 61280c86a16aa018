"""The mover: runs one transfer from its first batch to the proof that nothing is left.

Two threads mark rows, one picking while the other writes, and a third delivers what was committed, in order;
a move that holds itself back for submissions has one batch on its way at a time.
A dispatch chases the backlog while the routing still says the database, so that new tasks do not overtake it,
then flips and goes on; a recall has flipped before. Passes are repeated: what was locked, or committed late,
is met by the next one. Only a plain count of zero after the flip ends a priority, and an error never does.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import structlog
from sqlalchemy.engine import Connection

from app.tasks.database import CommitUnknown
from app.tasks.errors import RedisUnavailable, TaskError
from app.tasks.model import Priority, Track
from app.tasks.queue import TaskQueue
from app.tasks.routing import Route
from app.tasks.store.routing import hold_routing
from app.tasks.store.transfers import Aim
from app.transfer.batches import BatchRecord, BatchRecords, digest_of
from app.transfer.canaries import Canaries
from app.transfer.cargo import Cargo, Held, Picked, WaitingTasks
from app.transfer.courtesy import Courtesy
from app.transfer.delivery import Delivered, Delivery, Marked
from app.transfer.errors import Incomplete, NotPossible, Superseded, TransferError
from app.transfer.plans import Direction
from app.transfer.records import Transfer, TransferRecords
from app.transfer.soundness import Soundness
from app.transfer.steering import Steering
from app.transfer.throttle import Throttle
from app.transfer.walk import Walk

MARKERS = 2
UNDELIVERED_BATCHES = 3
CHASES = 20
REST_SECONDS = 0.2
REDIS_TRIES = 5

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Moving:
    """How far the run is, for whoever shows it."""

    phase: str
    moved: int
    quarantined: int
    pushed: int
    confirmed: int
    planned: int
    seconds: float
    throttle_reason: str | None = None

    @property
    def rows_per_second(self) -> float:
        return self.moved / self.seconds if self.seconds > 0 else 0.0


Watcher = Callable[[Moving], None]


class Mover:
    """Runs one transfer that `holder` holds."""

    def __init__(
        self,
        queue: TaskQueue,
        transfer: Transfer,
        *,
        holder: str,
        watcher: Watcher = lambda moving: None,
        canaries: Canaries | None = None,
        cargo: Cargo | None = None,
    ) -> None:
        """Without `cargo` it moves our own waiting tasks. Raises `NotPossible`: a dispatch without Redis."""
        self._queue = queue
        self._store = queue.store
        self._transfer = transfer
        self._holder = holder
        self._watcher = watcher
        self._canaries = canaries or Canaries()
        self._records = TransferRecords(queue.store.database)
        self._batches = BatchRecords(queue.store.database)
        self._direction = transfer.plan.direction
        self._dispatches = self._direction is Direction.DISPATCH
        self._cargo = cargo or self._waiting_tasks()
        # a recall needs no Redis
        self._tickets = tickets = None if self._direction is Direction.RECALL else queue.tickets
        throttle = Throttle(queue.store.database, tickets, transfer.limits)
        self._courtesy = Courtesy(self._as_a_submission, rise_percent=transfer.limits.submit_rise_percent)
        self._steering = Steering(
            self._records, transfer, holder=holder, throttle=throttle, courtesy=self._courtesy
        )
        self._markers = MARKERS if transfer.limits.submit_rise_percent is None else 1
        if self._dispatches and tickets is None:
            raise NotPossible("there is no Redis to dispatch to: RQ_ENABLED is false")
        self._delivery: Delivery | None = None
        if tickets is not None:
            self._delivery = Delivery(queue.store, tickets, self._batches, transfer_id=transfer.transfer_id)
        self._number = 0
        self._began = time.monotonic()
        planned = sum(transfer.plan.rows.values())
        self._moving = Moving("beginning", 0, 0, 0, 0, planned, 0.0)

    def _waiting_tasks(self) -> Cargo:
        queue = self._queue
        soundness = Soundness(queue.handlers, payload_limit_bytes=queue.settings.payload_limit_bytes)
        track, transfer_id = self._direction.track, self._transfer.transfer_id
        return WaitingTasks(queue.store.transfers, soundness, track=track, transfer_id=transfer_id)

    @property
    def transfer_id(self) -> int:
        return self._transfer.transfer_id

    def run(self) -> Moving:
        """Move everything. Returns the figures of this run; earlier runs of the transfer have their own.

        Raises `Superseded` when it was aborted or taken over, `Incomplete` when rows stay locked, and the
        errors of database and Redis. After any but `Superseded` the transfer is recorded as failed, and can
        be resumed.
        """
        try:
            self._number = self._batches.next_number(self._transfer.transfer_id) - 1
            self._deliver_left_over()
            with self._courtesy:
                self._send_canaries()
                for priority in self._transfer.plan.targets:
                    self._bring(priority)
            self._records.complete(self._transfer.transfer_id, holder=self._holder)
        except Superseded:
            raise
        except (TaskError, TransferError, KeyboardInterrupt) as error:
            self._give_up(error)
            raise
        return self._moving

    def _give_up(self, error: BaseException) -> None:
        said = f"{type(error).__name__}: {error}".rstrip(": ")
        error.add_note(f"Transfer {self._transfer.transfer_id} can be resumed")
        with suppress(TaskError):  # the database may be what failed: then the lease ends by itself
            self._records.fail(self._transfer.transfer_id, holder=self._holder, error=said)

    def _as_a_submission(self) -> None:
        priority = next(iter(self._transfer.plan.targets))
        self._records.touch(self._transfer.transfer_id, priority, holder=self._holder)
        if self._tickets is not None:
            self._tickets.ping()

    def _deliver_left_over(self) -> None:
        for record in self._batches.undelivered(self._transfer.transfer_id):
            if self._delivery is None:
                self._batches.delivered(self._transfer.transfer_id, record.number)
            else:
                self._delivery.deliver_again(record)

    # --- one priority -------------------------------------------------------------------------------

    def _bring(self, priority: Priority) -> None:
        route = self._store.routing.refresh()[priority]
        aim = self._transfer.plan.aim(route)
        if self._delivery is not None:
            self._delivery.prepare(priority)
            if route.moving_to is Track.REDIS:
                self._enter(f"{priority.value}: ahead of the flip")
                self._chase(aim)
                self._records.flip(self._transfer, priority, holder=self._holder)
                self._queue.waking.rules_changed([priority])
        else:
            self._queue.waking.rules_changed([priority])
        self._enter(f"{priority.value}: until none is left")
        self._until_none(aim)
        self._records.note(self._transfer.transfer_id, "priority complete", priority=priority.value)
        if self._direction is Direction.RECALL:
            self._clear_tickets(priority)

    def _send_canaries(self) -> None:
        """A few rows, then somebody's look at them, then a few more: before the rest, and before any flip."""
        for route in self._routes_ahead():
            priority = route.priority
            while self._canaries.next_rows:
                self._enter(f"{priority.value}: {self._canaries.next_rows} ahead of the rest")
                moved = self._pass(self._transfer.plan.aim(route), most=self._canaries.next_rows)
                if not moved:
                    break
                self._canaries.moved(moved)
                kept = {"priority": priority.value, "moved": moved}
                self._records.note(self._transfer.transfer_id, "canaries", **kept)

    def _routes_ahead(self) -> Iterator[Route]:
        """Of the priorities that a dispatch has not flipped yet."""
        if self._delivery is None:
            return
        for priority in self._transfer.plan.targets:
            route = self._store.routing.refresh()[priority]
            if route.moving_to is Track.REDIS:
                self._delivery.prepare(priority)
                yield route

    def _chase(self, aim: Aim) -> None:
        """Pass after pass until no more than a batch stood there: what comes in meanwhile is soon less. Where
        it is not, since tasks come in faster than this run may move them, only the flip can end it."""
        before: int | None = None
        for _ in range(CHASES):
            left = self._cargo.count(aim)
            if before is not None and left >= before:
                return
            self._pass(aim, most=left)
            if left <= self._steering.chunk.rows:
                return
            before = left

    def _until_none(self, aim: Aim) -> None:
        """Raises `Incomplete` if rows are left and none could be moved in `patience_seconds` of work."""
        last_progress = self._steering.working_seconds
        left = self._cargo.count(aim)
        while True:
            moved = self._pass(aim, most=left)
            left = self._cargo.count(aim)
            if left == 0:
                return
            now = self._steering.working_seconds
            if moved:
                last_progress = now
                continue
            if now - last_progress > self._transfer.limits.patience_seconds:
                raise Incomplete(f"{left} rows of {aim.route.priority.value} stay locked by somebody else")
            self._steering.wait(REST_SECONDS)

    def _clear_tickets(self, priority: Priority) -> None:
        """All rows of a whole recall are back: what is left in the queue is stale."""
        tickets = self._queue.tickets
        if tickets is None or not self._transfer.plan.scope.is_whole or not tickets.health.worth_a_try:
            return
        with suppress(RedisUnavailable):  # stale tickets do no harm
            tickets.clear(priority)
            tickets.close_overflow(priority)

    def _enter(self, phase: str) -> None:
        self._steering.course.phase = phase
        self._moving = replace(self._moving, phase=phase)
        log.info("transfer.phase", transfer=self._transfer.transfer_id, phase=phase)

    # --- one pass -----------------------------------------------------------------------------------

    def _pass(self, aim: Aim, *, most: int) -> int:
        """Walk once along the first rows of the backlog: without an end to it a pass that is held back would
        go on for as long as tasks come in. Returns how many it took out of it."""
        self._steering.hold()  # where nothing waits, too: a paused run comes to no end
        total = 0
        for stretch in self._cargo.stretches(aim):
            total += self._walk(Walk(aim, stretch, most=most))
        return total

    def _walk(self, walk: Walk) -> int:
        """Keep the markers and the delivery busy until there is nothing to pick; then wait for all."""
        total = 0
        marking: deque[Future[Marked | None]] = deque()
        delivering: deque[Future[Delivered]] = deque()
        with ThreadPoolExecutor(MARKERS) as markers, ThreadPoolExecutor(1) as carrier:
            try:
                while True:
                    while len(marking) < self._markers and not walk.over:
                        rows = walk.allot(self._steering.batch_rows())
                        marking.append(markers.submit(self._mark, walk, walk.next_turn(), rows))
                    if not marking:
                        break
                    batch = marking.popleft().result()
                    if batch is not None:
                        total += batch.record.marked + batch.record.quarantined
                        self._marked(walk, batch)
                        delivering.append(carrier.submit(self._carry, batch))
                    while len(delivering) > UNDELIVERED_BATCHES:
                        self._delivered(delivering.popleft().result())
                for carried in delivering:
                    self._delivered(carried.result())
            except BaseException:
                walk.over = True
                carrier.shutdown(cancel_futures=True)
                raise
        return total

    def _marked(self, walk: Walk, batch: Marked) -> None:
        record = batch.record
        self._steering.spent(record.marked + record.quarantined, record.mark_seconds)
        self._steering.course.cursors[record.priority.value] = record.last_id
        self._moving = replace(
            self._moving,
            moved=self._moving.moved + record.marked,
            quarantined=self._moving.quarantined + record.quarantined,
            seconds=time.monotonic() - self._began,
            throttle_reason=self._steering.throttle_reason,
        )
        self._watcher(self._moving)

    def _delivered(self, done: Delivered) -> None:
        self._moving = replace(
            self._moving,
            pushed=self._moving.pushed + done.pushed,
            confirmed=self._moving.confirmed + done.confirmed,
            seconds=time.monotonic() - self._began,
        )

    # --- one batch ----------------------------------------------------------------------------------

    def _mark(self, walk: Walk, turn: int, limit: int) -> Marked | None:
        """Pick, judge, mark and record in one transaction; None: nothing was there to pick."""
        number = 0
        made: Marked | None = None
        before: Picked | None = None
        after: Any = None

        def work(on: Connection) -> None:
            nonlocal number, made, before, after
            began = time.monotonic()
            made = None
            with walk.in_turn(turn):  # the next one picks behind us while we write
                held = self._hold(on, walk.aim)
                if before is None:  # else it is repeated, and others have picked behind it since
                    after = walk.cursor
                picked = self._cargo.pick(on, walk.aim, walk.stretch, after, limit, before)
                if picked is None:
                    walk.over = True
                    return
                if before is None:
                    before, walk.cursor = picked, picked.cursor
                self._number += 1
                number = self._number
            if picked.rows:
                made = self._write(on, held, walk, picked.rows, number, began)

        try:
            with self._courtesy.at_work():
                self._store.database.run(work)
        except CommitUnknown:
            if made is None or not self._batches.has(self._transfer.transfer_id, number):
                raise
        finally:
            walk.end_turn(turn)
        return made

    def _hold(self, on: Connection, aim: Aim) -> Held:
        """The routing, held until the commit: it must still be ours, and must not flee from Redis."""
        priority = aim.route.priority
        rules, now = hold_routing(on, [priority])
        if rules[priority].transfer_id != self._transfer.transfer_id:
            raise Superseded(f"transfer {self._transfer.transfer_id} no longer has {priority.value}")
        self._records.state(self._transfer.transfer_id, holder=self._holder, on=on)
        if self._dispatches and rules[priority].fallback:
            raise RedisUnavailable("the tasks have fallen back to the database: resume when Redis is back")
        return Held(rules[priority], now)

    def _write(
        self, on: Connection, held: Held, walk: Walk, rows: Sequence[Any], number: int, began: float
    ) -> Marked | None:
        priority = walk.aim.route.priority
        incarnation = self._delivery.incarnation(priority) if self._delivery else 0
        batch = self._cargo.mark(on, held, walk.aim, rows, incarnation)
        if batch is None:
            return None
        record = BatchRecord(
            number=number,
            priority=priority,
            first_id=batch.first_id,
            last_id=batch.last_id,
            marked=batch.marked,
            quarantined=batch.quarantined,
            digest=digest_of(batch.tickets),
            mark_seconds=time.monotonic() - began,
        )
        self._batches.add(on, self._transfer.transfer_id, record)
        return Marked(record, batch.tickets, incarnation)

    def _carry(self, batch: Marked) -> Delivered:
        """Deliver; an outage of Redis that is over soon is waited for."""
        with self._courtesy.at_work():
            if self._delivery is None:
                self._queue.waking.again([(Track.DATABASE, batch.record.priority)])
                self._batches.delivered(self._transfer.transfer_id, batch.record.number)
                return Delivered()
            try:
                return self._delivery.deliver(batch)
            except RedisUnavailable:
                return self._carry_again(self._delivery, batch.record)

    def _carry_again(self, delivery: Delivery, record: BatchRecord) -> Delivered:
        """Nobody knows what arrived: what stands in the queue is not pushed twice."""
        for _ in range(REDIS_TRIES - 1):
            time.sleep(REST_SECONDS)
            with suppress(RedisUnavailable):
                return delivery.deliver_again(record)
        return delivery.deliver_again(record)
