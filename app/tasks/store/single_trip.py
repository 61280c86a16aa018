"""A turn in one round trip: completions and the next claim travel to the database together.

For what nearly every turn is: all tasks of the batch completed, the next ones waiting. PostgreSQL gets one
statement, MariaDB and MySQL one packet of several; SQLite needs no trip, and gets few statements. A short
batch costs little more than its commit then. What is odd is found by its absence and left to the callers:
rows that could not be completed are fewer in the answer's count, rows that were not won are not in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from app.tasks.database import Database
from app.tasks.model import Claim, Completed, Outcome, Status, Track
from app.tasks.sources import is_imported
from app.tasks.store.claims import claim_of, claim_values, claimed_columns, ranked, typed
from app.tasks.store.driver_sql import DriverSql, array_text
from app.tasks.store.settling import Completions
from app.tasks.store.takes import Take, TakeQueued, TakeTickets, Terms


@dataclass(frozen=True, slots=True)
class Answer:
    """How many of the completions were recorded, and what was won, in the order of service."""

    completed: int
    won: list[Claim]


class SingleTrip:
    """Completions and a claim in one transaction, as `Turns.turn` promises."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._trip: _Trip = _TRIPS[database.kind](DriverSql(database))

    def fits(self, outcomes: Sequence[Outcome], take: Take | None) -> bool:
        """True if this turn can be made in one trip."""
        return (
            self._trip.can(take)
            and all(
                isinstance(outcome, Completed)
                and outcome.progress is None
                and not is_imported(outcome.claim.idempotency_key)  # its legacy row is told in between
                for outcome in outcomes
            )
            # one task under two claims of this worker, one of them lost: their results must not mix
            and len({outcome.claim.task_id for outcome in outcomes}) == len(outcomes)
        )

    def turn(self, completed: Sequence[Completed], take: Take, terms: Terms) -> Answer:
        """Record what is recordable of `completed`, claim what `take` asks for.

        Raises `CommitUnknown` if the connection was lost: the turn may have happened.
        """
        track = Track.REDIS if isinstance(take, TakeTickets) else Track.DATABASE
        count, rows = self._database.direct(lambda cursor: self._trip.make(cursor, completed, take, terms))
        won = [claim_of(row, terms.token, track) for row in rows]
        if isinstance(take, TakeTickets):
            place = {pair: number for number, pair in enumerate(take.references)}
            won.sort(key=lambda claim: place[claim.task_id, claim.epoch])
        else:
            won.sort(key=lambda claim: (claim.priority.rank, claim.task_id))
        return Answer(count, won)


_Rows = tuple[int, list[tuple[Any, ...]]]


class _Trip(Protocol):
    def can(self, take: Take | None) -> bool:
        """Whether this claim can travel so."""

    def make(self, cursor: Any, completed: Sequence[Completed], take: Any, terms: Terms) -> _Rows:
        """All on one connection that commits by itself. Returns the completions' count and the rows won."""


def _closed(track: Track) -> str:
    """Selects the priorities from which nobody may take now, on this track."""
    return f"SELECT priority FROM routing WHERE paused OR fenced_track = '{track.value}'"  # noqa: S608


class _OnPostgres:
    """One statement, whose text is the same for batches of every size: the server prepares it once.

    Ids stand in `= ANY (array)` and never in a join: a plan that was made over a small table could walk
    the whole of a large one to meet a few ids.
    """

    def __init__(self, sql: DriverSql) -> None:
        self._sql = sql
        done = Completions(sql)
        self._settled = (
            f"UPDATE tasks SET {done.values('(%s::text[])[array_position(%s::bigint[], id)]')}"  # noqa: S608
            f" WHERE id = ANY (%s::bigint[]) AND token = ANY (%s::bigint[]) AND {done.guard} RETURNING 1"
        )
        self._tickets = (
            "id = ANY (%s::bigint[]) AND id || '-' || epoch = ANY (%s::text[])"
            f" AND {sql.status_is(Status.DISPATCHED)} AND {self._open(Track.REDIS)}"
        )
        self._columns = ", ".join(claimed_columns("postgresql"))

    def can(self, take: Take | None) -> bool:
        return isinstance(take, TakeTickets) or (isinstance(take, TakeQueued) and take.is_plain)

    def make(
        self, cursor: Any, completed: Sequence[Completed], take: TakeTickets | TakeQueued, terms: Terms
    ) -> _Rows:
        if isinstance(take, TakeTickets):
            ids = array_text([task_id for task_id, _ in take.references])
            pairs = array_text([f"{task_id}-{epoch}" for task_id, epoch in take.references])
            before, first = "", list[Any]()
            found, last = self._tickets, [ids, pairs]
        else:
            before, first = self._queued(take)
            found, last = "id = ANY (ARRAY(SELECT id FROM next))", []
        query = (
            f"WITH settled AS ({self._settled}),{before} won AS (UPDATE tasks"  # noqa: S608 - own words only
            f" SET {claim_values(self._sql, terms)} WHERE {found} RETURNING {self._columns})"
            " SELECT (SELECT count(*) FROM settled), won.* FROM (SELECT 1) AS one LEFT JOIN won ON true"
        )
        done = array_text([outcome.claim.task_id for outcome in completed])
        tokens = array_text(list({outcome.claim.token for outcome in completed}))
        results = array_text([outcome.result for outcome in completed])
        cursor.execute(query, (results, done, done, tokens, *first, terms.token, terms.holder, *last))
        rows = cursor.fetchall()
        return rows[0][0], [ranked(row[1:]) for row in rows if row[1] is not None]

    @staticmethod
    def _open(track: Track) -> str:
        """As an array, which is read once: what stands behind NOT IN may be planned once per row."""
        return f"priority <> ALL (ARRAY({_closed(track)}))"

    def _queued(self, take: TakeQueued) -> tuple[str, list[Any]]:
        marks = self._sql.marks(len(take.priorities))
        query = (
            f" next AS MATERIALIZED (SELECT id FROM tasks WHERE status = 'QUEUED'"  # noqa: S608
            f" AND priority IN ({marks}) AND confirmed_in = 0 AND {self._open(Track.DATABASE)}"
            " ORDER BY priority, id LIMIT %s FOR UPDATE SKIP LOCKED),"
        )
        return query, [*(priority.rank for priority in take.priorities), take.limit]


