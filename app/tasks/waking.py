"""Who is told that there is something to do: by the bells of Redis where it is in use, else by notices.

After the commit, and never with an error: whoever was not woken looks by itself, a little later.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from datetime import datetime

import structlog

from app.tasks.errors import RedisUnavailable
from app.tasks.model import PRIORITIES, Moved, NewTask, Priority, Status, Submitted, Ticket, Track
from app.tasks.store.notices import NEAR_SECONDS, Notices, Topic
from app.tasks.tickets import RQQueueManager
from app.tasks.tickets.bells import Bells

CHILDREN_SECONDS = 0.1

log = structlog.get_logger(__name__)


class Waking:
    """Wakes idle workers and an idle sweeper."""

    def __init__(self, notices: Notices, tickets: RQQueueManager | None) -> None:
        self._notices = notices
        self._tickets = tickets
        self._next_ring = 0.0

    def follow(self, moves: Iterable[Moved]) -> None:
        """These rows wait in the database now. Those in Redis are for whoever pushes their tickets."""
        counts: Counter[Priority] = Counter()
        due = False
        for move in moves:
            if move.status is Status.QUEUED and move.priority in PRIORITIES:
                counts[move.priority] += 1
            elif move.status is Status.SCHEDULED:
                due = True
        if counts:
            self._tell(Topic.ROWS, lambda bells: bells.ring_rows(counts))
        if due:
            self.due()

    def again(self, waiting: Collection[tuple[Track, Priority]]) -> None:
        """Something waits there still: whoever was to ring for it may have died first, or whoever heard."""
        if waiting:
            self._tell(Topic.ROWS, lambda bells: bells.ring_again(waiting))

    def due(self) -> None:
        """Something becomes due soon, or may have been left: the sweeper looks."""
        self._tell(Topic.DUE, lambda bells: bells.ring_due())

    def children_ended(self) -> None:
        """A parent or a child with the same tag may go on: the sweeper looks, some times a second at most."""
        now = time.monotonic()
        if now >= self._next_ring:
            self._next_ring = now + CHILDREN_SECONDS
            self.due()

    def rules_changed(self, priorities: Iterable[Priority] = PRIORITIES) -> None:
        """The routing of these priorities is another: all who wait read it anew."""
        wanted = list(priorities)

        def ring(bells: Bells) -> None:
            bells.ring_routing(wanted)
            bells.ring_due()

        if self._tickets is None:
            self._notices.announce(Topic.ROWS)
        self._tell(Topic.DUE, ring)

    def _tell(self, topic: Topic, ring: Callable[[Bells], None]) -> None:
        if self._tickets is None:
            self._notices.announce(topic)
        elif self._tickets.health.worth_a_try:
            try:
                ring(self._tickets.bells)
            except RedisUnavailable as error:
                log.debug("bells.not_rung", topic=topic.value, reason=str(error))


def first_ticket(new: NewTask) -> Ticket:
    """The ticket of a task that is born DISPATCHED."""
    return Ticket(new.task_id, 1, new.priority, new.name, new.timeout_seconds)


def first_moves(new: NewTask, submitted: Submitted, now: Callable[[], datetime]) -> list[Moved]:
    """A birth, as what follows it. Nothing does if the sweeper looks by itself before the task is due."""
    task_id, status, ticket = submitted.task_id, submitted.status, None
    if status is Status.DISPATCHED:
        ticket = first_ticket(new)
    elif status is Status.SCHEDULED and not _is_near(new.run_at, now):
        return []
    return [Moved(task_id, status, ticket, new.line)]


def _is_near(moment: datetime | None, now: Callable[[], datetime]) -> bool:
    return moment is not None and (moment - now()).total_seconds() < NEAR_SECONDS
