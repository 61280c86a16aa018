"""Consumers: where a worker's claims come from. One per track, behind one interface.

A consumer says what to claim next and is told what was won and what ended. It claims and runs nothing: the
claim is one half of the worker's turn, whose other half settles the batch before.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Protocol

import structlog

from app.tasks.errors import DatabaseUnavailable, RedisUnavailable
from app.tasks.model import Outcome, Priority, Status, Track, Waits
from app.tasks.routing import Routing
from app.tasks.runner import LiveTask, boot_clock
from app.tasks.store import Store
from app.tasks.store.claims import TicketClaims
from app.tasks.store.takes import TakeOfPool, TakeQueued, TakeTickets
from app.tasks.tickets import RQQueueManager
from app.tasks.tickets.bells import Rung
from app.tasks.tickets.manager import KEEP_FOREIGN_SECONDS, Ended, Taken
from app.tasks.tickets.rq_format import ticket_failure
from workers.filing import Filing
from workers.in_flight import put_back
from workers.presence import WorkerPresence
from workers.visiting import STRICT, Visits

# As RQ words the exception of a job that a stock worker ran.
FAILED_RUN = "app.jobs.TicketFailed: "
FOREIGN = (
    "Refused, and not read: this queue takes Twintrack's tickets only, and RQ_ALLOW_FOREIGN_JOBS is off."
)

TRY_SECONDS = 0.02
LONG_SECONDS = 0.02  # a run that lets nobody wait behind it

log = structlog.get_logger(__name__)


class Consumer(Protocol):
    track: Track

    def fetch(self, count: int, *, spare: int = 0) -> TakeTickets | TakeQueued | TakeOfPool | None:
        """What to claim now, up to `count`; None if nothing waits here. `spare` more may come along, for the
        next times. Raises `RedisUnavailable`."""

    def accept(self, answer: TicketClaims) -> None:
        """The claim of what was fetched was answered."""

    def abandon(self) -> None:
        """What was fetched could not be claimed."""

    def ended(self, outcome: Outcome, status: Status | None) -> None:
        """A claim's end was recorded; None: it was lost. May be called by another thread."""

    def flush(self) -> None:
        """Tell what ended, if it was not told with a fetch."""

    def waited(self, rung: Rung | None) -> None:
        """The worker has waited, and this woke it; None: nothing did."""


