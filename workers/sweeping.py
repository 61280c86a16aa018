"""The sweeper's process: this pool's keeper, and beside it the sweeper, active while it holds the lock."""

from __future__ import annotations

import os
import select
import signal
import threading

import structlog

from app.system import System
from app.tasks.errors import TaskError
from app.tasks.healing import Sweeper
from workers.keeper import Keeper
from workers.life import LifeFile, deaths, new_worker_id

STEP_SECONDS = 1.0
HURRIED_SECONDS = 0.1
STANDBY_SECONDS = 3.0
NUDGED_SECONDS = 0.05
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
        self._keeper.step()
        self._sweeper.stop()
        thread.join()
        self._system.close()
        return 0 if self._stopping else 1

    def _stop(self, *_: object) -> None:
        self._stopping = True


class SweeperLoop:
    """One step a second while it holds the lock, a look now and then while it does not."""

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

    def stop(self) -> None:
        self._stop.set()

    def run(self) -> None:
        """Sweep until `stop`. An outage of the database is waited for."""
        life = LifeFile(self._locks, self._holder)
        pause = 0.0
        while not self._stop.wait(pause):
            pause = STEP_SECONDS
            try:
                healed = self._sweeper.step()
                if healed is None:
                    pause = STANDBY_SECONDS
                else:
                    pause = HURRIED_SECONDS if healed.hurry else STEP_SECONDS
            except TaskError as error:
                log.warning("sweeper.waits", reason=str(error))
        try:
            self._sweeper.leave()
        except TaskError:
            log.info("sweeper.lock_left", reason="the database is away")
        else:
            life.release()
