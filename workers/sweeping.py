"""The sweeper's process: one step a second while it holds the lock, a look now and then while it does not."""

from __future__ import annotations

import threading

import structlog

from app.system import System
from app.tasks.errors import TaskError
from app.tasks.healing import Sweeper
from workers.life import LifeFile, deaths, new_worker_id, sweep_files

STEP_SECONDS = 1.0
HURRIED_SECONDS = 0.1
STANDBY_SECONDS = 3.0
LOCK_FILES = 100

log = structlog.get_logger(__name__)


class SweeperLoop:
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

    def stop(self, *_: object) -> None:
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
                    self._forget_dead_locks()
            except TaskError as error:
                log.warning("sweeper.waits", reason=str(error))
        try:
            self._sweeper.leave()
        except TaskError:
            log.info("sweeper.lock_left", reason="the database is away")
        else:
            life.release()
        self._system.close()

    def _forget_dead_locks(self) -> None:
        if len(list(self._locks.glob("*.life"))) > LOCK_FILES:
            sweep_files(self._locks, keep=self._system.store.moves.holders())
