"""From marked rows to tickets that were seen: push, read back, and doubt whatever was not found.

Rows are marked with the incarnation of Redis in which their tickets are about to be: confirmed ahead, in
the statement that moves them anyway. So only the exceptions cost a second write. A run that dies in between
leaves a batch without `delivered_at`, which is delivered again at the resume; if nobody resumes, the
sweeper's second look finds such rows like those whose ticket was popped and lost.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from app.tasks.model import Priority, Ticket
from app.tasks.store import Store
from app.tasks.tickets import RQQueueManager
from app.transfer.batches import BatchRecord, BatchRecords

DOUBT_ROWS = 1000
TAIL_SPARE = 500  # tickets that others may have pushed behind ours before the look


@dataclass(frozen=True, slots=True)
class Marked:
    """A committed batch with its tickets. `incarnation` is what its rows say of Redis; 0: nothing."""

    record: BatchRecord
    tickets: Sequence[Ticket]
    incarnation: int


@dataclass(frozen=True, slots=True)
class Delivered:
    pushed: int = 0
    read_back: int = 0
    confirmed: int = 0


class Delivery:
    """Pushes the batches of one transfer, one after the other."""

    def __init__(
        self, store: Store, tickets: RQQueueManager, batches: BatchRecords, *, transfer_id: int
    ) -> None:
        self._store = store
        self._tickets = tickets
        self._batches = batches
        self._transfer_id = transfer_id
        self._full: set[Priority] = set()
        self._incarnation = 0

    def prepare(self, priority: Priority) -> None:
        """Look at the queue before the first batch. Raises `RedisUnavailable`."""
        look = self._tickets.look(priority, last=0)
        self._incarnation = look.incarnation
        overflows = self._tickets.overflows()
        if priority in overflows or look.length >= self._tickets.window:
            self._full.add(priority)

    def incarnation(self, priority: Priority) -> int:
        """What to mark rows with: 0 where the window is full, since their tickets have to wait."""
        return 0 if priority in self._full else self._incarnation

    def deliver(self, batch: Marked) -> Delivered:
        """Push the tickets that there is room for and record what came of it.

        Raises `RedisUnavailable` and `DatabaseUnavailable`: the batch is then not delivered.
        """
        tickets = list(batch.tickets)
        done = Delivered()
        if tickets:
            pushed = self._push(batch.record.priority, tickets)
            if pushed or batch.incarnation:
                done = self._read_back(batch, tickets, pushed)
        self._batches.delivered(
            self._transfer_id,
            batch.record.number,
            pushed=done.pushed,
            read_back=done.read_back,
            confirmed=done.confirmed,
        )
        return done

    def _push(self, priority: Priority, tickets: list[Ticket]) -> int:
        """While the window is full only the first is tried: if it is refused, which lowers the overflow to
        it, all that follow it are the refiller's, too."""
        pushed = self._tickets.push(tickets[:1]) if priority in self._full else 0
        if pushed or priority not in self._full:
            pushed += self._tickets.push(tickets[pushed:])
        if pushed < len(tickets):
            self._full.add(priority)
        else:
            self._full.discard(priority)
        return pushed

    def _read_back(self, batch: Marked, tickets: list[Ticket], pushed: int) -> Delivered:
        """Which tickets stand in their queue now? The others may be with a worker, or were refused."""
        look = self._tickets.look(batch.record.priority, first=-(len(tickets) + TAIL_SPARE))
        self._incarnation = look.incarnation
        seen, unseen = _parted(tickets, look.job_ids)
        confirmed = len(seen)
        if batch.incarnation != look.incarnation:
            confirmed = self._confirm(seen, look.incarnation)
        self._doubt(unseen)
        return Delivered(pushed, len(seen), confirmed)

    def _doubt(self, unseen: Sequence[Ticket]) -> None:
        for start in range(0, len(unseen), DOUBT_ROWS):
            part = unseen[start : start + DOUBT_ROWS]
            self._store.dispatched.unconfirm([(ticket.task_id, ticket.epoch) for ticket in part])

    def _confirm(self, seen: Sequence[Ticket], incarnation: int) -> int:
        by_epoch: dict[int, list[int]] = defaultdict(list)
        for ticket in seen:
            by_epoch[ticket.epoch].append(ticket.task_id)
        return self._store.transfers.confirm(by_epoch, incarnation=incarnation)

    def deliver_again(self, record: BatchRecord) -> Delivered:
        """A batch whose delivery was cut short: push what is neither in the queue nor in a worker's hands."""
        priority = record.priority
        tickets = self._store.transfers.dispatched_between(priority, record.first_id, record.last_id)
        look = self._tickets.look(priority)
        _, missing = _parted(tickets, look.job_ids)
        still = self._store.dispatched.current([(t.task_id, t.epoch) for t in missing])
        missing = [ticket for ticket in missing if (ticket.task_id, ticket.epoch) in still]
        pushed = self._tickets.push(missing)
        look = self._tickets.look(priority)
        seen, unseen = _parted(tickets, look.job_ids)
        confirmed = self._confirm(seen, look.incarnation)
        self._doubt(unseen)
        counts = Delivered(pushed, len(seen), confirmed)
        self._batches.delivered(
            self._transfer_id, record.number, pushed=pushed, read_back=len(seen), confirmed=confirmed
        )
        return counts


def _parted(tickets: list[Ticket], job_ids: Collection[str]) -> tuple[list[Ticket], list[Ticket]]:
    """Those that are among the ids, and the others."""
    seen: list[Ticket] = []
    unseen: list[Ticket] = []
    for ticket in tickets:
        (seen if ticket.job_id in job_ids else unseen).append(ticket)
    return seen, unseen
