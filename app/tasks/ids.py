"""Task ids: 63-bit integers made by the submitting process, ascending with time.

    41 bits  milliseconds since 2026-01-01 UTC
     8 bits  sequence within the millisecond
    14 bits  node, drawn at random by each process

Made before the insert, so that the track, the ticket and the read-back after a lost answer of COMMIT are
known without asking the database. Within one process ids ascend strictly; between processes they ascend
with the clocks. Two processes may draw one node: the primary key notices, and the submit draws again.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

EPOCH_MS = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp() * 1000)
NODE_BITS = 14
SEQUENCE_BITS = 8
MAX_ID = 2**63 - 1

# An operator can compute the bucket in SQL: only a shift, * and %. 9973 is prime: ids of consecutive
# milliseconds walk through all its residues.
BUCKET_FACTOR = 61
BUCKET_PRIME = 9973


def bucket_of(task_id: int) -> int:
    """The task's place in a percentage share, 0 to 99, as a function of the id alone."""
    return (task_id >> NODE_BITS) * BUCKET_FACTOR % BUCKET_PRIME % 100


def first_id_of(moment: datetime) -> int:
    """The smallest id that a task submitted at `moment` (aware) can have."""
    milliseconds = int(moment.timestamp() * 1000) - EPOCH_MS
    return max(0, milliseconds) << (NODE_BITS + SEQUENCE_BITS)


class IdSource:
    """Hands out ids; safe for threads, and a forked child draws a new node."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._tick = 0
        self.renew_node()
        os.register_at_fork(after_in_child=self._after_fork)

    def renew_node(self) -> None:
        """Draw another node, after a collision or a fork."""
        self._node = random.SystemRandom().getrandbits(NODE_BITS)

    def _after_fork(self) -> None:
        self._lock = threading.Lock()
        self.renew_node()

    def take(self, count: int) -> list[int]:
        """The next `count` ids, ascending. A burst borrows from the milliseconds to come."""
        first, node = self._reserve(count)
        return [(tick << NODE_BITS) | node for tick in range(first, first + count)]

    def next(self) -> int:
        tick, node = self._reserve(1)
        return (tick << NODE_BITS) | node

    def _reserve(self, count: int) -> tuple[int, int]:
        with self._lock:
            now_tick = (int(self._clock() * 1000) - EPOCH_MS) << SEQUENCE_BITS
            first = max(self._tick + 1, now_tick)
            self._tick = first + count - 1
            return first, self._node
