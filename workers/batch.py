"""A batch in work: which of its claims has started, what has come out, and where it may be cut short.

Shared by the worker's main thread, which runs it, and the heartbeat, which may cut it: one lock, held for a
few instructions.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from app.tasks.model import Claim, Outcome, Released
from app.tasks.runner import LiveTask, boot_clock


class Batch:
    """Claims won together, run in their order."""

    def __init__(
        self,
        lives: Sequence[LiveTask],
        *,
        lease_ends: float,
        publish: Callable[[int], None] = lambda index: None,
    ) -> None:
        """`lease_ends` is on the boot clock; `publish(index)` announces a start before it happens."""
        self.lives = list(lives)
        self.lease_ends = lease_ends
        self.began = boot_clock()
        self._publish = publish
        self._lock = threading.Lock()
        self._next = 0
        self._limit = len(self.lives)
        self._outcomes: list[Outcome] = []
        self._running: LiveTask | None = None

    @property
    def running(self) -> LiveTask | None:
        return self._running

    def start_next(self) -> LiveTask | None:
        """The next claim to run, published as started; None when none is left, or the lease is over."""
        with self._lock:
            if self._next >= self._limit or boot_clock() >= self.lease_ends:
                self._running = None
                return None
            live = self.lives[self._next]
            self._publish(self._next)
            self._next += 1
            live.started = boot_clock()  # before others see it run: they judge its time by this
            self._running = live
        return live

    def add(self, outcome: Outcome) -> None:
        with self._lock:
            self._running = None
            self._outcomes.append(outcome)

    def forget_running(self) -> None:
        """The running claim was settled on its own."""
        with self._lock:
            self._running = None

    def take_outcomes(self) -> list[Outcome]:
        """What has come out and was not taken yet."""
        with self._lock:
            outcomes, self._outcomes = self._outcomes, []
            return outcomes

    def cut(self) -> list[Outcome]:
        """Start nothing more: what has come out, and the unstarted rest as released."""
        with self._lock:
            rest = [live.claim for live in self.lives[self._next : self._limit]]
            self._limit = self._next
            outcomes, self._outcomes = self._outcomes, []
        return [*outcomes, *(Released(claim) for claim in rest)]

    def is_cuttable(self) -> bool:
        """True if somebody waits for this batch: finished results, or claims that others could run."""
        return bool(self._outcomes) or self._next < self._limit

    def claims(self) -> list[Claim]:
        """The claims that this process still holds."""
        with self._lock:
            held = [live.claim for live in self.lives[self._next : self._limit]]
            held += [outcome.claim for outcome in self._outcomes]
            if self._running is not None:
                held.append(self._running.claim)
            return held


class BatchSize:
    """How many claims to take: about 20 ms of expected work, by a moving estimate of what tasks take."""

    TARGET_SECONDS = 0.02
    WEIGHT = 0.2
    ALONE_FOR = 50

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._seconds = self.TARGET_SECONDS  # one at a time until something is known
        self._alone = 0

    def next(self) -> int:
        if self._alone > 0:
            self._alone -= 1
            return 1
        return max(1, min(self._limit, int(self.TARGET_SECONDS / max(self._seconds, 1e-6))))

    def learn(self, seconds: float, count: int) -> None:
        """`count` tasks took `seconds` together. Slow ones count at once, fast ones little by little."""
        if count == 0:
            return
        mean = seconds / count
        weight = 1.0 if mean > self._seconds * 4 else 1 - (1 - self.WEIGHT) ** count
        self._seconds += weight * (mean - self._seconds)

    def stay_alone(self) -> None:
        """A task that must not run twice was seen: take its kind one at a time for a while."""
        self._alone = self.ALONE_FOR
