"""What a mover moves: where its rows are found, how they are counted, and what a batch of them becomes.

The mover owns the order of things: batches, turns, passes, proofs, deliveries. A cargo owns the rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple, Protocol

from sqlalchemy.engine import Connection

from app.tasks.model import Ticket, Track
from app.tasks.routing import Route
from app.tasks.store.transfers import Aim, Candidate, TransferRows
from app.transfer.soundness import Soundness


class Picked(NamedTuple):
    """Rows that are locked now, and how far the look for them came. Others may have had all of them."""

    rows: Sequence[Any]
    cursor: Any


class Held(NamedTuple):
    """The routing of a priority under the lock of a batch's transaction, and the database's clock."""

    route: Route
    now: datetime


@dataclass(frozen=True, slots=True)
class Batch:
    """What rows have become: how many tasks between which ids, and the tickets of those that need one."""

    first_id: int
    last_id: int
    marked: int
    quarantined: int
    tickets: list[Ticket]


class Cargo(Protocol):
    def stretches(self, aim: Aim) -> Iterator[Any]:
        """The parts of the backlog, each of which an index gives in order."""

    def count(self, aim: Aim) -> int:
        """How many rows are left to be moved or named: a plain count, locked rows included."""

    def pick(
        self, on: Connection, aim: Aim, stretch: Any, after: Any, limit: int, before: Picked | None = None
    ) -> Picked | None:
        """Lock the next rows behind the cursor `after`, which begins as None. None: there are no more.
        `before`: what a transaction had picked there that is repeated; a row keeps its place in the order."""

    def mark(
        self, on: Connection, held: Held, aim: Aim, rows: Sequence[Any], incarnation: int
    ) -> Batch | None:
        """Make of locked rows what they are to become, in the transaction that picked them. `incarnation`:
        where their tickets are about to be. None: nothing was to be done."""


class WaitingTasks:
    """Our own waiting tasks, from one track to the other."""

    def __init__(self, rows: TransferRows, soundness: Soundness, *, track: Track, transfer_id: int) -> None:
        self._rows = rows
        self._soundness = soundness
        self._track = track
        self._transfer_id = transfer_id

    def stretches(self, aim: Aim) -> Iterator[int]:
        """The values of `confirmed_in` among the rows."""
        if self._track is Track.REDIS:
            yield 0
            return
        last = -1
        while (found := self._rows.next_confirmed(aim, after=last)) is not None:
            yield found
            last = found

    def count(self, aim: Aim) -> int:
        return self._rows.count(aim)

    def pick(
        self,
        on: Connection,
        aim: Aim,
        stretch: int,
        after: int | None,
        limit: int,
        before: Picked | None = None,
    ) -> Picked | None:
        rows = self._rows.pick(
            on,
            aim,
            after_id=after or 0,
            limit=limit,
            confirmed_in=stretch,
            payload_limit_bytes=self._soundness.payload_limit_bytes,
        )
        return Picked(rows, rows[-1].task_id) if rows else None

    def mark(
        self, on: Connection, held: Held, aim: Aim, rows: Sequence[Candidate], incarnation: int
    ) -> Batch:
        flaws = {}
        if self._track is Track.REDIS:
            flaws = self._soundness.flaws(rows, lambda ids: self._rows.payloads(on, ids))
        sound = [row for row in rows if row.task_id not in flaws] if flaws else rows
        self._rows.mark(on, [row.task_id for row in sound], aim.track, confirmed_in=incarnation)
        self._rows.quarantine(on, flaws, transfer_id=self._transfer_id)
        priority = aim.route.priority
        tickets = [
            Ticket(task_id, epoch + 1, priority, name, timeout) for task_id, epoch, timeout, _, name in sound
        ]
        return Batch(rows[0].task_id, rows[-1].task_id, len(sound), len(flaws), tickets)
