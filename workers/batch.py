"""A batch in work: which of its claims has started, what has come out, and where it may be cut short.

Shared by the worker's main thread, which runs it, and the heartbeat, which may cut it: one lock, held for a
few instructions. What it knows is in the worker's page, too, for those who watch from outside.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from app.tasks.model import Claim, Outcome, Released
from app.tasks.runner import LiveTask, boot_clock
from workers.page import Page, Running

ISOLATED_EXTRA_SECONDS = 30
SPARE_LIMIT = 20


class Batch:
    """Claims won together, under one token, run in their order."""

    def __init__(self, lives: Sequence[LiveTask], *, page: Page, lease_ends: float) -> None:
        """`lease_ends` is on the boot clock. The page shows the batch from here on."""
        self.lives = list(lives)
        self.token = lives[0].claim.token
        self.lease_ends = lease_ends
        self.began = boot_clock()
        self.page = page
        page.begin([live.claim for live in lives], self.began)
        self._lock = threading.Lock()
        self._next = 0
        self._limit = len(self.lives)
        self._outcomes: list[Outcome] = []
        self._running: LiveTask | None = None

    @property
    def running(self) -> LiveTask | None:
        return self._running

    def start_next(self, may_start: Callable[[Claim], bool] | None = None) -> LiveTask | None:
        """The next claim to run, published as started; None when none is left, the lease is over, or the
        next one may not start."""
        with self._lock:
            index, now = self._next, boot_clock()
            if index >= self._limit or (now >= self.lease_ends and now >= self._lease_from_outside()):
                return None
            live = self.lives[index]
            if may_start is not None and not may_start(live.claim):
                return None
            live.started = now  # before others see it run: they judge its time by this
            if not self.page.start(index, now, self._enforced_seconds(live)):
                return None
            self._next = index + 1
            self._running = live
        return live

    def add(self, outcome: Outcome) -> bool:
        """The running task's outcome. False: no more fits, and the batch must end."""
        with self._lock:
            self._running = None
            self._outcomes.append(outcome)
            return self.page.add(outcome)

    def forget_running(self) -> None:
        """The running claim was settled on its own."""
        with self._lock:
            self._running = None
            self.page.end()

    def cut(self) -> list[Outcome]:
        """Start nothing more: what has come out, and the unstarted rest as released."""
        with self._lock:
            rest = [live.claim for live in self.lives[self._next : self._limit]]
            self._limit = self._next
            self.page.cut()
            outcomes, self._outcomes = self._outcomes, []
        return [*outcomes, *(Released(claim) for claim in rest)]

    def is_cuttable(self) -> bool:
        """True if somebody waits for this batch: finished results, or claims that others could run."""
        return bool(self._outcomes) or self._next < self._limit

    def unstarted(self) -> list[Claim]:
        """The claims that may still start."""
        with self._lock:
            return [live.claim for live in self.lives[self._next : self._limit]]

    def claims(self) -> list[Claim]:
        """The claims that this process still holds."""
        with self._lock:
            held = [live.claim for live in self.lives[self._next : self._limit]]
            held += [outcome.claim for outcome in self._outcomes]
            if self._running is not None:
                held.append(self._running.claim)
            return held

    def kill_unless_over(self, live: LiveTask, at: float) -> None:
        """Have the parent kill this process at that time if the task is not over by then."""
        with self._lock:
            if self._running is live:
                index = self._next - 1
                running = Running(self.token, index, live.claim.task_id, live.started, 0)
                self.page.ask_to_kill(running, at)

    @staticmethod
    def _enforced_seconds(live: LiveTask) -> float:
        """What the pool's parent holds this process to; a run in its own process is ended before that."""
        return live.limit_seconds + ISOLATED_EXTRA_SECONDS if live.isolated else live.limit_seconds

    def _lease_from_outside(self) -> float:
        self.lease_ends = max(self.lease_ends, self.page.renewed_until(self.token))
        return self.lease_ends


class BatchSize:
    """How many claims to take: about 20 ms of expected work, by a moving estimate of what tasks take."""

    TARGET_SECONDS = 0.02
    WEIGHT = 0.2

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._seconds = self.TARGET_SECONDS  # one at a time until something is known

    def next(self) -> int:
        return max(1, min(self._limit, self._fitting()))

    def spare(self) -> int:
        """How many more would be worked off within the same time, one batch after the other: where a setting
        keeps batches small, their tickets may come together."""
        return max(0, min(SPARE_LIMIT, self._fitting()) - self.next())

    def _fitting(self) -> int:
        return int(self.TARGET_SECONDS / max(self._seconds, 1e-6))

    def learn(self, seconds: float, count: int) -> None:
        """`count` tasks took `seconds` together. Slow ones count at once, fast ones little by little."""
        if count == 0:
            return
        mean = seconds / count
        weight = 1.0 if mean > self._seconds * 4 else 1 - (1 - self.WEIGHT) ** count
        self._seconds += weight * (mean - self._seconds)
