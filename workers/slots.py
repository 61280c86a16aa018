"""A slot of the pool: what runs in one place, how its starts went, and when it may start again."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from workers.causes import CauseOfDeath
from workers.enforcement import Limits, Watch
from workers.life import life_path, worker_id_of
from workers.page import Page

RESTART_SECONDS = (0.1, 15.0)
LONGEST_FOR_A_TASK = 1.0  # a task that kills its worker must not keep the others from theirs
HEALTHY_SECONDS = 10.0
QUICK_DEATHS = 8
DOWN_SECONDS = 300.0
EXIT_RECYCLED = 76  # a worker that left because it had done its share

log = structlog.get_logger(__name__)

Body = Callable[[str], int]


@dataclass(slots=True)
class Slot:
    """One place in the pool. `body` gets the worker's mark and returns its exit code."""

    name: str
    body: Body
    folder: Path  # of the life files
    limits: Limits
    is_worker: bool = True
    one_time: bool = False  # not started again
    pid: int | None = None
    worker_id: str = ""
    watch: Watch | None = None
    started: float = 0.0
    ended_at: float = 0.0
    start_at: float = 0.0
    starts: int = 0
    failures: int = 0  # quick deaths in a row
    leaving: str = ""  # why it was asked to leave
    last_end: str = ""
    _killed: bool = field(default=False)

    @property
    def is_due(self) -> bool:
        return self.pid is None and not self.one_time and time.monotonic() >= self.start_at

    @property
    def is_down(self) -> bool:
        """True while it stays down after too many quick deaths."""
        return self.pid is None and self.failures >= QUICK_DEATHS

    def began(self, pid: int, mark: str) -> None:
        self.adopt(pid, worker_id_of(pid, mark), self.starts + 1)

    def adopt(self, pid: int, worker_id: str, starts: int) -> None:
        """A child that runs already."""
        self.pid, self.worker_id, self.starts = pid, worker_id, starts
        self.watch, self.leaving, self._killed = None, "", False
        self.started = time.monotonic()

    def open_page(self) -> Watch | None:
        """The eye on this worker, once it has made its page."""
        if self.watch is None and self.pid is not None and self.is_worker:
            page = Page.of_file(life_path(self.folder, self.worker_id))
            if page is not None:
                self.watch = Watch(self.pid, page, self.limits)
        return self.watch

    def ask_to_leave(self, reason: str) -> None:
        """The worker finishes its batch and ends; once."""
        if self.pid is not None and not self.leaving:
            self.leaving = reason
            log.info("worker.recycled", slot=self.name, worker=self.worker_id, reason=reason)
            os.kill(self.pid, signal.SIGTERM)

    def kill(self, cause: CauseOfDeath) -> None:
        """End the process at once; its page says why before it can be found dead."""
        if self.pid is None or self._killed:
            return
        self._killed = True
        if self.watch is not None:
            self.watch.page.set_cause(cause)
        log.warning("worker.killed", slot=self.name, worker=self.worker_id, reason=cause.sentence())
        os.kill(self.pid, signal.SIGKILL)

    def reap(self) -> bool:
        """True if the process had ended: its page says of what, and the slot knows when to start again."""
        if self.pid is None:
            return False
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid == 0:
            return False
        self._ended(os.waitstatus_to_exitcode(status))
        return True

    def _ended(self, code: int) -> None:
        in_a_task = False
        if self.open_page() is not None and self.watch is not None:  # it may have been quick to die
            in_a_task = self.watch.page.running() is not None
            self.watch.page.set_cause(CauseOfDeath.of_exit(code))
            self.watch.page.close()
        wanted = self._killed or code == EXIT_RECYCLED or (code == 0 and self._left_in_good_time())
        delay = 0.0 if wanted else self._delay_after_death(in_a_task=in_a_task)
        self.last_end = self.leaving or CauseOfDeath.of_exit(code).sentence()
        self.pid, self.watch = None, None
        self.ended_at = time.monotonic()
        self.start_at = self.ended_at + delay
        if wanted:
            return
        say = log.error if self.is_down else log.warning
        say("worker.died", slot=self.name, code=code, restart_seconds=round(delay, 1), quick=self.failures)

    def _left_in_good_time(self) -> bool:
        """It was asked to leave. One that is too large from the start would be so again and again."""
        too_soon = self.leaving == "memory" and time.monotonic() - self.started < HEALTHY_SECONDS
        return bool(self.leaving) and not too_soon

    def _delay_after_death(self, *, in_a_task: bool) -> float:
        """Doubles with each quick death; after too many, which no task is to blame for, a long pause."""
        first, longest = RESTART_SECONDS
        if time.monotonic() - self.started >= HEALTHY_SECONDS:
            self.failures = 0
        if in_a_task:
            return min(LONGEST_FOR_A_TASK, first * 2.0**self.failures)
        self.failures += 1
        if self.failures >= QUICK_DEATHS:
            return DOWN_SECONDS
        return min(longest, first * 2.0**self.failures)
