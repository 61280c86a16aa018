"""The pool: a small parent that starts workers and a sweeper, restarts the dead, and stops all in order.

The parent holds no connection and runs no task, so that forking it is safe and cheap. Children die with it
(PR_SET_PDEATHSIG), by whatever signal it goes.
"""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import structlog

from app.system import build_system
from app.tasks.handlers import load_handlers
from app.tasks.model import PRIORITIES, Priority, Track
from config import Config
from workers.sweeping import SweeperLoop
from workers.worker import Worker

PR_SET_PDEATHSIG = 1
RESTART_SECONDS = (0.1, 15.0)
HEALTHY_SECONDS = 10.0
TICK_SECONDS = 0.2

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a pool runs."""

    redis_workers: int
    pollers: int
    sweeper: bool = True
    priorities: Sequence[Priority] = PRIORITIES

    @classmethod
    def of(cls, config: Config, *, workers: int | None = None) -> Plan:
        """What the settings ask for: workers of the Redis track, pollers, or both."""
        count = config.RQ_WORKER_COUNT if workers is None else workers
        return cls(
            redis_workers=count if config.RQ_ENABLED else 0,
            pollers=count if config.pollers_enabled else 0,
        )


@dataclass(slots=True)
class _Slot:
    """One place in the pool: what runs there, and how its starts went."""

    name: str
    body: Callable[[], None]
    pid: int | None = None
    started: float = 0.0
    start_at: float = 0.0
    failures: int = field(default=0)


class Pool:
    """Runs until it is told to stop. Call `run` in a process that has no other threads."""

    def __init__(self, config: Config, plan: Plan) -> None:
        self._config = config
        self._plan = plan
        self._stopping = False
        self._slots = self._make_slots()

    def run(self) -> int:
        """Start all, keep them running, stop in order. Returns the exit code."""
        load_handlers(self._config.TASK_MODULES)  # once, before the forks: children start in milliseconds
        gc.freeze()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._ask_to_stop)
        log.info("pool.started", pid=os.getpid(), slots=[slot.name for slot in self._slots])
        while not self._stopping:
            self._start_due()
            self._reap()
            time.sleep(TICK_SECONDS)
        self._stop_all()
        log.info("pool.stopped", pid=os.getpid())
        return 0

    def _make_slots(self) -> list[_Slot]:
        counts = {Track.REDIS: self._plan.redis_workers, Track.DATABASE: self._plan.pollers}
        slots = [
            _Slot(f"{track}-{number}", partial(self._work, track))
            for track, count in counts.items()
            for number in range(1, count + 1)
        ]
        if self._plan.sweeper:
            slots.append(_Slot("sweeper", self._sweep))
        return slots

    def _work(self, track: Track) -> None:
        worker = Worker(build_system(self._config), track=track, priorities=self._plan.priorities)
        signal.signal(signal.SIGTERM, worker.stop)
        worker.run()

    def _sweep(self) -> None:
        loop = SweeperLoop(build_system(self._config))
        signal.signal(signal.SIGTERM, loop.stop)
        loop.run()

    def _ask_to_stop(self, *_: object) -> None:
        self._stopping = True

    def _start_due(self) -> None:
        now = time.monotonic()
        for slot in self._slots:
            if slot.pid is None and now >= slot.start_at:
                slot.started = now
                slot.pid = _fork(slot.body)

    def _reap(self) -> None:
        for slot in self._slots:
            if slot.pid is None:
                continue
            pid, status = os.waitpid(slot.pid, os.WNOHANG)
            if pid == 0:
                continue
            slot.pid = None
            self._plan_restart(slot, os.waitstatus_to_exitcode(status))

    def _plan_restart(self, slot: _Slot, code: int) -> None:
        lived = time.monotonic() - slot.started
        slot.failures = 0 if lived >= HEALTHY_SECONDS else slot.failures + 1
        first, longest = RESTART_SECONDS
        delay = min(longest, first * 2**slot.failures)
        slot.start_at = time.monotonic() + delay
        if not self._stopping:
            log.warning("worker.died", slot=slot.name, code=code, restart_seconds=round(delay, 1))

    def _stop_all(self) -> None:
        """Ask all to finish; after the time-out, end what is left. Its tasks are reclaimed."""
        self._signal_all(signal.SIGTERM)
        deadline = time.monotonic() + self._config.RQ_SHUTDOWN_TIMEOUT
        while any(slot.pid for slot in self._slots) and time.monotonic() < deadline:
            self._reap()
            time.sleep(0.02)
        if any(slot.pid for slot in self._slots):
            left = [slot.name for slot in self._slots if slot.pid]
            log.warning("pool.kills", slots=left, after_seconds=self._config.RQ_SHUTDOWN_TIMEOUT)
            self._signal_all(signal.SIGKILL)
            for slot in self._slots:
                if slot.pid:
                    os.waitpid(slot.pid, 0)
                    slot.pid = None

    def _signal_all(self, number: int) -> None:
        for slot in self._slots:
            if slot.pid:
                os.kill(slot.pid, number)


def _fork(body: Callable[[], None]) -> int:
    """Run `body` in a child that dies with this process. Returns the child's pid."""
    parent = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C is the parent's to hear
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
        die_with_parent(parent)
        body()
        code = 0
    except BaseException:
        log.exception("worker.crashed")
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent dies; at once if that has happened already."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
