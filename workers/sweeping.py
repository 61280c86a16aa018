"""The sweeper's process: this pool's keeper, and beside it the sweeper, active while it holds the lock."""

from __future__ import annotations

import os
import select
import signal
import threading
import time

import structlog

from app.system import System
from app.tasks.errors import TaskError
from app.tasks.healing import Sweeper
from app.tasks.pacing import ACTIVE_SECONDS
from app.tasks.store.notices import Topic
from workers.keeper import Keeper
from workers.life import LifeFile, deaths, new_worker_id
from workers.waiting import Waiting

NUDGED_SECONDS = 0.05
GATHER_SECONDS = 0.1
LAST_BURIALS_SECONDS = 5.0  # below what the pool's parent gives us
NUDGE = signal.SIGUSR1  # from the pool's parent: a worker has died

log = structlog.get_logger(__name__)


class SweeperProcess:
    """Call `run` in the main thread of its own process: it hears the parent's signals."""

    def __init__(self, system: System, *, supervisor: int) -> None:
        self._system = system
        self._keeper = Keeper(system, supervisor=supervisor)
        self._sweeper = SweeperLoop(system)
        self._stopping = False

    def run(self) -> int:
        """Work until SIGTERM; then bury once more, so that a stopped pool leaves nothing behind.

        Returns the exit code: 1 if the sweeper broke.
        """
        ear, mouth = os.pipe()
        for end in (ear, mouth):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(mouth, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(NUDGE, lambda *_: None)
        thread = threading.Thread(target=self._sweeper.run, name="sweeper", daemon=True)
        thread.start()
        nudged = False
        while not self._stopping and thread.is_alive():
            self._keeper.step()
            # a dead worker's own children take a moment to follow it, and hold its proof of life until then
            seconds = NUDGED_SECONDS if nudged else self._keeper.step_seconds
            nudged = bool(select.select([ear], [], [], seconds)[0])
            if nudged:
                os.read(ear, 4096)
        self._bury_last()
        self._sweeper.stop()
        thread.join()
        self._system.close()
        return 0 if self._stopping else 1

    def _bury_last(self) -> None:
        deadline = time.monotonic() + LAST_BURIALS_SECONDS
        self._keeper.step()
        while self._keeper.owes_burials and time.monotonic() < deadline:
            time.sleep(NUDGED_SECONDS)
            self._keeper.step()

    def _stop(self, *_: object) -> None:
        self._stopping = True


class SweeperLoop:
    """Step after step while it holds the lock, as far apart as the sweeper says; else a look now and then."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._stop = threading.Event()
        self._locks = system.config.VAR_DIR / "locks"
        self._holder = new_worker_id()
        self._sweeper = Sweeper(
            system.queue,
            holder=self._holder,
            dead_holders=lambda holders: deaths(self._locks, holders),
        )
        self._waiting = Waiting(
            system,
            topic=Topic.DUE,
            bells=lambda bells: [bells.due],
            stop=self._stop,
            longest_seconds=self._sweeper.pulse_seconds,
        )

    def stop(self) -> None:
        self._stop.set()
        self._system.queue.waking.due()  # heard by ourselves

    def run(self) -> None:
        """Sweep until `stop`. An outage of the database is waited for."""
        life = LifeFile(self._locks, self._holder)
        while not self._stop.is_set():
            active = True
            try:
                active = self._sweeper.step() is not None
            except TaskError as error:
                log.warning("sweeper.waits", reason=str(error))
            self._rest(self._sweeper.pause_seconds, active=active)
        self._waiting.close()
        try:
            self._sweeper.leave()
        except TaskError:
            log.info("sweeper.lock_left", reason="the database is away")
        else:
            life.release()

    def _rest(self, seconds: float, *, active: bool) -> None:
        """Until the next step is due, or somebody rings for it: the bell is the active sweeper's. A Redis
        that goes away is noticed, whoever is active."""
        wakes = time.monotonic() + seconds
        self._waiting.prepare()
        while not self._stop.is_set() and (left := wakes - time.monotonic()) > 0:
            if not active:
                self._feel_pulse(left)
            elif self._waiting.wait(left) is not None:
                self._stop.wait(GATHER_SECONDS)  # what is announced together is looked at together
                return
            elif self._waiting.is_blind:
                wakes = min(wakes, time.monotonic() + ACTIVE_SECONDS)

    def _feel_pulse(self, left: float) -> None:
        self._stop.wait(min(left, self._sweeper.pulse_seconds))
        tickets = self._system.tickets
        if tickets is not None and tickets.health.worth_a_try:
            tickets.ping()
