"""The refiller: pushes tickets of rows beyond the window, in order of service, as their queue drains.

A step of the sweeper. What it believes of Redis is the overflow, one small hash per queue; if that is lost,
the sweeper finds the rows by their missing tickets. Nothing here changes a row.
"""

from __future__ import annotations

import structlog

from app.tasks.model import Priority, Ticket, Track
from app.tasks.routing import Routing
from app.tasks.store import Store
from app.tasks.tickets import Overflow, RQQueueManager
from app.tasks.tickets.manager import PUSH_CHUNK, Refilled

READ_ROWS = 5_000
# Room that a refill leaves: for tasks that fall due or are retried, and belong before what still waits.
RESERVE_SHARE = 20
# A queue is refilled once this share of its window is free: few large reads, not many small ones.
WORTHWHILE_SHARE = 20

log = structlog.get_logger(__name__)


class Refiller:
    def __init__(self, store: Store, tickets: RQQueueManager) -> None:
        self._store = store
        self._tickets = tickets
        self._full = tickets.window - tickets.window // RESERVE_SHARE

    def step(self, rules: Routing, overflows: dict[Priority, Overflow]) -> tuple[int, bool]:
        """Refill every queue that has room: at most a window of tickets each.

        Returns how many were pushed, and whether a queue was more than half empty: then the next step should
        not be far. Raises `RedisUnavailable`, `DatabaseUnavailable`; the next step goes on where this ended.
        """
        pushed, hurry = 0, False
        for priority, overflow in overflows.items():
            route = rules.get(priority)
            if route is None or route.fallback or not route.may_claim(Track.REDIS):
                continue
            room = self._full - overflow.length
            if room >= max(1, self._full // WORTHWHILE_SHARE):
                pushed += self._refill(priority, overflow.start, room)
                hurry = hurry or room > self._full // 2
        return pushed, hurry

    def _refill(self, priority: Priority, start: int, room: int) -> int:
        """Push up to `room` tickets of the rows from id `start` on."""
        total = 0
        while total < room:
            limit = min(READ_ROWS, room - total)
            rows = self._store.dispatched.unpushed(priority, start=start, limit=limit)
            last = len(rows) < limit
            refilled, start = self._push(priority, rows, start, last=last)
            if refilled is None:
                return total  # another refiller is at work
            total += refilled.pushed
            if last:
                return total + self._push_late(priority, refilled.late)
        return total

    def _push(
        self, priority: Priority, rows: list[Ticket], start: int, *, last: bool
    ) -> tuple[Refilled | None, int]:
        """Push rows in chunks. Returns what was done, None if somebody was in between, and the next start."""
        pushed, late = 0, None
        for at in range(0, max(1, len(rows)), PUSH_CHUNK):
            chunk = rows[at : at + PUSH_CHUNK]
            following = chunk[-1].task_id + 1 if chunk else start
            ends = last and at + PUSH_CHUNK >= len(rows)
            done = self._tickets.refill(priority, chunk, start=start, next_start=following, last=ends)
            if done is None:
                return None, start
            pushed, late, start = pushed + done.pushed, done.late, following
        return Refilled(pushed, late), start

    def _push_late(self, priority: Priority, late: int | None) -> int:
        """The overflow is over; what was refused while its last rows were read is still without a ticket."""
        log.info("window.drained", priority=priority.value)
        if late is None:
            return 0
        rows = self._store.dispatched.unpushed(priority, start=late, limit=READ_ROWS)
        if len(rows) == READ_ROWS:
            self._tickets.open_overflow(priority, rows[-1].task_id + 1)
        return self._tickets.push(rows, missing_only=True)
