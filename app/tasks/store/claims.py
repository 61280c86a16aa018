"""Claims: how a waiting row becomes one worker's, and how that right is kept.

A claim locks rows and changes them in one transaction. Every claim statement draws one token for all the
rows that it wins: the token, not the worker's name, is the right to record an end.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import Float, Select, and_, bindparam, select, update
from sqlalchemy.engine import Connection

from app.tasks.database import Database
from app.tasks.model import PRIORITIES, Claim, Priority, Status, Track
from app.tasks.schema import AnyRow, database_now, status_is, tasks
from app.tasks.store.routing import read_routing

_token = random.SystemRandom()

_CLAIMED_COLUMNS = (
    tasks.c.id,
    tasks.c.name,
    tasks.c.payload,
    tasks.c.priority,
    tasks.c.epoch,
    tasks.c.attempt,
    tasks.c.failures,
    tasks.c.user_id,
    tasks.c.max_retries,
    tasks.c.timeout_seconds,
    tasks.c.idempotency_key,
)


@dataclass(frozen=True, slots=True)
class TicketClaims:
    """The answer to tickets: what was won, what must go back to its queue, what is worth nothing."""

    won: list[Claim] = field(default_factory=list)
    refused: list[tuple[int, int]] = field(default_factory=list)
    stale: list[tuple[int, int]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Terms:
    """On what terms rows are claimed: by whom, for how long, under which token."""

    holder: str
    lease_seconds: float
    token: int


class Claims:
    def __init__(self, database: Database, *, draw_token: Callable[[], int] | None = None) -> None:
        self._database = database
        self.draw_token = draw_token or (lambda: _token.getrandbits(62) + 1)
        self._claim = (
            update(tasks)
            .where(tasks.c.id.in_(bindparam("claimed_ids", expanding=True)))
            .values(
                status=Status.PROCESSING,
                token=bindparam("new_token"),
                holder=bindparam("new_holder"),
                attempt=tasks.c.attempt + 1,
                confirmed_in=0,
                started_at=database_now(),
                lease_until=database_now(bindparam("lease_seconds", type_=Float())),
                progress_percent=0,
                progress_step=None,
            )
        )

    def queued(
        self,
        *,
        holder: str,
        limit: int,
        lease_seconds: float,
        priorities: Sequence[Priority] = PRIORITIES,
        waiting_for_seconds: float = 0,
    ) -> list[Claim]:
        """Claim up to `limit` QUEUED rows in order of service; rows that others have locked are skipped.

        `waiting_for_seconds` takes only rows that have waited that long: a dormant poller's look.
        """

        terms = Terms(holder, lease_seconds, self.draw_token())
        return self._database.run(
            lambda on: self.queued_on(on, terms, limit, priorities, waiting_for_seconds)
        )

    def queued_on(
        self,
        on: Connection,
        terms: Terms,
        limit: int,
        priorities: Sequence[Priority] = PRIORITIES,
        waiting_for_seconds: float = 0,
    ) -> list[Claim]:
        """As `queued`, in a transaction of the caller's."""
        allowed = _claimable(on, Track.DATABASE, priorities)
        if not allowed:
            return []
        rows = on.execute(_next_queued(allowed, limit, waiting_for_seconds)).all()
        return self._take(on, rows, Track.DATABASE, terms)

    def tickets(
        self,
        references: Sequence[tuple[int, int]],
        *,
        holder: str,
        lease_seconds: float,
    ) -> TicketClaims:
        """Claim the rows that these (id, epoch) pairs name.

        Waits for a row that another statement has locked: locked is not stale. A pair whose row is
        gone, not DISPATCHED or at another epoch is stale; one whose queue is paused or fenced is refused.
        """
        terms = Terms(holder, lease_seconds, self.draw_token())
        return self._database.run(lambda on: self.tickets_on(on, terms, references))

    def tickets_on(self, on: Connection, terms: Terms, references: Sequence[tuple[int, int]]) -> TicketClaims:
        """As `tickets`, in a transaction of the caller's."""
        wanted = set(references)  # not a dict: an old ticket beside the valid one must not hide it
        allowed = _claimable(on, Track.REDIS, PRIORITIES)
        found = on.execute(_TICKETED, {"ids": sorted({task_id for task_id, _ in wanted})})
        rows = [row for row in found if (row.id, row.epoch) in wanted]
        granted = [row for row in rows if row.priority in allowed]
        known = {(row.id, row.epoch) for row in rows}
        # in the order of the tickets, which is the order of service
        place = {pair: number for number, pair in enumerate(references)}
        granted.sort(key=lambda row: place[row.id, row.epoch])
        return TicketClaims(
            won=self._take(on, granted, Track.REDIS, terms),
            refused=[(row.id, row.epoch) for row in rows if row.priority not in allowed],
            stale=[pair for pair in references if pair not in known],
        )

    def of_token(self, token: int, track: Track) -> list[Claim]:
        """The claims that carry this token: the read-back after a lost answer to COMMIT."""
        query = (
            select(*_CLAIMED_COLUMNS)
            .where(tasks.c.token == token, tasks.c.status == Status.PROCESSING)
            .order_by(tasks.c.priority, tasks.c.id)
        )
        rows = self._database.read(lambda on: on.execute(query).all())
        return [replace(_claim(row, token, track), attempt=row.attempt) for row in rows]

    def renew(self, claims: Sequence[Claim], *, lease_seconds: float) -> None:
        """Extend the leases of exactly these claims; lost ones are left as they are."""
        if not claims:
            return
        statement = update(tasks).where(_held_by(claims)).values(lease_until=database_now(lease_seconds))
        self._database.write_one(lambda on: on.execute(statement))

    def wishes(self, claims: Sequence[Claim]) -> Mapping[int, bool]:
        """For each claim that is still ours: task id -> whether a cancel was asked for."""
        if not claims:
            return {}
        query = select(tasks.c.id, tasks.c.cancel_requested).where(_held_by(claims))
        return self._database.read(lambda on: {row.id: row.cancel_requested for row in on.execute(query)})

    def progress(
        self, claim: Claim, percent: int, step: str | None, connection: Connection | None = None
    ) -> bool:
        """Store how far a running task is, in the caller's transaction if a connection is given; false if
        the claim is lost."""
        statement = (
            update(tasks).where(_held_by([claim])).values(progress_percent=percent, progress_step=step)
        )
        if connection is not None:
            return bool(connection.execute(statement).rowcount)
        return bool(self._database.write_one(lambda on: on.execute(statement).rowcount))

    def _take(self, on: Connection, rows: Sequence[AnyRow], track: Track, terms: Terms) -> list[Claim]:
        if not rows:
            return []
        parameters = {"claimed_ids": sorted(row.id for row in rows), "new_token": terms.token}
        parameters |= {"new_holder": terms.holder, "lease_seconds": terms.lease_seconds}
        on.execute(self._claim, parameters)
        return [_claim(row, terms.token, track) for row in rows]


