"""The pool: a small parent that starts workers and a sweeper, holds them to their limits, replaces those that
end, and stops all in order.

The parent holds no connection and runs no task, so that forking it is safe and cheap. Children die with it
(PR_SET_PDEATHSIG), by whatever signal it goes.
"""

from __future__ import annotations

import gc
import os
import secrets
import select
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import structlog

from app.system import build_system
from app.tasks.handlers import load_handlers
from app.tasks.model import Track
from app.tasks.store.pools import DEFAULT
from config import Config
from workers.board import Board
from workers.causes import Cause, CauseOfDeath
from workers.dying import die_with_parent
from workers.enforcement import Limits
from workers.reloading import HEARD, Adopted, Replacing, become_new_program, has_terminal, new_code_works
from workers.slots import Slot
from workers.sweeping import NUDGE, SweeperProcess
from workers.visiting import STRICT, Visits
from workers.worker import Worker

TICK_SECONDS = 0.2
IDLE_TICK_SECONDS = 1.0
SWEEPER_STOP_SECONDS = 10.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a pool runs."""

    redis_workers: int
    pollers: int
    sweeper: bool = True
    visits: Visits = STRICT
    pool: str = DEFAULT

    @property
    def serves_pool(self) -> str | None:
        """The pool whose tasks its workers take; None: they serve the queues."""
        return None if self.pool == DEFAULT else self.pool

    @classmethod
    def of(
        cls,
        config: Config,
        *,
        workers: int | None = None,
        visits: Visits = STRICT,
        pool: str = DEFAULT,
    ) -> Plan:
        """What the settings ask for: workers of the Redis track, pollers, or both; of a pool so many workers
        as are asked for, whatever the tracks."""
        count = config.RQ_WORKER_COUNT if workers is None else workers
        if pool != DEFAULT:
            return cls(redis_workers=0, pollers=count, pool=pool)
        return cls(
            redis_workers=count if config.RQ_ENABLED else 0,
            pollers=count if config.pollers_enabled else 0,
            visits=visits,
            pool=pool,
        )


class Pool:
    """Runs until it is told to stop. Call `run` in a process that has no other threads."""

    def __init__(self, config: Config, plan: Plan, *, adopted: Sequence[Adopted] = ()) -> None:
        """`adopted`: children of the program that this process was before, to be replaced."""
        self._config = config
        self._plan = plan
        self._limits = Limits.of(config)
        self._folder = config.VAR_DIR / "locks"
        self._pid = os.getpid()
        self._stopping = False
        self._workers = self._make_workers()
        self._sweepers = []
        if plan.sweeper:
            self._sweepers.append(Slot("sweeper", self._sweep, self._folder, self._limits, is_worker=False))
        self._slots = [*self._workers, *self._sweepers]
        self._reload_asked = False
        self._had_terminal = has_terminal()
        self._board = Board(config.VAR_DIR / "pools", plan.pool)
        self._replacing = Replacing(self._adopt(adopted), config.RQ_SHUTDOWN_TIMEOUT)

    def run(self) -> int:
        """Start all, keep them running, stop in order. Returns the exit code."""
        load_handlers(self._config.TASK_MODULES)  # once, before the forks: children start in milliseconds
        gc.freeze()
        self._listen()
        log.info("pool.started", pid=self._pid, slots=[slot.name for slot in self._slots])
        while not self._stopping:
            self._start_due()
            self._look_after()
            if self._replacing.step():
                for slot in self._sweepers:
                    slot.ask_to_leave("new code")
            self._board.show(self._replacing.state, self._slots)
            if self._reload_asked:
                self._reload()
            self._wait(TICK_SECONDS if self._is_busy() else IDLE_TICK_SECONDS)
        self._board.show("stopping", self._slots)
        self._stop_all()
        self._board.remove()
        log.info("pool.stopped", pid=self._pid)
        return 0

    def _make_workers(self) -> list[Slot]:
        counts = {Track.REDIS: self._plan.redis_workers, Track.DATABASE: self._plan.pollers}
        return [
            Slot(
                f"{track}-{number}",
                partial(self._work, track),
                self._folder,
                self._limits,
            )
            for track, count in counts.items()
            for number in range(1, count + 1)
        ]

    def _work(self, track: Track, mark: str) -> int:
        worker = Worker(
            build_system(self._config),
            track=track,
            visits=self._plan.visits,
            mark=mark,
            supervisor=self._pid,
            pool=self._plan.serves_pool,
        )
        signal.signal(signal.SIGTERM, worker.stop)
        signal.signal(NUDGE, signal.SIG_DFL)
        return worker.run()

    def _sweep(self, mark: str) -> int:
        return SweeperProcess(build_system(self._config), supervisor=self._pid).run()

    # --- signals --------------------------------------------------------------------------------------

    def _listen(self) -> None:
        """Hear signals, the death of a child among them, in `_wait`."""
        self._ear, mouth = os.pipe()
        for end in (self._ear, mouth):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(mouth, warn_on_full_buffer=False)
        signal.signal(NUDGE, signal.SIG_IGN)  # for a sweeper that is not yet listening
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask_to_stop)
        signal.signal(signal.SIGHUP, self._ask_to_reload)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HEARD)

    def _wait(self, seconds: float) -> None:
        """Until a signal comes, at most `seconds`."""
        if select.select([self._ear], [], [], seconds)[0]:
            os.read(self._ear, 4096)

    def _ask_to_stop(self, *_: object) -> None:
        self._stopping = True

    def _ask_to_reload(self, *_: object) -> None:
        self._reload_asked = True

    # --- new code ---------------------------------------------------------------------------------------

    def _reload(self) -> None:
        """SIGHUP: go on as the new program, if that can work. A terminal that was closed means the end."""
        self._reload_asked = False
        if self._had_terminal and not has_terminal():
            self._stopping = True
        elif new_code_works():
            log.info("pool.reloads", pid=self._pid)
            become_new_program(self._slots)

    def _adopt(self, adopted: Sequence[Adopted]) -> list[Slot]:
        """Put the old program's children into their slots, or into ones that end with them."""
        by_name = {slot.name: slot for slot in self._slots}
        for one in adopted:
            slot = by_name.get(one.name)
            if slot is None:
                slot = Slot(one.name, lambda mark: 0, self._folder, self._limits, one_time=True)
                self._workers.append(slot)
                self._slots.append(slot)
            slot.adopt(one.pid, one.worker_id, one.starts)
        return [slot for slot in self._workers if slot.pid]

    # --- a turn of the loop -----------------------------------------------------------------------------

    def _start_due(self) -> None:
        for slot in self._slots:
            if slot.is_due:
                mark = secrets.token_hex(4)
                slot.began(_fork(partial(slot.body, mark)), mark)

    def _look_after(self) -> None:
        self._reap(self._slots)
        for slot in self._workers:
            watch = slot.open_page()
            if watch is None:
                continue
            if watch.time_is_up():
                os.kill(watch.pid, signal.SIGALRM)
            cause = watch.reason_to_kill()
            if cause is not None:
                slot.kill(cause)
            elif (reason := watch.reason_to_recycle()) is not None:
                slot.ask_to_leave(reason)

    def _is_busy(self) -> bool:
        """True if there is something to look at soon: a task in work, or a worker that is coming or going."""
        return any(
            slot.watch is None or slot.leaving or slot.watch.page.running() is not None
            for slot in self._workers
        )

    def _reap(self, slots: Iterable[Slot]) -> None:
        """Take note of who has ended, and have the keeper bury them at once."""
        ended = [slot for slot in slots if slot.reap()]
        if ended:
            self._signal(self._sweepers, NUDGE)

    # --- the end ----------------------------------------------------------------------------------------

    def _stop_all(self) -> None:
        """Ask the workers to finish, and end what is left after the time-out. The sweeper buries them."""
        seconds = self._config.RQ_SHUTDOWN_TIMEOUT
        self._end(self._workers, seconds)
        self._end(self._sweepers, SWEEPER_STOP_SECONDS)

    def _end(self, slots: Sequence[Slot], seconds: float) -> None:
        for slot in slots:
            slot.leaving = slot.leaving or "stop"
        self._signal(slots, signal.SIGTERM)
        deadline = time.monotonic() + seconds
        while any(slot.pid for slot in slots):
            self._reap(slots)
            left = deadline - time.monotonic()
            if left <= 0:
                for slot in slots:
                    slot.kill(CauseOfDeath(Cause.STOP, round(seconds)))
            self._wait(min(TICK_SECONDS, max(left, 0.01)))

    def _signal(self, slots: Iterable[Slot], number: int) -> None:
        for slot in slots:
            if slot.pid:
                os.kill(slot.pid, number)


def _fork(body: Callable[[], int]) -> int:
    """Run `body` in a child that dies with this process. Returns the child's pid."""
    parent = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C is the parent's to hear
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
        die_with_parent(parent)
        code = body()
    except BaseException:
        log.exception("worker.crashed")
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