class RedisConsumer:
    """Tickets from the RQ queues, in the order of its visits."""

    track = Track.REDIS

    def __init__(
        self,
        store: Store,
        tickets: RQQueueManager,
        *,
        holder: str,
        visits: Visits = STRICT,
        on_foreign: Callable[[], None] | None = None,
    ) -> None:
        """`on_foreign`: jobs of other programs stay where they are, and this is called when one is next;
        without it they are refused."""
        self._store = store
        self._tickets = tickets
        self._on_foreign = on_foreign
        self._holder = holder
        self._priorities = list(visits.priorities)
        self._rounds = visits.rounds()
        self._rules_changed = False
        self._fetched: dict[tuple[int, int], Taken] = {}
        self._spare: list[Taken] = []  # in flight for the next claims, unless a long run comes first
        self._sharing = threading.Lock()
        self._came_twice = False
        self._outages = tickets.health.outages  # what these have left in flight is put back
        self._filing = Filing()
        self._claimed_at = 0.0
        self._finished = 0
        self._failed = 0
        self._presence = WorkerPresence(
            tickets,
            worker_id=holder,
            priorities=self._priorities,
            counts=lambda: (self._finished, self._failed),
        )

    def fetch(self, count: int, *, spare: int = 0) -> TakeTickets | None:
        if not self._tickets.health.worth_a_try:
            raise RedisUnavailable("Redis did not answer a moment ago")
        open_ones = self._open()
        if not open_ones:
            self._return_spare()
            return None
        while taken := self._next(open_ones, count, spare):
            foreign = [ticket for ticket in taken if ticket.reference is None]
            self._refuse(foreign)
            self._fetched = {ticket.reference: ticket for ticket in taken if ticket.reference is not None}
            self._came_twice = self._came_twice or len(self._fetched) + len(foreign) < len(taken)
            if self._fetched:
                return TakeTickets(list(self._fetched))
        return None

    def _next(self, priorities: Sequence[Priority], count: int, spare: int) -> list[Taken]:
        with self._sharing:
            taken, self._spare = self._spare[:count], self._spare[count:]
        if not taken:
            taken = self._take(priorities, count + spare)
            with self._sharing:
                taken, self._spare = taken[:count], taken[count:]
        return taken

    def _return_spare(self) -> None:
        with self._sharing:
            spare, self._spare = self._spare, []
        if spare:
            self._give_back(spare)

    def _take(self, priorities: Sequence[Priority], count: int) -> list[Taken]:
        """The next tickets; what ended rides along when it is time."""
        ended = self._filing.due()
        try:
            taken = self._tickets.turn(self._holder, ended, priorities, count)
        except RedisUnavailable:
            self._filing.put_back(ended)
            raise
        return taken if self._on_foreign is None else self._up_to_foreign(taken, self._on_foreign)

    def _up_to_foreign(self, taken: list[Taken], on_foreign: Callable[[], None]) -> list[Taken]:
        first = next((n for n, ticket in enumerate(taken) if ticket.reference is None), None)
        if first is None:
            return taken
        self._give_back(taken[first:])
        on_foreign()
        return taken[:first]

    def accept(self, answer: TicketClaims) -> None:
        for pair in answer.stale:
            ticket = self._fetched[pair]
            self._filing.add(Ended(ticket.job_id, ticket.priority, None))
        if answer.refused:
            self._rules_changed = True
            self._give_back([self._fetched[pair] for pair in answer.refused])
        self._fetched = {}
        self._claimed_at = round(self._tickets.database_clock(), 3)

    def abandon(self) -> None:
        fetched, self._fetched = self._fetched, {}
        self._give_back(list(fetched.values()))

    def ended(self, outcome: Outcome, status: Status | None) -> None:
        claim = outcome.claim
        job_id = f"t{claim.task_id}-e{claim.epoch}"
        if status is None:
            # Lost: the ticket is worth nothing any more, another epoch or nobody runs the task.
            self._filing.add(Ended(job_id, claim.priority, None))
            return
        ok, error = status is Status.COMPLETED or isinstance(outcome, Waits), ""
        self._finished += ok
        self._failed += not ok
        if not ok:
            error = FAILED_RUN + ticket_failure(claim.task_id, status, getattr(outcome, "error", ""))
        # to the millisecond: what ended together is told together
        now = round(self._tickets.database_clock(), 3)
        self._filing.add(Ended(job_id, claim.priority, ok, error, self._claimed_at or now, now))

    def flush(self, *, due_only: bool = False) -> None:
        """Tell what ended; with `due_only` no sooner than it is time. May be called by another thread."""
        ended = self._filing.due() if due_only else self._filing.take()
        if ended:
            self._finish(ended)

    def recover(self) -> None:
        """Put back what is in flight although this worker has nothing in hand: tickets that came twice, and
        what an outage of Redis has left there. Call it only then. Asks nothing if neither has happened, or
        while Redis is away; what fails is tried again the next time."""
        outages = self._tickets.health.outages
        if not (self._came_twice or outages > self._outages) or self._tickets.health.away_seconds:
            return
        try:
            count = put_back(self._tickets, self._store, self._holder)
        except (RedisUnavailable, DatabaseUnavailable) as error:
            log.debug("tickets.not_put_back", reason=str(error))
        else:
            self._came_twice, self._outages = False, outages
            log.info("tickets.put_back", count=count)

    def show(self, live: LiveTask | None, busy: bool) -> None:
        """Beside the batches: keep this worker and its long runs on RQ's lists, tell what ended, and give
        back what would wait for a long run.

        For the heartbeat's thread: while the main thread runs a long task, nobody else does.
        """
        if live is not None and boot_clock() - live.started >= LONG_SECONDS:
            self._return_spare()
        self.flush(due_only=True)
        self._presence.beat(live, busy=busy)

    def leave(self) -> None:
        """Tell what ended, and take this worker out of Redis. Raises `RedisUnavailable`."""
        self._return_spare()
        self.flush()
        self._tickets.leave(self._holder)
        self._presence.leave()

    def waited(self, rung: Rung | None) -> None:
        """The worker has waited, and this woke it."""
        self._rules_changed = rung is Rung.ROUTING

    def _open(self) -> list[Priority]:
        """The queues to take from. By the rules as they were last read, as long as nothing is closed: the
        claim reads them itself, and a task that has just come waits for no statement more."""
        routing = self._store.routing
        rules = routing.refresh() if self._rules_changed else routing.known()
        self._rules_changed = False
        order = self._rounds.next()
        open_ones = _claimable(rules, order, Track.REDIS)
        if len(open_ones) < len(order):
            open_ones = _claimable(routing.current(), order, Track.REDIS)
        return open_ones

    def _give_back(self, taken: Sequence[Taken]) -> None:
        try:
            self._tickets.give_back(self._holder, taken)
        except RedisUnavailable:
            log.info("tickets.left_to_sweeper", count=len(taken))

    def _refuse(self, foreign: Sequence[Taken]) -> None:
        """Ids that are not ours are filed as failed, unread: whoever pushed them finds them there."""
        for ticket in foreign:
            log.warning("ticket.foreign_refused", job=ticket.job_id[:80], queue=ticket.priority.value)
        if foreign:
            ended = [Ended(ticket.job_id, ticket.priority, False, FOREIGN) for ticket in foreign]
            self._finish(ended, KEEP_FOREIGN_SECONDS)

    def _finish(self, ended: Sequence[Ended], keep_seconds: int | None = None) -> None:
        try:
            if keep_seconds is None:
                self._tickets.finish(self._holder, ended)
            else:
                self._tickets.finish(self._holder, ended, keep_seconds=keep_seconds)
        except RedisUnavailable:
            self._filing.put_back(ended)
            log.info("tickets.not_filed", count=len(ended))