_TICKETED = (
    select(*_CLAIMED_COLUMNS)
    .where(
        tasks.c.id.in_(bindparam("ids", expanding=True)),
        status_is(Status.DISPATCHED),
    )
    .order_by(tasks.c.id)
    .with_for_update()
)


def _next_queued(priorities: Sequence[Priority], limit: int, waiting_for_seconds: float) -> Select[Any]:
    query = (
        select(*_CLAIMED_COLUMNS)
        .where(
            tasks.c.status == Status.QUEUED,
            tasks.c.priority.in_(priorities),
            tasks.c.confirmed_in == 0,  # always so for QUEUED: lets the index give the order
        )
        .order_by(tasks.c.priority, tasks.c.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    if waiting_for_seconds > 0:
        query = query.where(tasks.c.waiting_since <= database_now(-waiting_for_seconds))
    return query


def _claimable(on: Connection, track: Track, priorities: Sequence[Priority]) -> list[Priority]:
    rules = read_routing(on)
    return [p for p in priorities if p in rules and rules[p].may_claim(track)]


def _held_by(claims: Sequence[Claim]) -> Any:
    """The rows that these claims still own: both lists are needed, a token covers a whole batch."""
    return and_(
        tasks.c.id.in_([claim.task_id for claim in claims]),
        tasks.c.token.in_(sorted({claim.token for claim in claims})),
        status_is(Status.PROCESSING),
    )


def _claim(row: AnyRow, token: int, track: Track) -> Claim:
    return Claim(
        task_id=row.id,
        name=row.name,
        payload=row.payload,
        priority=row.priority,
        token=token,
        epoch=row.epoch,
        attempt=row.attempt + 1,
        failures=row.failures,
        track=track,
        user_id=row.user_id,
        max_retries=row.max_retries,
        timeout_seconds=row.timeout_seconds,
        idempotency_key=row.idempotency_key,
    )
