"""How far something long has come: count, rate and time left, for a terminal or for nobody."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import IO

SHOW_EVERY_SECONDS = 0.2


class Progress:
    """Told of each step, shows a line at most five times a second. Without a terminal it shows nothing."""

    def __init__(
        self,
        what: str,
        *,
        total: int | None = None,
        stream: IO[str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.what, self.total, self.done = what, total, 0
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._began = clock()
        self._shown_at = float("-inf")
        self._visible = self._stream.isatty()

    @property
    def rate(self) -> float:
        """Steps per second since the start."""
        return self.done / max(self._clock() - self._began, 1e-9)

    @property
    def seconds_left(self) -> float | None:
        """None where nobody knows the end, or nothing has happened yet."""
        if self.total is None or not self.done:
            return None
        return max(0, self.total - self.done) / self.rate

    def stage(self, what: str, *, total: int | None = None) -> None:
        """Something else begins."""
        self.what, self.total, self.done = what, total, 0
        self._began = self._clock()
        self._shown_at = float("-inf")
        self._show()

    def step(self, count: int = 1) -> None:
        self.done += count
        if self._clock() - self._shown_at >= SHOW_EVERY_SECONDS:
            self._show()

    def end(self) -> None:
        """Leave the line clean for whoever writes next."""
        if self._visible:
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    def line(self) -> str:
        """What is shown: `rows 120,000 of 200,000 (60 %), 61,000/s, 1 s left`."""
        of_total = f" of {self.total:,} ({self.done / self.total:.0%})" if self.total else ""
        left = "" if self.seconds_left is None else f", {_time(self.seconds_left)} left"
        return f"{self.what} {self.done:,}{of_total}, {self.rate:,.0f}/s{left}"

    def _show(self) -> None:
        self._shown_at = self._clock()
        if self._visible:
            self._stream.write(f"\r\x1b[K{self.line()}")
            self._stream.flush()


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