class DatabaseConsumer:
    """QUEUED rows. Dormant while the routing sends everything by Redis: then it looks only now and then,
    and takes only what has waited longer than the grace, whatever its own Redis calls say."""

    track = Track.DATABASE

    def __init__(
        self,
        store: Store,
        *,
        grace_seconds: float,
        always: bool,
        pollers_beside: bool = False,
        visits: Visits = STRICT,
    ) -> None:
        """`always` polls whatever the routing says. With `pollers_beside`, the database track has workers
        of its own: this one helps them only during a fallback."""
        self._store = store
        self._grace_seconds = grace_seconds
        self._always = always
        self._pollers_beside = pollers_beside
        self._priorities = visits.priorities
        self._rounds = visits.rounds()
        self._one_by_one = visits.weights is not None
        self._next_dormant_look = 0.0
        self._next_try = 0.0
        self._hopeful = True
        self._in_doubt = False
        self.contested = False
        """Rows wait here, and the last try won none of them: somebody holds them."""
        self._rung = False
        self._has_waited = False

    def waited(self, rung: Rung | None) -> None:
        """The worker has waited, and this woke it."""
        self._has_waited = True
        self._rung = rung is Rung.ROWS
        if rung is Rung.ROUTING:
            self._next_dormant_look = 0.0

    def fetch(self, count: int, *, spare: int = 0) -> TakeQueued | None:
        """Try at once after a ring, and while there was something the last time. Else look first, which is
        one statement; in the middle of other work, try only now and then.

        A claim passes over rows that somebody holds locked, for a moment perhaps: that it won nothing is no
        proof that nothing waits. A look that sees nothing is.
        """
        rung, waited = self._rung, self._has_waited
        self._rung = self._has_waited = self.contested = False
        routing, now = self._store.routing, boot_clock()
        rules = routing.known() if rung or waited else routing.current()
        if self._is_awake(rules):
            if self._in_doubt and not rung:
                self._in_doubt = self.contested = self._some_wait()
                return self._take(count) if self._in_doubt else None
            if rung or self._hopeful or (not waited and now >= self._next_try):
                self._next_try = now + TRY_SECONDS
                return self._take(count)
            return self._take(count) if waited and self._some_wait() else None
        if now < self._next_dormant_look and not rung:
            routing.current()  # told of a fallback within a second, unless asleep
            return None
        self._next_dormant_look = now + self._grace_seconds / 2
        if not self._some_wait():
            return None
        awake = self._is_awake(routing.known())
        return self._take(count, waiting_for_seconds=0 if awake else self._grace_seconds)

    def _take(self, count: int, *, waiting_for_seconds: float = 0) -> TakeQueued:
        return TakeQueued(count, self._rounds.next(), waiting_for_seconds, self._one_by_one)

    def _some_wait(self) -> bool:
        """One statement, which brings the rules up to date as well."""
        rules, waiting = self._store.looks.queued()
        return any(p in waiting for p in _claimable(rules, self._priorities, Track.DATABASE))

    def accept(self, answer: TicketClaims) -> None:
        self._hopeful = bool(answer.won)
        self._in_doubt = not answer.won
        self.contested = self.contested and self._in_doubt

    def abandon(self) -> None:
        """Nothing was taken out of anywhere."""

    def ended(self, outcome: Outcome, status: Status | None) -> None:
        """The row is all there is."""

    def flush(self) -> None:
        """The row is all there is."""

    def _is_awake(self, rules: Routing) -> bool:
        if self._always or any(route.fallback for route in rules.values()):
            return True
        by_database = any(route.redis_percent < 100 or route.name_percents for route in rules.values())
        return by_database and not self._pollers_beside


class PoolConsumer:
    """The tasks of one pool, from its lane and from nowhere else."""

    track = Track.DATABASE

    def __init__(self, store: Store, pool: str) -> None:
        self._store = store
        self._pool = pool
        self._hopeful = False
        self.contested = False
        """Rows wait here, and the last try won none of them: the pool is at its limit."""

    def fetch(self, count: int, *, spare: int = 0) -> TakeOfPool | None:
        """Look first, unless there was something the last time: a try queues for the pool's row."""
        lane = self._store.pools.open(self._pool)
        if self._hopeful or self._store.pools.some_wait(lane):
            return TakeOfPool(count, lane)
        self.contested = False
        return None

    def accept(self, answer: TicketClaims) -> None:
        self._hopeful = bool(answer.won)
        self.contested = not answer.won

    def abandon(self) -> None:
        """Nothing was taken out of anywhere."""

    def ended(self, outcome: Outcome, status: Status | None) -> None:
        """The row is all there is."""

    def flush(self) -> None:
        """The row is all there is."""

    def waited(self, rung: Rung | None) -> None:
        """Nobody rings for a lane: it looks anyway."""


def _claimable(rules: Routing, priorities: Sequence[Priority], track: Track) -> list[Priority]:
    return [p for p in priorities if p in rules and rules[p].may_claim(track)]
