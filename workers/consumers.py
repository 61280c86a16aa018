"""Consumers: where a worker's claims come from. One per track, behind one interface.

A consumer takes and claims, and is told what ended. It runs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

from app.tasks.errors import RedisUnavailable
from app.tasks.model import PRIORITIES, Claim, Priority, Status, Track
from app.tasks.routing import Routing
from app.tasks.runner import boot_clock
from app.tasks.store import Store
from app.tasks.tickets import RQQueueManager
from app.tasks.tickets.manager import KEEP_FOREIGN_SECONDS, KEEP_SECONDS, Ended, Taken

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Batch:
    """Claims won together. `lease_ends` is on the local boot clock, counted from before the claim."""

    claims: Sequence[Claim]
    lease_ends: float


EMPTY = Batch((), 0.0)


class Consumer(Protocol):
    track: Track

    def take(self, count: int) -> Batch: ...

    def ended(self, claim: Claim, status: Status | None) -> None: ...

    def wait(self, seconds: float) -> None: ...


class RedisConsumer:
    """Tickets from the RQ queues, in strict order of priority."""

    track = Track.REDIS

    def __init__(
        self,
        store: Store,
        tickets: RQQueueManager,
        *,
        holder: str,
        lease_seconds: float,
        priorities: Sequence[Priority] = PRIORITIES,
    ) -> None:
        self._store = store
        self._tickets = tickets
        self._holder = holder
        self._lease_seconds = lease_seconds
        self._priorities = list(priorities)

    def take(self, count: int) -> Batch:
        """Raises `RedisUnavailable`, `DatabaseUnavailable`. Tickets of a failed claim go back to the head."""
        if not self._tickets.health.worth_a_try:
            raise RedisUnavailable("Redis did not answer a moment ago")
        open_ones = self._open()
        if not open_ones:
            return EMPTY
        taken = self._tickets.take(self._holder, open_ones, count)
        if not taken:
            return EMPTY
        lease_ends = boot_clock() + self._lease_seconds
        ours = {ticket.reference: ticket for ticket in taken if ticket.reference is not None}
        try:
            answer = self._store.claims.tickets(
                list(ours), holder=self._holder, lease_seconds=self._lease_seconds
            )
        except Exception:
            self._give_back(taken)
            raise
        self._give_back([ours[pair] for pair in answer.refused])
        self._finish([Ended(ours[pair].job_id, ours[pair].priority, None) for pair in answer.stale])
        self._refuse([ticket for ticket in taken if ticket.reference is None])
        return Batch(answer.won, lease_ends)

    def ended(self, claim: Claim, status: Status | None) -> None:
        """File the ticket where RQ's tools look. None: the claim was lost, the ticket is worth nothing."""
        ok = None if status is None else status is Status.COMPLETED
        job_id = f"t{claim.task_id}-e{claim.epoch}"
        self._finish([Ended(job_id, claim.priority, ok)])

    def wait(self, seconds: float) -> None:
        """Until a push rings, at most `seconds`."""
        self._tickets.wait_for_bell(self._priorities, seconds=seconds)

    @property
    def reachable(self) -> bool:
        """False right after a failed call: waiting for a bell would be one more."""
        return self._tickets.health.away_seconds == 0

    def _open(self) -> list[Priority]:
        rules = self._store.routing.current()
        return [p for p in self._priorities if p in rules and rules[p].may_claim(Track.REDIS)]

    def _give_back(self, taken: Sequence[Taken]) -> None:
        try:
            self._tickets.give_back(self._holder, taken)
        except RedisUnavailable:
            log.info("tickets.left_to_sweeper", count=len(taken))

    def _refuse(self, foreign: Sequence[Taken]) -> None:
        """Ids that are not ours are filed as failed, unread: whoever pushed them finds them there."""
        for ticket in foreign:
            log.warning("ticket.foreign_refused", job=ticket.job_id[:80], queue=ticket.priority.value)
        self._finish(
            [Ended(ticket.job_id, ticket.priority, False) for ticket in foreign], KEEP_FOREIGN_SECONDS
        )

    def _finish(self, ended: Sequence[Ended], keep_seconds: int = KEEP_SECONDS) -> None:
        try:
            self._tickets.finish(self._holder, ended, keep_seconds=keep_seconds)
        except RedisUnavailable:
            log.info("tickets.not_filed", count=len(ended))


class DatabaseConsumer:
    """QUEUED rows. Dormant while the routing sends everything by Redis: then it looks only now and then,
    and takes only what has waited longer than the grace, whatever its own Redis calls say."""

    track = Track.DATABASE

    def __init__(
        self,
        store: Store,
        *,
        holder: str,
        lease_seconds: float,
        grace_seconds: float,
        always: bool,
        pause: Callable[[float], object],
        priorities: Sequence[Priority] = PRIORITIES,
    ) -> None:
        """`always` polls whatever the routing says; `pause(seconds)` waits, and ends early at a stop."""
        self._store = store
        self._holder = holder
        self._lease_seconds = lease_seconds
        self._grace_seconds = grace_seconds
        self._always = always
        self._pause = pause
        self._priorities = list(priorities)
        self._next_dormant_look = 0.0

    def take(self, count: int) -> Batch:
        """Raises `DatabaseUnavailable`."""
        if self._always or self._awake(self._store.routing.current()):
            return self._claim(count, 0)
        if boot_clock() < self._next_dormant_look:
            return EMPTY
        self._next_dormant_look = boot_clock() + self._grace_seconds / 2
        return self._claim(count, self._grace_seconds)

    def ended(self, claim: Claim, status: Status | None) -> None:
        """Nothing is left to do: the row was all there is."""

    def wait(self, seconds: float) -> None:
        self._pause(seconds)

    def _claim(self, count: int, waiting_for_seconds: float) -> Batch:
        lease_ends = boot_clock() + self._lease_seconds
        claims = self._store.claims.queued(
            holder=self._holder,
            limit=count,
            lease_seconds=self._lease_seconds,
            priorities=self._priorities,
            waiting_for_seconds=waiting_for_seconds,
        )
        return Batch(claims, lease_ends)

    def _awake(self, rules: Routing) -> bool:
        return any(
            route.fallback or route.redis_percent < 100 or route.name_percents for route in rules.values()
        )
