"""How large a batch is, and how many rows a second: arithmetic with a clock, no SQL and no Redis."""

from __future__ import annotations

import time
from collections.abc import Callable

SMALLEST_ROWS = 100
FIRST_ROWS = 500
STEEPEST = 2.0


class ChunkSize:
    """Rows per batch, so that one takes about `seconds`: at most doubled or halved at a time."""

    def __init__(self, *, seconds: float, largest: int) -> None:
        self._seconds = seconds
        self._largest = largest
        self.rows = min(FIRST_ROWS, largest)

    def took(self, rows: int, seconds: float) -> None:
        """A batch of so many rows took so long."""
        if rows < self.rows / 2:
            return  # the end of a backlog tells nothing about a full batch
        factor = min(STEEPEST, max(1 / STEEPEST, self._seconds / max(seconds, 1e-6)))
        smallest = min(SMALLEST_ROWS, self._largest)
        self.rows = min(self._largest, max(smallest, int(rows * factor)))

    def halve(self) -> None:
        """The servers are under pressure."""
        self.rows = max(min(SMALLEST_ROWS, self._largest), self.rows // 2)


class Rate:
    """At most so many rows a second, counted from its making; None: as many as go."""

    def __init__(self, rows_per_second: float | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rows_per_second
        self._clock = clock
        self._free_at = clock()

    def largest_batch(self, wanted: int) -> int:
        """No more than a second's worth, so that a low rate is even."""
        return wanted if self._rate is None else max(1, min(wanted, int(self._rate)))

    def spend(self, rows: int) -> None:
        if self._rate is not None:
            self._free_at = max(self._free_at, self._clock() - 1.0) + rows / self._rate

    @property
    def wait_seconds(self) -> float:
        return 0.0 if self._rate is None else max(0.0, self._free_at - self._clock())
