"""The sweeper: brings every accepted task on its way again, whatever was lost.

One is active at a time, by a named lock in the database. A pass costs a bounded number of statements,
whatever the table's size. Healing never decides by Redis alone: each step is a guarded move of the store.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

import structlog

from app.tasks.admission import user_slots
from app.tasks.errors import RedisUnavailable, TaskError
from app.tasks.missing_tickets import MissingTickets
from app.tasks.model import Moved, Priority, Track
from app.tasks.pacing import (
    ACTIVE_SECONDS,
    HURRIED_SECONDS,
    LOCK_SECONDS,
    LOCK_SPARE_SECONDS,
    SHORTEST_SECONDS,
    Pace,
)
from app.tasks.queue import TaskQueue, utc_now
from app.tasks.reclaims import Reclaims
from app.tasks.refilling import Refiller
from app.tasks.routing import Intake, Route, Routing
from app.tasks.schema import AnyRow
from app.tasks.settings import CoreSettings
from app.tasks.store import Store
from app.tasks.store.looks import Glance
from app.tasks.tickets import Overflow, RQQueueManager

LOCK = "sweeper"
BATCH = 500
BATCHES_PER_PASS = 20
SILENT_WORKER_SECONDS = 300
FULL_PASS_SECONDS = 3.0
IDLE_PASS_SECONDS = 60.0
LIFT_AGAIN_SECONDS = 300.0

log = structlog.get_logger(__name__)

# Of the given holders, those that are proven dead.
DeadHolders = Callable[[Iterable[str]], Collection[str]]
Overflows = Mapping[Priority, Overflow]
_Lease = tuple[int, int, datetime]


@dataclass(slots=True)
class Healed:
    """What one step did, for logs and tests."""

    due: int = 0
    fired: int = 0
    held: int = 0
    moved: int = 0
    reclaimed: int = 0
    pushed: int = 0
    confirmed: int = 0
    stale: int = 0
    refilled: int = 0
    let_in: int = 0
    moved_up: int = 0
    hurry: bool = False  # a queue runs dry before the next step would come
    notes: list[str] = field(default_factory=list)

    @property
    def did_something(self) -> bool:
        """True if rows or tickets were changed: more of it may be near."""
        moves = (self.due, self.fired, self.held, self.moved, self.reclaimed, self.let_in, self.moved_up)
        return any((*moves, self.pushed, self.refilled))


class Sweeper:
    """`step()` is called again and again by whoever may heal, `pause_seconds` after the last one or when it
    is rung for; it does nothing without the lock."""

    def __init__(
        self,
        queue: TaskQueue,
        *,
        holder: str,
        dead_holders: DeadHolders = lambda holders: (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`dead_holders` names those of the given sweepers that are proven dead."""
        self.queue = queue
        self._store: Store = queue.store
        self._tickets: RQQueueManager | None = queue.tickets
        self._settings: CoreSettings = queue.settings
        self._reclaims = Reclaims(queue)
        self._holder = holder
        self._dead_holders = dead_holders
        self._clock = clock
        self._pace = Pace.of(self._settings)
        self.pause_seconds = 0.0
        """How long the next step may be put off."""
        self._missing: MissingTickets | None = None
        self._refiller: Refiller | None = None
        if self._tickets is not None:
            grace = self._settings.ticket_grace_seconds
            self._missing = MissingTickets(self._store, self._tickets, grace_seconds=grace, clock=clock)
            self._refiller = Refiller(self._store, self._tickets)
        self._users_wait = True
        self._last_full_pass = -IDLE_PASS_SECONDS
        self._overflowing = False
        self._lock_until = 0.0
        self._lifted: dict[Priority, int] = {}
        self._next_lift = 0.0
        self._unrenewed_since: dict[_Lease, float] = {}
        self._last_look = clock()

    def step(self) -> Healed | None:
        """Heal what is cheap to see; every few seconds everything. None: another sweeper is active.

        Raises `DatabaseUnavailable`; the next step begins anew.
        """
        try:
            slept, self.pause_seconds = self.pause_seconds, ACTIVE_SECONDS
            glance = self._store.looks.glance(LOCK)
            return self._heal(glance) if self._lock(glance, slept) else None
        except TaskError:
            self._unrenewed_since.clear()  # what is seen counts only while the database answers
            raise

    def _heal(self, glance: Glance) -> Healed:
        healed = Healed()
        rules = self._end_of_pauses(glance.rules)
        rules = self._fallback(rules, healed)
        if _is_over(glance.next_run_seconds):
            healed.fired += self.queue.schedules.fire_due()
        if _is_over(glance.next_due_seconds):
            healed.due += self._repeat(lambda: self._store.moves.due(limit=BATCH))
        if glance.families:
            healed.let_in += self.queue.families.step()
        if glance.untold:
            self._store.write_backs.deliver()
        live = self._is_live(glance, rules)
        self._let_users_in(healed)
        overflows = self._refill(rules, healed) if glance.dispatched or self._overflowing else {}
        self._overflowing = bool(overflows)
        if self._clock() - self._last_full_pass >= (FULL_PASS_SECONDS if live else IDLE_PASS_SECONDS):
            self._last_full_pass = self._clock()
            self._full_pass(glance, rules, overflows, healed)
        live = live or healed.did_something or self._store.users.some_wait
        self._rest(glance, rules, live=live)
        if healed.hurry:
            self.pause_seconds = min(self.pause_seconds, HURRIED_SECONDS)
        return healed

    def _is_live(self, glance: Glance, rules: Routing) -> bool:
        away = self._tickets is not None and not self._redis_answers()
        falls_back = any(route.fallback for route in rules.values())
        return glance.anything_live or self._overflowing or falls_back or away

    def _rest(self, glance: Glance, rules: Routing, *, live: bool) -> None:
        """Say how long to sleep, and hold the lock for longer."""
        self.pause_seconds = self._pace.pause(glance, rules, utc_now(), live=live)
        if self.pause_seconds > self._lock_until - self._clock() - LOCK_SPARE_SECONDS / 2:
            self._try_lock(self.pause_seconds)

    def _lock(self, glance: Glance, slept: float) -> bool:
        """Take or keep the sweeper's lock; the lock of a sweeper that is proven dead is broken at once."""
        other, left = glance.lock_holder, glance.lock_left_seconds
        if other == self._holder:
            if left <= LOCK_SECONDS / 2:
                return self._try_lock(slept)  # the next sleep may be as long: one statement for both
            self._lock_until = self._clock() + left
            return True
        if other is not None and left > 0:
            # a holder that was buried since the glance has taken its proof of death and its lock along
            if not self._dead_holders([other]) and self._store.registry.lock_holder(LOCK) == other:
                self.pause_seconds = min(left + SHORTEST_SECONDS, self._pace.idle_seconds)
                return False
            self._store.registry.unlock(LOCK, other)
        return self._try_lock(ACTIVE_SECONDS)

    def _try_lock(self, sleep: float) -> bool:
        """For longer than a sleep, and not much longer, for another host's sake."""
        seconds, asked = max(LOCK_SECONDS, sleep + LOCK_SPARE_SECONDS), self._clock()
        self._lock_until = asked + seconds
        return self._store.registry.try_lock(LOCK, self._holder, seconds=seconds)

    def full_pass(self) -> Healed | None:
        """As `step`, with everything looked at."""
        self._last_full_pass = -IDLE_PASS_SECONDS
        return self.step()

    @property
    def pulse_seconds(self) -> float:
        """How often to make sure, while asleep, that Redis still answers."""
        return self._pace.pulse_seconds

    def leave(self) -> None:
        """Give up the lock, so that another sweeper begins at once."""
        self._store.registry.unlock(LOCK, self._holder)

    def _full_pass(self, glance: Glance, rules: Routing, overflows: Overflows, healed: Healed) -> None:
        """Everything for which the glance saw a reason."""
        self._holds(rules, healed)
        self._let_imported_in(healed)
        self._reclaim_expired(healed, some=glance.processing)
        lengths = self._lengths()
        for route in rules.values():
            if _may_be_misplaced(route, glance):
                healed.moved += self._wrong_track(route)
            if glance.queued or glance.dispatched:
                self._move_up(route, healed)
            if glance.dispatched or lengths.get(route.priority):
                self._check_tickets(route, overflows.get(route.priority), healed)
        self._ring_again(glance, rules, lengths)
        self._store.registry.forget_silent(silent_seconds=SILENT_WORKER_SECONDS)

    def _ring_again(self, glance: Glance, rules: Routing, lengths: Mapping[Priority, int]) -> None:
        """For all that was seen to wait. Who had moved it may have died between its commit and its ring, and
        who heard the ring before it looked."""
        waiting = [(Track.REDIS, priority) for priority, length in lengths.items() if length]
        if glance.queued:
            waiting += [(Track.DATABASE, priority) for priority in rules]
        self.queue.waking.again(
            [(track, p) for track, p in waiting if p in rules and rules[p].may_claim(track)]
        )

    def _let_users_in(self, healed: Healed) -> None:
        """Tasks that a limit per user has set aside, and nobody has let in. A limit that was taken back
        leaves some behind: looked for until there are none."""
        if self._users_wait:
            moves = self._store.users.make_up()
            self.queue.push_moved(moves)
            healed.let_in += len(moves)
            self._users_wait = bool(self._settings.user_concurrency or moves)
        if self._store.slots.some_wait:
            self._let_imported_in(healed)

    def _let_imported_in(self, healed: Healed) -> None:
        limit = self._settings.active_tasks_per_user
        moves = self._store.slots.make_up(lambda user: user_slots(user, limit))
        self.queue.push_moved(moves)
        healed.let_in += len(moves)

    def _move_up(self, route: Route, healed: Healed) -> None:
        """The age bonus, if there is one: a batch per pass, so that a long backlog does not move at once."""
        bonus = self._settings.age_bonus_seconds
        if bonus and not route.paused:
            moves, old = self._store.aging.move_up(route.priority, waited_seconds=bonus, limit=BATCH)
            self.queue.withdraw(old, from_the_head=True)
            self.queue.push_moved(moves)
            healed.moved_up += len(moves)

    def _repeat(self, batch: Callable[[], list[Moved]]) -> int:
        total = 0
        for _ in range(BATCHES_PER_PASS):
            moves = batch()
            self.queue.push_moved(moves)
            total += len(moves)
            if len(moves) < BATCH:
                break
        return total

    # --- intake -----------------------------------------------------------------------------------

    def _end_of_pauses(self, rules: Routing) -> Routing:
        over = [
            route.priority
            for route in rules.values()
            if route.intake is not Intake.OPEN and route.intake_at(utc_now()) is Intake.OPEN
        ]
        if not over:
            return rules
        log.info("intake.pause_over", priorities=[priority.value for priority in over])
        return self._store.routing.change(over, intake=Intake.OPEN, intake_until=None, intake_reason=None)

    def _holds(self, rules: Routing, healed: Healed) -> None:
        """Holds are made only while the rules say so: once lifted under a version there are no more, but for
        one that was locked or moved at that moment."""
        open_ones = {route.priority: route.version for route in rules.values() if route.intake is Intake.OPEN}
        if open_ones == self._lifted and self._clock() < self._next_lift:
            return
        held = self._repeat(lambda: self._store.moves.lift_holds(list(open_ones), limit=BATCH))
        healed.held += held
        self._lifted = {} if held else open_ones
        self._next_lift = self._clock() + LIFT_AGAIN_SECONDS

    # --- fallback -----------------------------------------------------------------------------------

    def _redis_answers(self) -> bool:
        return self._tickets is not None and self._tickets.health.away_seconds == 0

    def _fallback(self, rules: Routing, healed: Healed) -> Routing:
        """Record that Redis is away for too long, or that it is back; moves follow the routing."""
        tickets = self._tickets
        recorded = any(route.fallback for route in rules.values())
        if tickets is None or not (recorded or self._settings.fallback_enabled):
            return rules
        if tickets.health.worth_a_try:
            tickets.ping()
        uses_redis = any(route.redis_percent or route.name_percents for route in rules.values())
        if not recorded and uses_redis and tickets.health.away_seconds >= self._patience_seconds:
            log.warning("fallback.began", away_seconds=round(tickets.health.away_seconds, 1))
            healed.notes.append("fallback began")
            rules = self._store.routing.change(fallback=True)
        elif recorded and tickets.health.up_seconds >= self._settings.return_after_seconds:
            rules = self._return_to_redis(tickets, rules, healed)
        if any(route.fallback for route in rules.values()):
            for route in rules.values():
                healed.moved += self._wrong_track(route)
        return rules

    @property
    def _patience_seconds(self) -> float:
        """The pollers are to run within `fallback_after_seconds` of anybody's first failed call; ours may
        have failed a pulse, a time-out and a step later, and the recall takes its time."""
        after = self._settings.fallback_after_seconds
        return max(after / 2, after - 8)

    def _return_to_redis(self, tickets: RQQueueManager, rules: Routing, healed: Healed) -> Routing:
        back = []
        for route in rules.values():
            if not route.fallback or self._store.dispatched.some_dispatched(route.priority):
                continue
            try:
                tickets.clear(route.priority)  # all its rows were recalled: every ticket left is stale
                tickets.close_overflow(route.priority)
            except RedisUnavailable:
                return rules
            back.append(route.priority)
        if not back:
            return rules
        log.info("fallback.ended", priorities=[priority.value for priority in back])
        healed.notes.append("fallback ended")
        rules = self._store.routing.change(back, fallback=False)
        for priority in back:
            healed.moved += self._wrong_track(rules[priority])
        return rules

    def _wrong_track(self, route: Route) -> int:
        return self._repeat(lambda: self._store.moves.to_right_track(route.priority, limit=BATCH))

    # --- reclaims -----------------------------------------------------------------------------------

    def _reclaim_expired(self, healed: Healed, *, some: bool) -> None:
        """A lease that is over counts if it was seen in its second half, and was not renewed for one renewal
        interval since: after an outage of the database, living workers get the time to renew."""
        lease = self._settings.lease_seconds
        rows = self._store.moves.expired(limit=BATCH, within_seconds=lease / 2) if some else []
        now, interval = self._clock(), lease / 3
        if now - self._last_look > max(interval, 2 * FULL_PASS_SECONDS):
            self._unrenewed_since = {}  # nobody looked, or the database hung: workers could not renew either
        self._last_look = now
        seen = {_lease(row): self._unrenewed_since.get(_lease(row), now) for row in rows}
        self._unrenewed_since = seen
        for row in rows:
            if row.is_over and now - seen[_lease(row)] >= interval:
                healed.reclaimed += self._reclaims.reclaim(row, "the lease expired", only_expired=True)

    # --- tickets ------------------------------------------------------------------------------------

    def _refill(self, rules: Routing, healed: Healed) -> Overflows:
        """Push what waits beyond a window and fits now. Returns the overflows as they were."""
        if self._tickets is None or self._refiller is None or not self._redis_answers():
            return {}
        try:
            overflows = self._tickets.overflows()
            healed.refilled, healed.hurry = self._refiller.step(rules, overflows)
        except RedisUnavailable as error:
            log.info("sweeper.not_refilled", reason=str(error))
            return {}
        return overflows

    def _lengths(self) -> Mapping[Priority, int]:
        if self._tickets is None or not self._redis_answers():
            return {}
        try:
            return self._tickets.lengths()
        except RedisUnavailable:
            return {}

    def _check_tickets(self, route: Route, overflow: Overflow | None, healed: Healed) -> None:
        if self._missing is None or route.fallback or not self._redis_answers():
            return
        if not route.may_claim(Track.REDIS):
            return
        try:
            checked = self._missing.check(route.priority, overflow)
        except RedisUnavailable as error:
            log.info("sweeper.tickets_unseen", priority=route.priority.value, reason=str(error))
            return
        healed.pushed += checked.pushed
        healed.confirmed += checked.confirmed
        healed.stale += checked.stale


def _lease(row: AnyRow) -> _Lease:
    """What a renewal changes."""
    return row.id, row.token, row.lease_until


def _is_over(seconds: float | None) -> bool:
    return seconds is not None and seconds <= 0


def _may_be_misplaced(route: Route, glance: Glance) -> bool:
    """False if no row of the kind that this route does not want was seen, or a transfer wants it there."""
    if route.tolerates_both_tracks:
        return False
    wrong = {
        Track.DATABASE: glance.dispatched,
        Track.REDIS: glance.queued,
        None: glance.queued or glance.dispatched,
    }
    return wrong[route.whole_track]
