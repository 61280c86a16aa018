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
AGAIN_ROWS = 5_000  # of a batch that is delivered again, in memory at once
SLICE_IDS = 50_000  # of a queue that is read as a whole
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
        pushed = read_back = confirmed = 0
        after_id = record.first_id - 1
        while tickets := self._store.transfers.dispatched_between(
            record.priority, after_id + 1, record.last_id, limit=AGAIN_ROWS
        ):
            done = self._push_missing(record.priority, tickets)
            pushed, read_back = pushed + done.pushed, read_back + done.read_back
            confirmed += done.confirmed
            after_id = tickets[-1].task_id
        counts = Delivered(pushed, read_back, confirmed)
        self._batches.delivered(
            self._transfer_id, record.number, pushed=pushed, read_back=read_back, confirmed=confirmed
        )
        return counts

    def _push_missing(self, priority: Priority, tickets: list[Ticket]) -> Delivered:
        standing, _ = self._standing(priority, tickets)
        _, missing = _parted(tickets, standing)
        still = self._store.dispatched.current([(t.task_id, t.epoch) for t in missing])
        pushed = self._tickets.push([t for t in missing if (t.task_id, t.epoch) in still])
        standing, incarnation = self._standing(priority, tickets)
        seen, unseen = _parted(tickets, standing)
        confirmed = self._confirm(seen, incarnation)
        self._doubt(unseen)
        return Delivered(pushed, len(seen), confirmed)

    def _standing(self, priority: Priority, tickets: list[Ticket]) -> tuple[set[str], int]:
        """Which of the tickets stand in their queue, and in which incarnation: the first that answered, since
        a later one may have lost what was found before. From the queue's end: what workers take from the head
        meanwhile, or others push, hides none."""
        wanted = {ticket.job_id for ticket in tickets}
        found: set[str] = set()
        read, incarnation = 0, 0
        while True:
            look = self._tickets.look(priority, first=-(read + SLICE_IDS), last=-(read + 1))
            incarnation = incarnation or look.incarnation
            found |= wanted.intersection(look.job_ids)
            read += SLICE_IDS
            if read >= look.length or len(found) == len(wanted):
                return found, incarnation


def _parted(tickets: list[Ticket], job_ids: Collection[str]) -> tuple[list[Ticket], list[Ticket]]:
    """Those that are among the ids, and the others."""
    seen: list[Ticket] = []
    unseen: list[Ticket] = []
    for ticket in tickets:
        (seen if ticket.job_id in job_ids else unseen).append(ticket)
    return seen, unseen
