"""The batches of a transfer: written in the transaction that marks their rows, closed by their delivery."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import func, insert, select, update
from sqlalchemy.engine import Connection

from app.tasks.database import Database
from app.tasks.model import Priority, Ticket
from app.tasks.schema import database_now, transfer_batches
from app.transfer.forecast import Step


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """One batch as it was marked. `digest` names its (id, epoch) pairs."""

    number: int
    priority: Priority
    first_id: int
    last_id: int
    marked: int
    quarantined: int
    digest: str
    mark_seconds: float


def digest_of(tickets: Sequence[Ticket]) -> str:
    """Names the (id, epoch) pairs of a batch, in their order."""
    text = "\n".join([ticket.job_id for ticket in tickets])
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class Totals:
    """All batches of a transfer together."""

    batches: int = 0
    marked: int = 0
    quarantined: int = 0
    pushed: int = 0
    read_back: int = 0
    confirmed: int = 0


class BatchRecords:
    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, on: Connection, transfer_id: int, batch: BatchRecord) -> None:
        """In the transaction that marks the rows."""
        values = {name: getattr(batch, name) for name in BatchRecord.__slots__}
        values |= {"transfer_id": transfer_id, "marked_at": database_now()}
        on.execute(insert(transfer_batches).values(**values))

    def delivered(
        self, transfer_id: int, number: int, *, pushed: int = 0, read_back: int = 0, confirmed: int = 0
    ) -> None:
        """Nothing more is to be done for this batch."""
        one = (transfer_batches.c.transfer_id == transfer_id, transfer_batches.c.number == number)
        counts = {"pushed": pushed, "read_back": read_back, "confirmed": confirmed}
        statement = update(transfer_batches).where(*one).values(delivered_at=database_now(), **counts)
        self._database.run(lambda on: on.execute(statement))

    def has(self, transfer_id: int, number: int) -> bool:
        """Read back after a lost answer to COMMIT."""
        one = (transfer_batches.c.transfer_id == transfer_id, transfer_batches.c.number == number)
        query = select(transfer_batches.c.number).where(*one)
        return self._database.read(lambda on: on.execute(query).first()) is not None

    def next_number(self, transfer_id: int) -> int:
        query = select(func.max(transfer_batches.c.number)).where(
            transfer_batches.c.transfer_id == transfer_id
        )
        return (self._database.read(lambda on: on.execute(query).scalar()) or 0) + 1

    def undelivered(self, transfer_id: int) -> list[BatchRecord]:
        """Batches that were marked and of which nobody knows whether they were pushed, in order."""
        columns = [transfer_batches.c[name] for name in BatchRecord.__slots__]
        query = select(*columns).where(
            transfer_batches.c.transfer_id == transfer_id, transfer_batches.c.delivered_at.is_(None)
        )
        rows = self._database.read(lambda on: on.execute(query.order_by(transfer_batches.c.number)).all())
        return [BatchRecord(*row) for row in rows]

    def totals(self, transfer_id: int) -> Totals:
        sums = [
            func.coalesce(func.sum(transfer_batches.c[name]), 0)
            for name in Totals.__slots__
            if name != "batches"
        ]
        query = select(func.count(), *sums).where(transfer_batches.c.transfer_id == transfer_id)
        row = self._database.read(lambda on: on.execute(query).one())
        return Totals(*map(int, row))

    def steps(self, transfer_id: int, *, points: int) -> list[Step]:
        """How many rows had been taken in all, and when: about so many points, whatever number of batches."""
        number = transfer_batches.c.number
        own = transfer_batches.c.transfer_id == transfer_id
        count = self._database.read(lambda on: on.execute(select(func.max(number)).where(own)).scalar()) or 0
        part = number - number % max(1, -(-count // points))
        taken = func.sum(transfer_batches.c.marked + transfer_batches.c.quarantined)
        query = select(func.max(transfer_batches.c.marked_at), taken).where(own).group_by(part).order_by(part)
        steps: list[Step] = []
        total = 0
        for at, rows in self._database.read(lambda on: on.execute(query).all()):
            total += int(rows)
            latest = max(at, steps[-1].at) if steps else at  # two markers: a later number may be earlier done
            steps.append(Step(latest, total))
        return steps
