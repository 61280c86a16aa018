"""The child process in which an RQ worker has its tickets worked: one of our own workers, with two manners.

It leaves when a job of another program heads a queue, so that its parent runs that one in turn; and, if it is
told so, when nothing is left.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Sequence
from contextlib import suppress

import structlog

from app.logs import configure_logging
from app.system import System, build_system
from app.tasks.model import Priority, Track
from config import Config
from workers.dying import die_with_parent
from workers.slots import EXIT_RECYCLED
from workers.visiting import Visits
from workers.worker import Worker

EXIT_FOREIGN = 77  # left because a job of another program is next
ORDERLY = frozenset({0, EXIT_FOREIGN, EXIT_RECYCLED})
WAIT_SECONDS = 0.05

log = structlog.get_logger(__name__)


class TicketHorse:
    """A running child. `done` is known once it has ended: how many tasks it worked."""

    def __init__(
        self, config: Config, priorities: Sequence[Priority], *, name: str, until_empty: bool
    ) -> None:
        """Start it. Its work is shown as that of the RQ worker `name`."""
        self.done = 0
        self._mouth, ear = os.pipe()
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._mouth)
            _run(config, priorities, name=name, until_empty=until_empty, parent=parent, ear=ear)
        os.close(ear)

    def wait(self, seconds: float | None) -> int | None:
        """Its exit code once it has ended; None if it still runs after `seconds`."""
        ends = None if seconds is None else time.monotonic() + seconds
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._hear()
                return os.waitstatus_to_exitcode(status)
            left = 1.0 if ends is None else ends - time.monotonic()
            if left <= 0:
                return None
            select.select([self._mouth], [], [], min(left, 1.0))
            if self._is_silent():
                time.sleep(WAIT_SECONDS)  # it is about to end, or a child of a handler's holds the pipe

    def stop(self) -> None:
        """Ask it to finish what runs and leave."""
        os.kill(self.pid, signal.SIGTERM)

    def _is_silent(self) -> bool:
        return bool(select.select([self._mouth], [], [], 0)[0])

    def _hear(self) -> None:
        os.set_blocking(self._mouth, False)
        with suppress(BlockingIOError):
            self.done = int(os.read(self._mouth, 32) or 0)
        os.close(self._mouth)


class _HorseWorker(Worker):
    """Leaves when a job of another program that may run is next, and with `until_empty` instead of idling."""

    def __init__(
        self, system: System, *, priorities: Sequence[Priority], name: str, until_empty: bool
    ) -> None:
        self._until_empty = until_empty
        self.met_foreign = False
        super().__init__(system, track=Track.REDIS, visits=Visits(tuple(priorities)))
        if system.tickets is not None:
            system.tickets.workers.work_for(self.worker_id, name)

    @property
    def done(self) -> int:
        return self._heartbeat.done

    def _meet_foreign(self) -> None:
        self.met_foreign = True
        self.stop()

    def _idle(self, *, briefly: bool = False) -> None:
        if not self._until_empty:
            super()._idle(briefly=briefly)
            return
        if self._redis is not None:
            self._redis.flush()
        self.stop()


def _run(
    config: Config, priorities: Sequence[Priority], *, name: str, until_empty: bool, parent: int, ear: int
) -> None:
    """The child's whole life."""
    code = 1
    try:
        os.setpgrp()
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # the parent's to hear
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
        die_with_parent(parent)
        configure_logging(config.LOG_LEVEL, json=config.LOG_JSON)
        worker = _HorseWorker(build_system(config), priorities=priorities, name=name, until_empty=until_empty)
        signal.signal(signal.SIGTERM, worker.stop)
        code = worker.run()
        os.write(ear, str(worker.done).encode())
        code = EXIT_FOREIGN if worker.met_foreign else code
    except BaseException:
        log.exception("worker.crashed")
    finally:
        os._exit(code)
