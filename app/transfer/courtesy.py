"""Courtesy: a move that holds itself back so far that submissions beside it hardly feel it.

A probe asks of the servers what a submission asks, many times a second: it holds the routing, writes a row,
commits, and has Redis answer. Those that no batch touched are the measure: of right now, so that load that is
not ours costs nothing. While all probes together are slower than that by more than is allowed, the move works
for a smaller share of the time, and else for a larger one.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Self

from app.tasks.errors import TaskError

EVERY_SECONDS = 0.1  # each probe is a transaction: three times as many were felt more than the moves
FIRST_PROBES = 30  # before anything moves
REMEMBERED_PROBES = 150
LOOK_SECONDS = 0.5
FRESH_PROBES = 10  # by which a share is changed
FIRST_SHARE = 0.05
SMALLEST_SHARE = 0.03  # what so few submissions meet is hardly in a p95
LARGER, SMALLER = 1.1, 0.7


class Courtesy:
    """`probe` raises `TaskError` where it cannot ask; without a `rise_percent` nothing is held back.

    Within the context the probe is sent by a thread of its own.
    """

    def __init__(
        self,
        probe: Callable[[], object],
        *,
        rise_percent: float | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._probe = probe
        self._rise_percent = rise_percent
        self._clock = clock
        self._alone: deque[float] = deque(maxlen=REMEMBERED_PROBES)
        self._all: deque[float] = deque(maxlen=REMEMBERED_PROBES)
        self._fresh = 0
        self._next_look = self._free_at = clock()
        self._at_work = self._works = 0
        self._changing = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask_on, name="courtesy", daemon=True)
        self.share = 1.0 if rise_percent is None else FIRST_SHARE

    def __enter__(self) -> Self:
        if self._rise_percent is not None:
            for _ in range(FIRST_PROBES):
                self.ask()
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    # --- the move -----------------------------------------------------------------------------------

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """A batch is on its way; the next one then waits as the share says."""
        began = self._clock()
        with self._changing:
            self._at_work += 1
            self._works += 1
        try:
            yield
        finally:
            with self._changing:
                self._at_work -= 1
                now = self._clock()
                rest = (now - began) * (1 / self.share - 1)
                self._free_at = max(self._free_at, now) + rest

    @property
    def wait_seconds(self) -> float:
        """How long the next batch has to wait still; as long as one is on its way, nobody knows."""
        if self._rise_percent is None:
            return 0.0
        self._look()
        if self._at_work and self.share < 1:
            return EVERY_SECONDS
        return max(0.0, self._free_at - self._clock())

    @property
    def reason(self) -> str | None:
        """For operators; None where nothing is held back."""
        if self.share >= 1 or not self._alone:
            return None
        now, alone = (_p95(each) * 1000 for each in (self._all, self._alone))
        return f"moving for {self.share:.0%} of the time: p95 of a submission {now:.1f} ms, alone {alone:.1f}"

    # --- the probe ----------------------------------------------------------------------------------

    def ask(self) -> None:
        """Send a probe and note what it took."""
        began, works, beside = self._clock(), self._works, self._at_work
        with suppress(TaskError):  # whoever moves meets the same error, and says so
            self._probe()
            seconds = self._clock() - began
            self._all.append(seconds)
            if not beside and works == self._works:
                self._alone.append(seconds)
            self._fresh += 1

    def _ask_on(self) -> None:
        while not self._over.wait(EVERY_SECONDS):
            self.ask()

    def _look(self) -> None:
        """Let the share follow what was measured."""
        if self._clock() < self._next_look or self._fresh < FRESH_PROBES or not self._alone:
            return
        self._next_look, self._fresh = self._clock() + LOOK_SECONDS, 0
        felt = _p95(self._all) > _p95(self._alone) * (1 + (self._rise_percent or 0) / 100)
        self.share = max(SMALLEST_SHARE, min(1.0, self.share * (SMALLER if felt else LARGER)))


def _p95(values: Collection[float]) -> float:
    known = sorted(values)
    return known[min(len(known) - 1, round(len(known) * 0.95))]
