"""Enforcement: what the pool's parent does to a worker from outside, by what its page and the kernel say.

It holds no connection and asks nobody. A worker is killed for its task's time limit, for a cancel that it
does not heed, or for its memory; it is asked to leave between two batches for its memory or its age.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from app.tasks.runner import boot_clock
from config import Config
from workers.causes import Cause, CauseOfDeath
from workers.page import Page, Running

HARD_MEMORY = 1.5  # times the soft limit: what a task in work may use before it is killed
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds and megabytes; 0 means no limit."""

    kill_grace_seconds: float
    memory_mb: int = 0
    age_seconds: float = 0

    @property
    def hard_memory_mb(self) -> int:
        return round(self.memory_mb * HARD_MEMORY)

    @classmethod
    def of(cls, config: Config) -> Limits:
        return cls(config.RQ_KILL_GRACE, config.RQ_WORKER_MEMORY_MB, config.RQ_WORKER_MAX_AGE)


class Watch:
    """The eye on one worker process."""

    def __init__(self, pid: int, page: Page, limits: Limits) -> None:
        self.pid = pid
        self.page = page
        self._limits = limits
        self._born = boot_clock()
        self._overdue: Running | None = None
        self._told: Running | None = None

    def reason_to_kill(self) -> CauseOfDeath | None:
        """Why this worker must die now; None: it need not."""
        now, running = boot_clock(), self.page.running()
        if running is None:
            return None
        kill_at = self.page.kill_at(running)
        if kill_at is not None and now >= kill_at:
            return CauseOfDeath(Cause.CANCEL)
        if self._is_overdue(running, now):
            return CauseOfDeath(Cause.TIME_LIMIT, round(running.limit_seconds))
        hard = self._limits.hard_memory_mb
        if hard and memory_mb(self.pid) > hard:
            return CauseOfDeath(Cause.MEMORY, hard)
        return None

    def time_is_up(self) -> bool:
        """True once for a task that is over its limit: its worker is to be told, with SIGALRM.

        The worker's own heartbeat does it as well, but not while C code keeps the interpreter.
        """
        running = self.page.running()
        if running is None or boot_clock() < running.since + running.limit_seconds or self._told == running:
            return False
        self._told = running
        return True

    def reason_to_recycle(self) -> str | None:
        """Why this worker should leave after its batch; None: it should not."""
        limits = self._limits
        if limits.age_seconds and boot_clock() - self._born >= limits.age_seconds:
            return "age"
        if limits.memory_mb and memory_mb(self.pid) > limits.memory_mb:
            return "memory"
        return None

    def _is_overdue(self, running: Running, now: float) -> bool:
        """Seen over its limit and grace twice in a row: the first look may have fallen between two writes."""
        over = now >= running.since + running.limit_seconds + self._limits.kill_grace_seconds
        before, self._overdue = self._overdue, running if over else None
        return over and before == running


def memory_mb(pid: int) -> float:
    """What the process has in memory for itself alone; 0 if it is gone."""
    try:
        _, resident, shared, *_ = Path(f"/proc/{pid}/statm").read_text().split()
    except (OSError, ValueError):
        return 0.0
    return (int(resident) - int(shared)) * _PAGE_BYTES / 2**20
