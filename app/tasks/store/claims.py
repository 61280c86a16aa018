"""Claims: how a waiting row becomes one worker's, and how that right is kept.

A claim locks rows and changes them in one transaction. Every claim statement draws one token for all the
rows that it wins: the token, not the worker's name, is the right to record an end.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from sqlalchemy import and_, func, select, update
from sqlalchemy.engine import Connection

from app.tasks.database import Database
from app.tasks.model import PRIORITIES, Claim, Priority, Progress, Status, Track
from app.tasks.schema import database_now, pools, status_is, tasks
from app.tasks.store.driver_sql import DriverSql
from app.tasks.store.lanes import RANK
from app.tasks.store.placing import each_its_own
from app.tasks.store.takes import Terms

PAGES = 32  # of candidates that a claim looks through for rows which nobody has locked

_token = random.SystemRandom()

_BEFORE = ("id", "priority", "epoch")
_AFTER = ("failures", "max_retries", "timeout_seconds", "user_id", "idempotency_key", "name")
_SEPARATOR = "\x1f"  # in no name, user id or key: all are printable


class Held(Protocol):
    """What names one task of a claim: enough to keep it."""

    @property
    def task_id(self) -> int: ...

    @property
    def token(self) -> int: ...


@dataclass(frozen=True, slots=True)
class TicketClaims:
    """The answer to tickets: what was won, what must go back to its queue, what is worth nothing."""

    won: list[Claim] = field(default_factory=list)
    refused: list[tuple[int, int]] = field(default_factory=list)
    stale: list[tuple[int, int]] = field(default_factory=list)


class Claims:
    def __init__(
        self,
        database: Database,
        *,
        draw_token: Callable[[], int] | None = None,
        admit: Callable[[Connection, Sequence[Claim]], list[Claim]] | None = None,
    ) -> None:
        """`admit` may keep rows back, in the claim's transaction; what it does with them is its affair."""
        self._database = database
        self.draw_token = draw_token or (lambda: _token.getrandbits(62) + 1)
        self._admit = admit
        self._sql = DriverSql(database)
        self._columns = ", ".join(claimed_columns(database.kind, attempt="attempt + 1"))
        self._queued = self._sql.status_is(Status.QUEUED)
        self._dispatched = self._sql.status_is(Status.DISPATCHED)
        self._locked = "" if database.kind == "sqlite" else " FOR UPDATE"  # SQLite has its one write lock

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
        allowed = self._claimable(on, Track.DATABASE, priorities)
        if not allowed:
            return []
        rows = self._lock_queued(on, [priority.rank for priority in allowed], limit, waiting_for_seconds)
        return self._take(on, rows, Track.DATABASE, terms)

    def records(
        self,
        lane: int,
        *,
        holder: str,
        limit: int,
        lease_seconds: float,
        is_alone: Callable[[int, int | None], bool],
    ) -> list[Claim]:
        """Claim up to `limit` records that wait in this lane, the oldest first; locked ones are skipped. One
        for which `is_alone(failures, max_retries)` is claimed alone, and ends the batch of those before it.
        """
        terms = Terms(holder, lease_seconds, self.draw_token())

        def work(on: Connection) -> list[Claim]:
            rows = self._lock_queued(on, [lane], limit)
            alone = (n for n, row in enumerate(rows) if is_alone(row[_FAILURES], row[_MAX_RETRIES]))
            end = max(1, next(alone, len(rows)))
            return self._take(on, rows[:end], Track.DATABASE, terms)

        return self._database.run(work)

    def of_pool_on(self, on: Connection, terms: Terms, lane: int, limit: int) -> list[Claim]:
        """Claim up to `limit` rows that wait in the lane of a pool, the oldest first, in a transaction of the
        caller's. Of a pool with a limit one, while fewer run than the limit says: whoever claims passes
        the row of the pool, so that none counts what another is about to start."""
        of_pool = select(pools.c.at_most).where(pools.c.lane == lane)
        at_most = on.execute(of_pool.with_for_update()).scalar()
        if at_most is not None:
            running = select(func.count()).where(tasks.c.status == Status.PROCESSING, RANK == lane)
            limit = min(1, at_most - on.execute(running).scalar_one())
        rows = self._lock_queued(on, [lane], limit) if limit > 0 else []
        return self._take(on, rows, Track.DATABASE, terms)

    def _lock_queued(
        self, on: Connection, ranks: Sequence[int], limit: int, waiting_for_seconds: float = 0
    ) -> list[_Row]:
        if self._sql.kind == "mysql" and waiting_for_seconds == 0:
            return self._lock_by_pages(on, ranks, limit)
        return self._rows(on, *self._next_queued(ranks, limit, waiting_for_seconds))

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
        if not references:
            return TicketClaims()
        place = {pair: number for number, pair in enumerate(references)}
        allowed = set(self._claimable(on, Track.REDIS, PRIORITIES))
        ids = sorted({task_id for task_id, _ in references})
        query = (
            f"SELECT {self._columns} FROM tasks"  # noqa: S608 - marks and our own words only
            f" WHERE id IN ({self._sql.marks(len(ids))}) AND {self._dispatched} ORDER BY id{self._locked}"
        )
        rows = [row for row in self._rows(on, query, ids) if (row[_ID], row[_EPOCH]) in place]
        granted = [row for row in rows if row[_PRIORITY] in allowed]
        # in the order of the tickets, which is the order of service
        granted.sort(key=lambda row: place[row[_ID], row[_EPOCH]])
        known = {(row[_ID], row[_EPOCH]) for row in rows}
        won = self._take(on, granted, Track.REDIS, terms)
        if len(won) < len(granted):  # kept back: their tickets are worth nothing any more
            known -= {(row[_ID], row[_EPOCH]) for row in granted} - {(c.task_id, c.epoch) for c in won}
        return TicketClaims(
            won=won,
            refused=[(row[_ID], row[_EPOCH]) for row in rows if row[_PRIORITY] not in allowed],
            stale=[] if len(known) == len(references) else [p for p in references if p not in known],
        )

    def of_token(self, token: int, track: Track) -> list[Claim]:
        """The claims that carry this token: the read-back after a lost answer to COMMIT."""
        columns = ", ".join(claimed_columns(self._sql.kind))
        query = (
            f"SELECT {columns} FROM tasks WHERE token = {self._sql.mark}"  # noqa: S608 - marks only
            f" AND status = 'PROCESSING' ORDER BY priority, id"
        )
        rows = self._database.read(lambda on: self._rows(on, query, [token]))
        return [claim_of(row, token, track) for row in rows]

    def still_waiting(self, references: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """Those of these (id, epoch) pairs whose rows still wait for just that ticket."""
        query = select(tasks.c.id, tasks.c.epoch).where(
            tasks.c.id.in_({task_id for task_id, _ in references}), status_is(Status.DISPATCHED)
        )
        named = set(references)
        return self._database.read(
            lambda on: [pair for row in on.execute(query) if (pair := (row.id, row.epoch)) in named]
        )

    def renew(self, claims: Sequence[Held], *, lease_seconds: float) -> set[tuple[int, int]]:
        """Extend the leases of exactly these claims; lost ones are left as they are.

        Returns the (task id, token) of those that were still there: nothing may start by another.
        """
        pairs = {(claim.task_id, claim.token) for claim in claims}
        if not pairs:
            return pairs
        statement = update(tasks).where(_held_by(claims)).values(lease_until=database_now(lease_seconds))
        if self._database.write_one(lambda on: on.execute(statement).rowcount) == len(pairs):
            return pairs
        query = select(tasks.c.id, tasks.c.token).where(_held_by(claims))
        return pairs & self._database.read(lambda on: {(row.id, row.token) for row in on.execute(query)})

    def wishes(self, claims: Sequence[Held]) -> Mapping[int, bool]:
        """For each claim that is still ours: task id -> whether a cancel was asked for."""
        if not claims:
            return {}
        query = select(tasks.c.id, tasks.c.cancel_requested).where(_held_by(claims))
        return self._database.read(lambda on: {row.id: row.cancel_requested for row in on.execute(query)})

    def progress(self, claim: Claim, percent: int, step: str | None) -> bool:
        """Store how far a running task is; false if the claim is lost."""
        return self.progress_of([(claim, Progress(percent, step))]) == 1

    def progress_of(self, said: Sequence[tuple[Claim, Progress]]) -> int:
        """As `progress`, of many in one statement. Returns how many were still held."""
        return self._database.write_one(lambda on: write_progress(on, said))

    def _take(self, on: Connection, rows: Sequence[_Row], track: Track, terms: Terms) -> list[Claim]:
        claims = [claim_of(row, terms.token, track) for row in rows]
        if claims and self._admit is not None:
            claims = self._admit(on, claims)
        if not claims:
            return []
        ids = sorted(claim.task_id for claim in claims)
        values = claim_values(self._sql, terms)
        statement = f"UPDATE tasks SET {values} WHERE id IN ({self._sql.marks(len(ids))})"  # noqa: S608
        on.exec_driver_sql(statement, (terms.token, terms.holder, *ids))
        return claims

    def _next_queued(
        self, ranks: Sequence[int], limit: int, waiting_for_seconds: float
    ) -> tuple[str, Sequence[Any]]:
        waited = ""
        if waiting_for_seconds > 0:
            waited = f" AND waiting_since <= {self._sql.later(-waiting_for_seconds)}"
        query = (
            f"SELECT {self._columns} FROM tasks WHERE status = 'QUEUED'"  # noqa: S608 - marks only
            f" AND priority IN ({self._sql.marks(len(ranks))})"
            f" AND confirmed_in = 0"  # always so for QUEUED: lets the index give the order
            f"{waited} ORDER BY priority, id LIMIT {self._sql.mark}"
        )
        skip = " SKIP LOCKED" if self._locked else ""
        return f"{query}{self._locked}{skip}", [*ranks, limit]

    def _lock_by_pages(self, on: Connection, ranks: Sequence[int], limit: int) -> list[_Row]:
        """InnoDB walks and locks the dead entries at the head of an index that it reads for locking, and each
        claim adds some. So the index alone names candidates, unlocked, and the locks go by primary key.

        A page that others have locked is passed over for the next. What has come before it meanwhile pushes
        rows of ours onto that one: they are not taken again.
        """
        where = (
            f"status = 'QUEUED' AND priority IN ({self._sql.marks(len(ranks))}) AND confirmed_in = 0"
            " ORDER BY priority, id"
        )
        rows: list[_Row] = []
        for page in range(PAGES):
            look = f"SELECT id FROM tasks WHERE {where} LIMIT {limit} OFFSET {page * limit}"  # noqa: S608
            ids = [row[0] for row in on.exec_driver_sql(look, tuple(ranks)).cursor.fetchall()]
            ours = {row[_ID] for row in rows}
            others = [task_id for task_id in ids if task_id not in ours]
            if others:
                marks = self._sql.marks(len(others))
                lock = (
                    f"SELECT {self._columns} FROM tasks WHERE id IN ({marks})"  # noqa: S608 - marks only
                    f" AND {self._queued} ORDER BY priority, id FOR UPDATE SKIP LOCKED"
                )
                rows += self._rows(on, lock, others)
            if len(ids) < limit or len(rows) >= limit / 2:
                break
        return rows[:limit]

    def _claimable(self, on: Connection, track: Track, priorities: Sequence[Priority]) -> list[Priority]:
        rows = on.exec_driver_sql("SELECT priority, paused, fenced_track FROM routing").cursor.fetchall()
        fenced = track.value
        open_ranks = {rank for rank, paused, fence in rows if not paused and fence != fenced}
        return [priority for priority in priorities if priority.rank in open_ranks]

    def _rows(self, on: Connection, query: str, parameters: Sequence[Any]) -> list[_Row]:
        rows = on.exec_driver_sql(query, tuple(parameters)).cursor.fetchall()
        return [typed(row) for row in rows] if self._sql.kind == "mysql" else [ranked(row) for row in rows]


def write_progress(on: Connection, said: Sequence[tuple[Claim, Progress]]) -> int:
    """Store how far running tasks are, all in one statement. Returns of how many the claim still holds."""
    percents = {claim.task_id: progress.percent for claim, progress in said}
    steps = {claim.task_id: progress.step for claim, progress in said}
    values = {
        "progress_percent": each_its_own(percents, tasks.c.progress_percent.type),
        "progress_step": each_its_own(steps, tasks.c.progress_step.type),
    }
    held = _held_by([claim for claim, _ in said])
    return on.execute(update(tasks).where(held).values(values)).rowcount


# As the statements deliver a claimed row: the columns in their order.
_Row = tuple[Any, ...]
_ID, _PRIORITY, _EPOCH, _, _FAILURES, _MAX_RETRIES = range(6)


def claim_values(sql: DriverSql, terms: Terms) -> str:
    """What a claim writes into its rows, as SQL; two parameters: the token and the holder."""
    return (
        f"status = 'PROCESSING', token = {sql.mark}, holder = {sql.mark}, attempt = attempt + 1,"
        f" confirmed_in = 0, started_at = {sql.now}, lease_until = {sql.later(terms.lease_seconds)},"
        " progress_percent = 0, progress_step = NULL"
    )


def claimed_columns(kind: str, attempt: str = "attempt") -> tuple[str, ...]:
    """What a claim reads of its rows, for `claim_of`; `attempt` as the claim will have left it.

    PyMySQL takes a microsecond for each value of each row; so there all but the payload travel as one text,
    for `typed`. The others' rows are for `ranked`.
    """
    fields = (*_BEFORE, attempt, *_AFTER)
    if kind != "mysql":
        return (*fields, "payload")
    filled = ", ".join(f"COALESCE({name}, '')" for name in fields)
    return (f"CONCAT_WS(CHAR(31 USING utf8mb4), {filled})", "payload")


def typed(row: _Row) -> _Row:
    """A row that travelled as one text."""
    head = row[0].split(_SEPARATOR, len(_BEFORE) + len(_AFTER))
    task_id, rank, epoch, attempt, failures, retries, timeout, user_id, key, name = head
    return (
        *(int(task_id), Priority.of_rank(int(rank)), int(epoch), int(attempt), int(failures)),
        *(int(retries) if retries else None, int(timeout) if timeout else None),
        *(user_id or None, key or None, name, row[1]),
    )


def ranked(row: _Row) -> _Row:
    """A row of columns, its rank a priority."""
    return (row[0], Priority.of_rank(row[1]), *row[2:])


def claim_of(row: _Row, token: int, track: Track) -> Claim:
    """The claim that this row is."""
    task_id, priority, epoch, attempt, failures, retries, timeout, user_id, key, name, payload = row
    return Claim(
        *(task_id, name, payload, priority, token, epoch, attempt, failures, track),
        *(user_id, retries, timeout, False, key),
    )


def _held_by(claims: Sequence[Held]) -> Any:
    """The rows that these claims still own: both lists are needed, a token covers a whole batch."""
    return and_(
        tasks.c.id.in_([claim.task_id for claim in claims]),
        tasks.c.token.in_(sorted({claim.token for claim in claims})),
        status_is(Status.PROCESSING),
    )