class _OnMySQL:
    """One packet of statements, ended by its own COMMIT. Rows are guarded, changed, then read."""

    def __init__(self, sql: DriverSql) -> None:
        self._sql = sql
        self._completions = Completions(sql)
        self._columns = ", ".join(claimed_columns("mysql"))
        self._dispatched = sql.status_is(Status.DISPATCHED)

    def can(self, take: Take | None) -> bool:
        return isinstance(take, TakeTickets)

    def make(self, cursor: Any, completed: Sequence[Completed], take: TakeTickets, terms: Terms) -> _Rows:
        statements = ["BEGIN", *self._texts(cursor, completed, take, terms), "COMMIT"]
        cursor.execute("; ".join(statements))
        count = 0
        for _ in statements[1:-3]:
            cursor.nextset()
            count += cursor.rowcount
        cursor.nextset()  # the claim
        cursor.nextset()
        rows = [typed(row) for row in cursor.fetchall()]
        cursor.nextset()  # the commit: an error of its own is raised here
        return count, rows

    def _texts(
        self, cursor: Any, completed: Sequence[Completed], take: TakeTickets, terms: Terms
    ) -> list[str]:
        settles = [
            self._completions.of(token, group) for token, group in self._completions.by_token(completed)
        ]
        claim, given = _ticket_claim(self._sql, self._dispatched, take.references, terms)
        ids = sorted({task_id for task_id, _ in take.references})
        look = f"SELECT {self._columns} FROM tasks WHERE id IN ({self._sql.marks(len(ids))}) AND token = %s"  # noqa: S608
        wanted = [*settles, (claim, given), (look, (*ids, terms.token))]
        return [cursor.mogrify(text, values) for text, values in wanted]


class _OnSQLite:
    """Statements one by one, in a transaction that takes the write lock at once."""

    def __init__(self, sql: DriverSql) -> None:
        self._sql = sql
        self._completions = Completions(sql)
        self._returning = "RETURNING " + ", ".join(claimed_columns("sqlite"))
        self._dispatched = sql.status_is(Status.DISPATCHED)

    def can(self, take: Take | None) -> bool:
        return isinstance(take, TakeTickets) or (isinstance(take, TakeQueued) and take.is_plain)

    def make(
        self, cursor: Any, completed: Sequence[Completed], take: TakeTickets | TakeQueued, terms: Terms
    ) -> _Rows:
        cursor.execute("BEGIN IMMEDIATE")
        count = 0
        for token, group in self._completions.by_token(completed):
            count += cursor.execute(*self._completions.of(token, group)).rowcount
        claim, given = (
            _ticket_claim(self._sql, self._dispatched, take.references, terms)
            if isinstance(take, TakeTickets)
            else self._queued(take, terms)
        )
        rows = [ranked(row) for row in cursor.execute(f"{claim} {self._returning}", given).fetchall()]
        cursor.execute("COMMIT")
        return count, rows

    def _queued(self, take: TakeQueued, terms: Terms) -> tuple[str, Sequence[Any]]:
        claim = (
            f"UPDATE tasks SET {claim_values(self._sql, terms)} WHERE id IN (SELECT id FROM tasks"  # noqa: S608
            f" WHERE status = 'QUEUED' AND priority IN ({self._sql.marks(len(take.priorities))})"
            f" AND confirmed_in = 0 AND priority NOT IN ({_closed(Track.DATABASE)})"
            " ORDER BY priority, id LIMIT ?)"
        )
        ranks = (priority.rank for priority in take.priorities)
        return claim, (terms.token, terms.holder, *ranks, take.limit)


def _ticket_claim(
    sql: DriverSql, dispatched: str, references: Sequence[tuple[int, int]], terms: Terms
) -> tuple[str, tuple[Any, ...]]:
    """The claim of the rows that these tickets name, as one statement. It waits for locked rows."""
    ids = sorted({task_id for task_id, _ in references})
    epochs = {epoch for _, epoch in references}
    if len(epochs) == 1:
        named, pairs = f"epoch = {sql.mark}", tuple(epochs)
    else:
        pair = f"({sql.mark}, {sql.mark})"
        word = "VALUES " if sql.kind == "sqlite" else ""
        named = f"(id, epoch) IN ({word}{', '.join([pair] * len(references))})"
        pairs = tuple(value for reference in references for value in reference)
    claim = (
        f"UPDATE tasks SET {claim_values(sql, terms)} WHERE id IN ({sql.marks(len(ids))}) AND {named}"  # noqa: S608
        f" AND {dispatched} AND priority NOT IN ({_closed(Track.REDIS)})"
    )
    return claim, (terms.token, terms.holder, *ids, *pairs)


_TRIPS: dict[str, Any] = {"postgresql": _OnPostgres, "mysql": _OnMySQL, "sqlite": _OnSQLite}
