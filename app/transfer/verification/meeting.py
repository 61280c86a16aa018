"""Tickets meet rows: stretch by stretch their sums must agree, and only where they do not both are opened."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping

from app.transfer.verification.order import OrderWatch
from app.transfer.verification.rows import NO_WINDOW, RowReader, Totals
from app.transfer.verification.suspects import Suspects
from app.transfer.verification.tickets import (
    ENVELOPES_AT_ONCE,
    QUEUES,
    Envelope,
    TicketReader,
    TicketTable,
    digest_of,
    envelope_faults,
    reference_of,
)


def read_queues(
    reader: TicketReader,
    suspects: Suspects,
    order: OrderWatch,
    starts: Mapping[int, int],
) -> dict[int, TicketTable]:
    """All four queues, with every envelope. Whatever is odd by itself becomes a suspect."""
    tables = {}
    for rank in range(len(QUEUES)):
        table = tables[rank] = TicketTable()
        for entries in reader.entries(rank):
            for at in range(0, len(entries), ENVELOPES_AT_ONCE):
                part = entries[at : at + ENVELOPES_AT_ONCE]
                found = zip(part, reader.envelopes(part), strict=True)
                for entry, envelope in found:
                    _sort_in(entry, envelope, rank, reader.name(rank), table, suspects, order, starts)
        table.sort()
    return tables


def _sort_in(
    entry: bytes,
    envelope: Envelope,
    rank: int,
    queue: bytes,
    table: TicketTable,
    suspects: Suspects,
    order: OrderWatch,
    starts: Mapping[int, int],
) -> None:
    reference = reference_of(entry)
    if reference is None:
        suspects.add_foreign(entry)
        return
    table.count += 1
    beyond = reference.task_id >= starts.get(rank, NO_WINDOW)
    if beyond or envelope_faults(reference, envelope, queue):
        suspects.add((reference.task_id,))
    if not beyond:
        table.ids.append(reference.task_id)
        table.digests.append(digest_of(reference, rank, envelope))
    if envelope.pushed_at is not None:
        order.next(rank, reference, _seconds(envelope.pushed_at))


def _seconds(text: bytes) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


class Meeting:
    """Holds the tickets while the rows come by in ascending order of ids. `starts`: from where on, by rank, a
    row may be without a ticket."""

    def __init__(self, rows: RowReader, suspects: Suspects, starts: Mapping[int, int]) -> None:
        self._rows = rows
        self._suspects = suspects
        self.starts = starts
        self.tables: dict[int, TicketTable] = {}
        self._places: dict[int, int] = {}

    @property
    def counts(self) -> dict[int, int]:
        """Tickets by rank, foreign entries left out."""
        return {rank: table.count for rank, table in self.tables.items()}

    def meet(self, after: int, last: int, totals: Totals) -> None:
        """Hold the tickets of a stretch of ids against its rows."""
        stretches = {rank: self._take(rank, last) for rank in self.tables}
        for rank, (first, end) in stretches.items():
            tickets = (end - first, sum(self.tables[rank].digests[first:end]))
            if tickets != totals.tickets.get(rank, (0, 0)):
                self._open(after, last, stretches)
                return

    def _take(self, rank: int, last: int) -> tuple[int, int]:
        """Where the tickets up to this id are in their table; each is taken once."""
        first = self._places.get(rank, 0)
        end = self._places[rank] = bisect_right(self.tables[rank].ids, last, lo=first)
        return first, end

    def _open(self, after: int, last: int, stretches: Mapping[int, tuple[int, int]]) -> None:
        """Compare one by one: suspect is whoever is not there exactly once, or differs."""
        due = {(row.task_id, row.rank): row.digest for row in self._rows.dispatched(after, last, self.starts)}
        for rank, (first, end) in stretches.items():
            table = self.tables[rank]
            for place in range(first, end):
                task_id = table.ids[place]
                if due.pop((task_id, rank), None) != table.digests[place]:
                    self._suspects.add((task_id,))
        self._suspects.add(task_id for task_id, _ in due)
