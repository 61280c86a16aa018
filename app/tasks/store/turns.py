"""A turn: the end of one batch and the claim of the next, in one transaction and so in one commit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy.engine import Connection

from app.tasks.database import CommitUnknown, Database
from app.tasks.model import PRIORITIES, Claim, Outcome, Priority, Track
from app.tasks.store.claims import Claims, Terms, TicketClaims
from app.tasks.store.settling import OddRows, Settled, Settlements


@dataclass(frozen=True, slots=True)
class TakeTickets:
    """Claim the rows that these (id, epoch) pairs name."""

    references: Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class TakeQueued:
    """Claim up to `limit` QUEUED rows, those that have waited for `waiting_for_seconds`. With `one_by_one`
    the order of `priorities` is the order of service, a statement for each; otherwise their own."""

    limit: int
    priorities: Sequence[Priority] = PRIORITIES
    waiting_for_seconds: float = 0
    one_by_one: bool = False


@dataclass(frozen=True, slots=True)
class Turned:
    """What a turn settled and what it won."""

    settled: Settled = field(default_factory=Settled)
    claims: TicketClaims = field(default_factory=TicketClaims)


class Turns:
    def __init__(self, database: Database, claims: Claims, settlements: Settlements) -> None:
        self._database = database
        self._claims = claims
        self._settlements = settlements

    def turn(
        self,
        outcomes: Sequence[Outcome],
        take: TakeTickets | TakeQueued | None,
        *,
        holder: str,
        lease_seconds: float,
    ) -> Turned:
        """Settle `outcomes` and claim what `take` asks for, both or neither.

        Raises `DatabaseUnavailable`; then the outcomes are to be settled again, which the tokens make safe.
        """
        terms = Terms(holder, lease_seconds, self._claims.draw_token())

        def work(on: Connection, *, look_first: bool = False) -> Turned:
            settled = self._settlements.settle_on(on, outcomes, look_first=look_first)
            return Turned(settled, self._take(on, terms, take))

        try:
            return self._database.run(work)
        except OddRows:
            return self._database.run(lambda on: work(on, look_first=True))
        except CommitUnknown:
            return self._read_back(outcomes, terms, take)

    def _take(self, on: Connection, terms: Terms, take: TakeTickets | TakeQueued | None) -> TicketClaims:
        match take:
            case None:
                return TicketClaims()
            case TakeTickets(references):
                return self._claims.tickets_on(on, terms, references)
            case TakeQueued(limit, priorities, waiting, one_by_one=True):
                won: list[Claim] = []
                for priority in priorities:
                    if len(won) < limit:
                        won += self._claims.queued_on(on, terms, limit - len(won), [priority], waiting)
                return TicketClaims(won=won)
            case TakeQueued(limit, priorities, waiting):
                return TicketClaims(won=self._claims.queued_on(on, terms, limit, priorities, waiting))

    def _read_back(
        self, outcomes: Sequence[Outcome], terms: Terms, take: TakeTickets | TakeQueued | None
    ) -> Turned:
        """COMMIT's answer was lost: ask the rows. Tickets that were not claimed are simply lost; the
        sweeper pushes them again."""
        track = Track.DATABASE if isinstance(take, TakeQueued) else Track.REDIS
        claims: list[Claim] = self._claims.of_token(terms.token, track)
        settled = Settled()
        open_ones = []
        for outcome in outcomes:
            status = self._settlements.ended_by(outcome.claim)
            if status is None:
                open_ones.append(outcome)
            else:
                settled.recorded[outcome.claim.task_id] = status
        again = self._settlements.settle(open_ones)
        settled.recorded |= again.recorded
        settled.lost += again.lost
        settled.moves += again.moves
        return Turned(settled, TicketClaims(won=claims))
