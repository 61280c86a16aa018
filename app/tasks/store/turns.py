"""A turn: the end of one batch and the claim of the next, in one transaction and so in one commit."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.engine import Connection

from app.tasks.database import CommitUnknown, Database
from app.tasks.model import ENDED, Cancelled, Claim, Outcome, Status, Track
from app.tasks.sources import is_imported
from app.tasks.store.claims import Claims, TicketClaims
from app.tasks.store.settling import OddRows, PutOff, Settled, Settlements
from app.tasks.store.single_trip import SingleTrip
from app.tasks.store.takes import Take, TakeOfPool, TakeQueued, TakeTickets, Terms
from app.tasks.store.write_backs import TAKEN, WriteBacks

SOURCE_AWAY = "the database of its legacy row is away"


@dataclass(frozen=True, slots=True)
class Turned:
    """What a turn settled and what it won."""

    settled: Settled = field(default_factory=Settled)
    claims: TicketClaims = field(default_factory=TicketClaims)


class Turns:
    def __init__(
        self,
        database: Database,
        claims: Claims,
        settlements: Settlements,
        *,
        one_trip: bool = True,
        backs: WriteBacks | None = None,
    ) -> None:
        """Without `one_trip` every turn goes step by step, as whatever joins its transaction needs. `backs`
        says which claims must not start, and tells rows in other databases what has ended."""
        self._database = database
        self._trip = SingleTrip(database) if one_trip else None
        self._claims = claims
        self._settlements = settlements
        self._backs = backs

    def turn(
        self,
        outcomes: Sequence[Outcome],
        take: Take | None,
        *,
        holder: str,
        lease_seconds: float,
    ) -> Turned:
        """Settle `outcomes` and claim what `take` asks for, both or neither.

        Raises `DatabaseUnavailable`; then the outcomes are to be settled again, which the tokens make safe.
        """
        terms = Terms(holder, lease_seconds, self._claims.draw_token())
        if take is not None and self._trip is not None and self._trip.fits(outcomes, take):
            turned = self._in_one_trip(outcomes, take, terms)
        else:
            turned = self._step_by_step(outcomes, take, terms)
        if self._backs is not None and outcomes:
            self._backs.deliver_own()
        return Turned(turned.settled, self.without_taken(turned.claims))

    def without_taken(self, claims: TicketClaims) -> TicketClaims:
        """The claims but for those whose work somebody else has, which are ended, and those of which nobody
        can tell now, which are put off. Their tickets are stale."""
        if self._backs is None or not any(is_imported(claim.idempotency_key) for claim in claims.won):
            return claims
        looked = self._backs.look(claims.won)
        unstarted: list[Outcome] = [Cancelled(claim, TAKEN) for claim in looked.taken]
        unstarted += [PutOff(claim, SOURCE_AWAY, seconds) for claim, seconds in looked.put_off]
        if not unstarted:
            return claims
        self._settlements.settle(unstarted)
        gone = {outcome.claim.task_id for outcome in unstarted}
        stale = [
            *claims.stale,
            *((claim.task_id, claim.epoch) for claim in claims.won if claim.task_id in gone),
        ]
        won = [claim for claim in claims.won if claim.task_id not in gone]
        return TicketClaims(won, claims.refused, stale)

    def _in_one_trip(self, outcomes: Sequence[Any], take: Take, terms: Terms) -> Turned:
        """Nothing but completions before it: what the answer lacks is looked into afterwards."""
        assert self._trip is not None
        try:
            answer = self._trip.turn(outcomes, take, terms)
        except CommitUnknown:
            turned = self._read_back(outcomes, terms, take)
            if turned.claims.won:
                return turned
            return Turned(turned.settled, self._step_by_step((), take, terms).claims)
        if answer.completed == len(outcomes):
            settled = Settled({outcome.claim.task_id: Status.COMPLETED for outcome in outcomes})
        else:
            settled = self._settled(outcomes, ended=(Status.COMPLETED,))
        if not isinstance(take, TakeTickets) or len(answer.won) == len(take.references):
            return Turned(settled, TicketClaims(answer.won))
        return Turned(settled, self._judged(take.references, answer.won))

    def _judged(self, references: Sequence[tuple[int, int]], won: list[Claim]) -> TicketClaims:
        """What has become of the tickets that were not won: their queue is closed, or they are stale."""
        known = {(claim.task_id, claim.epoch) for claim in won}
        missing = [pair for pair in references if pair not in known]
        refused = self._claims.still_waiting(missing)
        return TicketClaims(won, refused, [pair for pair in missing if pair not in set(refused)])

    def _step_by_step(self, outcomes: Sequence[Outcome], take: Take | None, terms: Terms) -> Turned:
        def work(on: Connection, *, look_first: bool = False) -> Turned:
            settled = self._settlements.settle_on(on, outcomes, look_first=look_first)
            return Turned(settled, self._take(on, terms, take))

        try:
            return self._database.run(work)
        except OddRows:
            return self._database.run(lambda on: work(on, look_first=True))
        except CommitUnknown:
            return self._read_back(outcomes, terms, take)

    def _take(self, on: Connection, terms: Terms, take: Take | None) -> TicketClaims:
        match take:
            case None:
                return TicketClaims()
            case TakeTickets(references):
                return self._claims.tickets_on(on, terms, references)
            case TakeOfPool(limit, lane):
                return TicketClaims(won=self._claims.of_pool_on(on, terms, lane, limit))
            case TakeQueued(limit, priorities, waiting, one_by_one=True):
                won: list[Claim] = []
                for priority in priorities:
                    if len(won) < limit:
                        won += self._claims.queued_on(on, terms, limit - len(won), [priority], waiting)
                return TicketClaims(won=won)
            case TakeQueued(limit, priorities, waiting):
                return TicketClaims(won=self._claims.queued_on(on, terms, limit, priorities, waiting))

    def _read_back(self, outcomes: Sequence[Outcome], terms: Terms, take: Take | None) -> Turned:
        """COMMIT's answer was lost: ask the rows. Tickets that were not claimed are simply lost; the
        sweeper pushes them again."""
        track = Track.REDIS if isinstance(take, TakeTickets) else Track.DATABASE
        claims: list[Claim] = self._claims.of_token(terms.token, track)
        return Turned(self._settled(outcomes), TicketClaims(won=claims))

    def _settled(self, outcomes: Sequence[Outcome], *, ended: Collection[Status] = ENDED) -> Settled:
        """What these outcomes' rows say: those that ended so are recorded, the others are settled now."""
        found = self._settlements.ended_among([outcome.claim for outcome in outcomes])
        recorded = {task_id: status for task_id, status in found.items() if status in ended}
        again = self._settlements.settle([o for o in outcomes if o.claim.task_id not in recorded])
        again.recorded |= recorded
        return again
