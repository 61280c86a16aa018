"""The keeper: looks after the workers of its pool and the dead of its host, by their pages, from outside.

It works whether or not its process is the active sweeper: what is local can only be done here.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import structlog

from app.system import System
from app.tasks.errors import TaskError
from app.tasks.model import Claim, Released
from app.tasks.runner import boot_clock
from workers.burials import Burials
from workers.life import kernel_stat, life_files
from workers.page import Holding, Page

STEP_SECONDS = 1.0
SILENT_SECONDS = 1.0
BETWEEN_BATCHES_SECONDS = 15.0  # then the heartbeat beats more slowly
HANDSHAKE_SECONDS = 0.005

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Name:
    """One task of a batch, as a renewal names it."""

    task_id: int
    token: int


class Keeper:
    """One per pool. `supervisor` is the pid of the pool's parent: its workers are ours to renew."""

    def __init__(self, system: System, *, supervisor: int) -> None:
        self._system = system
        self._supervisor = supervisor
        self._folder = system.config.VAR_DIR / "locks"
        self._burials = Burials(system, self._folder)
        self._pages: dict[Path, Page] = {}
        self._renewed: dict[int, float] = {}  # when, by token

    @property
    def step_seconds(self) -> float:
        """How long to wait between two steps: leases are renewed in time."""
        return min(STEP_SECONDS, self._system.settings.lease_seconds / 6)

    def step(self) -> None:
        """Bury the dead, renew what the living hold, cut the batches of those who cannot do it themselves.

        An outage of the database is waited for.
        """
        for work in (self._burials.bury_all, self._renew, self._cut_silent):
            try:
                work()
            except TaskError as error:
                log.warning("keeper.waits", reason=str(error))

    @property
    def owes_burials(self) -> bool:
        """True while a worker of our pool is gone and what it held is not on its way: children of its own may
        hold its proof of life for a moment longer."""
        return any(page.supervisor == self._supervisor and _is_gone(page) for page in self._all_pages())

    def _workers(self) -> Iterator[Page]:
        """The pages of our pool's living workers."""
        for page in self._all_pages():
            if page.supervisor == self._supervisor and page.cause is None:
                yield page

    def _all_pages(self) -> list[Page]:
        paths = life_files(self._folder)
        for path in [path for path in self._pages if path not in paths]:
            self._pages.pop(path).close()
        for path in paths:
            if path not in self._pages and (page := Page.of_file(path)) is not None:
                self._pages[path] = page
        return list(self._pages.values())

    # --- leases ---------------------------------------------------------------------------------------

    def _renew(self) -> None:
        """One statement for the whole pool, about every third of a lease: it names what the pages hold."""
        now, lease = boot_clock(), self._system.settings.lease_seconds
        due = [
            (page, held)
            for page in self._workers()
            if (held := page.holding()) is not None
            and now - max(held.began, self._renewed.get(held.token, 0.0)) >= lease / 3 - self.step_seconds / 2
            and _may_be_renewed(page, now, lease)
        ]
        if not due:
            return
        names = [_Name(task_id, held.token) for _, held in due for task_id in _still_held(held)]
        kept = self._system.store.claims.renew(names, lease_seconds=lease)
        for page, held in due:
            # the deadline is what a start obeys: one that was lost must not start by it
            if all((task_id, held.token) in kept for task_id in held.task_ids[held.started : held.limit]):
                page.renewed(held.token, now + lease)
        self._renewed = {held.token: now for _, held in due} | {
            token: at for token, at in self._renewed.items() if now - at < lease
        }

    # --- batches --------------------------------------------------------------------------------------

    def _cut_silent(self) -> None:
        """Give back what waits behind a task whose C code keeps the interpreter, and the heartbeat, still."""
        for page in self._workers():
            running, now = page.running(), boot_clock()
            if running is None or now - max(page.last_beat, running.since) < SILENT_SECONDS:
                continue
            held = page.holding()
            if held is not None and held.started < held.limit:
                self._cut(page)
            self._look_for_cancel(page)

    def _cut(self, page: Page) -> None:
        cut = page.cut(lambda: time.sleep(HANDSHAKE_SECONDS))
        if cut is None:
            return
        claims = self._system.store.claims.of_token(cut.token, cut.track)
        unstarted = set(cut.task_ids[cut.started :])
        released: list[Claim] = [claim for claim in claims if claim.task_id in unstarted]
        settled = self._system.store.settlements.settle([Released(claim) for claim in released])
        self._system.queue.push_moved(settled.moves, front=True)
        log.warning("batch.cut_from_outside", worker=page.worker_id, released=len(released))

    def _look_for_cancel(self, page: Page) -> None:
        """A worker whose heartbeat is silent cannot see that its task is to be cancelled."""
        running = page.running()
        if running is None or page.kill_at(running) is not None:
            return
        wishes = self._system.store.claims.wishes([_Name(running.task_id, running.token)])
        if wishes.get(running.task_id):
            page.ask_to_kill(running, boot_clock() + self._system.config.RQ_KILL_GRACE)


def _still_held(held: Holding) -> tuple[int, ...]:
    return held.task_ids[: max(held.started, held.limit)]


def _is_gone(page: Page) -> bool:
    return "".join(kernel_stat(page.pid)[:1]) in ("Z", "X", "")


def _may_be_renewed(page: Page, now: float, lease: float) -> bool:
    """Not a worker that is stopped, nor one that neither runs a task nor gives a sign of life."""
    state = "".join(kernel_stat(page.pid)[:1])
    if state in ("T", "t", "Z", "X", ""):
        return False
    return page.running() is not None or now - page.last_beat < max(lease, BETWEEN_BATCHES_SECONDS)
