"""Ended tickets on their way into RQ's registries.

They are gathered for a moment, so that a worker with short tasks tells Redis some times a second and not
with each batch; and of a flood only the newest are filed, since the registries would drop the others at once.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence

from app.tasks.runner import boot_clock
from app.tasks.tickets.manager import KEPT_ENTRIES, Ended

GATHER_SECONDS = 0.1
FILED_AT_ONCE = 200  # finished ones per queue, 2,000 a second
HELD_LIMIT = 10 * KEPT_ENTRIES


class Filing:
    """Tickets that ended and were not told to Redis yet. Safe for several threads."""

    def __init__(self, *, clock: Callable[[], float] = boot_clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._held: list[Ended] = []
        self._due_at = 0.0

    def add(self, ended: Ended) -> None:
        with self._lock:
            if not self._held:
                self._due_at = self._clock() + GATHER_SECONDS
            self._held.append(ended)

    def due(self) -> list[Ended]:
        """All of them once the first has waited for `GATHER_SECONDS`; until then none."""
        with self._lock:
            if not self._held or self._clock() < self._due_at:
                return []
            held, self._held = self._held, []
        return _newest(held)

    def take(self) -> list[Ended]:
        """All of them now."""
        with self._lock:
            held, self._held = self._held, []
        return _newest(held)

    def put_back(self, ended: Sequence[Ended]) -> None:
        """Redis was not told after all: once more, later. Of a long outage the newest are kept."""
        with self._lock:
            self._held = [*ended, *self._held][-HELD_LIMIT:]
            self._due_at = self._clock() + GATHER_SECONDS


def _newest(ended: list[Ended]) -> list[Ended]:
    """As they are; in a flood, finished ones before the newest of their queue as worth nothing."""
    if len(ended) <= FILED_AT_ONCE:
        return ended
    seen: Counter[str] = Counter()
    kept: list[Ended] = []
    for ticket in reversed(ended):
        if ticket.ok:
            seen[ticket.priority] += 1
            if seen[ticket.priority] > FILED_AT_ONCE:
                ticket = ticket._replace(ok=None)
        kept.append(ticket)
    return kept[::-1]
