"""Workers that die when the test says so, and those who bury them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from app.system import System, build_system
from app.tasks.model import Claim, Outcome
from app.tasks.queue import TaskQueue
from app.tasks.runner import boot_clock
from config import Config
from tests.contract.parts import HANDLERS
from tests.contract.rows import Rows
from workers.burials import Burials
from workers.causes import Cause, CauseOfDeath
from workers.life import LifeFile

FAR = 3600.0
SEGFAULT = CauseOfDeath(Cause.SIGNAL, 11)


class Graveyard:
    """Workers whose process is this one until `dies`."""

    def __init__(self, system: System, folder: Path) -> None:
        self.system, self.folder = system, folder
        self.burials = Burials(system, folder)
        self._born = 0

    def worker(self, *, supervisor: int = 0) -> LifeFile:
        self._born += 1
        return LifeFile(self.folder, f"host:1:{self._born}", supervisor=supervisor)

    def take(self, life: LifeFile, count: int) -> list[Claim]:
        claims = self.system.store.claims.queued(holder=life.page.worker_id, limit=count, lease_seconds=FAR)
        assert len(claims) == count
        life.page.begin(claims, boot_clock())
        return claims

    def dies(self, life: LifeFile, cause: CauseOfDeath | None = None) -> None:
        """As when the kernel has taken the process, and its parent has said why."""
        if cause is not None:
            life.page.set_cause(cause)
        life.page.close()
        life._file.close()


def make_yard(rows: Rows, folder: Path, *, redis_url: str | None = None) -> Graveyard:
    config = Config.for_tests(
        DATABASE_URL=rows.url, VAR_DIR=str(folder), RQ_REDIS_URL=redis_url, RQ_ENABLED=redis_url is not None
    )
    made = build_system(config)
    made.store.routing.ensure(redis_percent=config.redis_percent)
    queue = TaskQueue(made.store, HANDLERS, made.tickets, made.settings)
    return Graveyard(replace(made, handlers=HANDLERS, queue=queue), folder / "locks")


def run(life: LifeFile, index: int, outcome: Outcome) -> None:
    assert life.page.start(index, boot_clock(), FAR)
    life.page.add(outcome)
