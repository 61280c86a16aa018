"""Which tickets are missing, and which are worth nothing: the sweeper's comparison of rows with a queue.

A row whose ticket stands in its queue's own list is confirmed, with the incarnation of Redis that had it.
What is missing is pushed again with the same epoch. Rows beyond the window are the refiller's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from app.tasks.ids import MAX_ID
from app.tasks.model import PRIORITIES, Priority, Ticket
from app.tasks.store import Store
from app.tasks.tickets import Look, Overflow, RQQueueManager
from app.tasks.tickets.rq_format import parse_job_id

ROWS_PER_PASS = 10_000
CONFIRM_BATCH = 500
SUSPECTS = 500
HEAD_LOOKED_AT = 200
FORGET_BATCH, FORGETS_PER_PASS = 5_000, 20

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Checked:
    """What one check did."""

    pushed: int = 0
    confirmed: int = 0
    stale: int = 0


class MissingTickets:
    def __init__(
        self, store: Store, tickets: RQQueueManager, *, grace_seconds: float, clock: Callable[[], float]
    ) -> None:
        self._rows = store.dispatched
        self._tickets = tickets
        self._grace_seconds = grace_seconds
        self._clock = clock
        self._incarnations: dict[Priority, int] = {}
        self._frontiers: dict[Priority, deque[tuple[float, int]]] = {p: deque() for p in PRIORITIES}

    def check(self, priority: Priority, overflow: Overflow | None) -> Checked:
        """Compare one queue with its rows: a bounded number of statements, of looks and of rows.

        Raises `RedisUnavailable`, `DatabaseUnavailable`.
        """
        checked = Checked()
        head = self._tickets.look(priority, last=HEAD_LOOKED_AT - 1)
        checked.stale = self._remove_stale(priority, head)
        if self._incarnations.get(priority) != head.incarnation:
            self._incarnations[priority] = head.incarnation
            self._frontiers[priority].clear()  # of a server that knew of another overflow
        for _ in range(FORGETS_PER_PASS):
            forgotten = self._rows.unconfirm_others(
                priority, incarnation=head.incarnation, limit=FORGET_BATCH
            )
            if forgotten < FORGET_BATCH:
                break
        frontier = self._frontier(priority, overflow)
        if frontier:
            self._first_look(priority, frontier, checked)
        self._second_look(priority, checked)
        return checked

    def _frontier(self, priority: Priority, overflow: Overflow | None) -> int:
        """The id below which rows have had a grace's time to be found in their queue.

        A row beyond the window has waited long when its ticket is pushed at last, so its age tells nothing:
        what counts is where the overflow began a grace ago. Who does not know that yet leaves an overflowing
        queue alone: most of what stands there will be claimed before it could be worth confirming.
        """
        now, start = self._clock(), MAX_ID if overflow is None else overflow.start
        history = self._frontiers[priority]
        history.append((now, start))
        while len(history) > 1 and history[1][0] <= now - self._grace_seconds:
            history.popleft()
        if overflow is not None and history[0][0] > now - self._grace_seconds:
            return 0
        return min(start, history[0][1])

    def _first_look(self, priority: Priority, frontier: int, checked: Checked) -> None:
        waiting = self._rows.unconfirmed(
            priority, older_than_seconds=self._grace_seconds, limit=ROWS_PER_PASS, before=frontier
        )
        if not waiting:
            return
        look = self._tickets.look(priority)
        missing = [ticket for ticket in waiting if ticket.job_id not in look.job_ids]
        checked.pushed += self._push(priority, missing)
        if len(waiting) == ROWS_PER_PASS and missing and missing[-1] is waiting[-1]:
            # more than a pass can look at, and its end is not there: the refiller pushes the rest in order
            self._tickets.open_overflow(priority, waiting[-1].task_id + 1)
        present = [ticket for ticket in waiting if ticket.job_id in look.job_ids]
        for at in range(0, len(present), CONFIRM_BATCH):
            batch = present[at : at + CONFIRM_BATCH]
            checked.confirmed += self._rows.confirm(batch, incarnation=look.incarnation)

    def _second_look(self, priority: Priority, checked: Checked) -> None:
        """A confirmed row whose queue is empty, or whose queue's head was pushed later than the row plus
        grace, has lost its ticket after it was seen: popped by somebody who died."""
        head = self._tickets.look(priority, last=4 * SUSPECTS - 1)  # the oldest stand near the head
        age = self._grace_seconds
        if head.length and head.head_pushed_at is not None:
            age = max(age, self._tickets.database_clock() - head.head_pushed_at + age)
        suspects = self._rows.confirmed(
            priority, incarnation=head.incarnation, older_than_seconds=age, limit=SUSPECTS
        )
        missing = [ticket for ticket in suspects if ticket.job_id not in head.job_ids]
        if missing and len(head.job_ids) < head.length:
            look = self._tickets.look(priority)
            missing = [ticket for ticket in missing if ticket.job_id not in look.job_ids]
        checked.pushed += self._push(priority, missing)

    def _push(self, priority: Priority, missing: list[Ticket]) -> int:
        """Push with the same epoch; not yet confirmed: the next pass sees and confirms it."""
        if not missing:
            return 0
        # a ticket that a worker has just taken stands in no queue until its row is claimed
        still = self._rows.current([(ticket.task_id, ticket.epoch) for ticket in missing])
        missing = [ticket for ticket in missing if (ticket.task_id, ticket.epoch) in still]
        if not missing:
            return 0
        log.warning("tickets.pushed_again", priority=priority.value, count=len(missing))
        return self._tickets.push(missing)

    def _remove_stale(self, priority: Priority, look: Look) -> int:
        """Tickets near the head that name no waiting row: taken out, so that `LLEN` tells the truth."""
        references = {job_id: parse_job_id(job_id) for job_id in look.job_ids}
        ours = {job_id: pair for job_id, pair in references.items() if pair is not None}
        if not ours:
            return 0
        current = self._rows.current(list(ours.values()))
        return self._tickets.remove(
            priority, [job_id for job_id, pair in ours.items() if pair not in current]
        )
