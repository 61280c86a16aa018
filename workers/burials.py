"""Burials: what a dead worker of this host leaves behind is brought to its end, or on its way, at once.

The page says what had come out, what was running and what had not been started. Everything here is guarded
by the token of the batch, so two who bury the same worker, or one who is killed at it, do no harm.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import structlog

from app.system import System
from app.tasks.errors import RedisUnavailable
from app.tasks.healing import LOCK
from app.tasks.model import Cancelled, Claim, Outcome, Released
from app.tasks.reclaims import Reclaims
from app.tasks.runner import Runner, boot_clock
from app.tasks.store.settling import Settled
from workers.causes import Cause, CauseOfDeath
from workers.consumers import RedisConsumer
from workers.in_flight import put_back
from workers.life import held_if_dead, life_files
from workers.page import Holding, Page
from workers.recording import follow_up

CAUSE_PATIENCE_SECONDS = 1.0
ROWS = 500
UNKNOWN = "its worker died"

log = structlog.get_logger(__name__)


class Burials:
    def __init__(self, system: System, folder: Path) -> None:
        """`folder` has the life files."""
        self._system = system
        self._folder = folder
        self._reclaims = Reclaims(system.queue)
        # it does not wait for a database that is away: the page stays for the next try
        self._runner = Runner(system.store, system.handlers, system.settings, pause=lambda seconds: True)
        self._found_dead: dict[Path, float] = {}
        # whose tickets Redis could not take back, with their batches
        self._owed: dict[str, Sequence[int]] = {}

    def bury_all(self) -> int:
        """Bury every worker whose life file is free. Returns how many. Raises `DatabaseUnavailable`."""
        self._put_back_owed()
        buried = 0
        paths = life_files(self._folder)
        for path in paths:
            with held_if_dead(path) as dead:
                if dead and self._bury(path):
                    buried += 1
        self._found_dead = {path: at for path, at in self._found_dead.items() if path in paths}
        return buried

    def _bury(self, path: Path) -> bool:
        page, batch = Page.of_file(path), tuple[int, ...]()
        if page is None:
            holder = path.stem  # nothing to read: all that it held counts as started
            self._reclaim_rest(holder, UNKNOWN, started=None)
        else:
            try:
                if self._awaits_cause(path, page):
                    return False
                holder = page.worker_id
                self._settle(page, holder)
                held = page.holding()
                batch = held.task_ids if held else batch
            finally:
                page.close()
        self._forget(holder, batch)
        path.unlink(missing_ok=True)
        return True

    def _awaits_cause(self, path: Path, page: Page) -> bool:
        """True while a living parent may still say what its worker died of."""
        if page.cause is not None or not page.supervisor or not _lives(page.supervisor):
            return False
        found = self._found_dead.setdefault(path, boot_clock())
        return boot_clock() - found < CAUSE_PATIENCE_SECONDS

    def _settle(self, page: Page, holder: str) -> None:
        cause = page.cause
        reason = cause.sentence() if cause else UNKNOWN
        if not page.of_this_boot:  # the machine went down: what the disk has of the page proves nothing
            self._reclaim_rest(holder, reason, started=None)
            return
        held = page.holding()
        if held is not None:
            claims = self._system.store.claims.of_token(held.token, held.track)
            outcomes = self._outcomes(page, held, claims, cause)
            for settled in self._runner.settle_together(outcomes):
                self._record(holder, outcomes, settled)
            log.warning(
                "worker.buried", worker=holder, reason=reason, held=len(claims), settled=len(outcomes)
            )
        started = {(task_id, held.token) for task_id in held.task_ids[: held.started]} if held else set()
        self._reclaim_rest(holder, reason, started=started | page.beside())

    def _outcomes(
        self, page: Page, held: Holding, claims: Sequence[Claim], cause: CauseOfDeath | None
    ) -> list[Outcome]:
        """What came out, the unstarted rest, and the end of the running task if it is to blame."""
        places = {task_id: place for place, task_id in enumerate(held.task_ids)}
        records = page.records()
        running = page.running()
        outcomes: list[Outcome] = []
        for claim in claims:
            place = places.get(claim.task_id, held.started)
            if place in records and place < held.started:
                outcomes.append(records[place].outcome(claim))
            elif place >= held.started:
                outcomes.append(Released(claim))
            elif cause is not None and running is not None and place == running.index:
                if cause.kind is Cause.CANCEL:
                    outcomes.append(Cancelled(claim, f"cancelled; it {cause.sentence()}"))
                elif cause.blames_the_task:
                    outcomes.append(self._runner.lost(claim, cause.sentence()))
        return outcomes

    def _record(self, holder: str, outcomes: Sequence[Outcome], settled: Settled) -> None:
        system, redis = self._system, None
        if system.tickets is not None:
            redis = RedisConsumer(system.store, system.tickets, holder=holder)
        follow_up(system.queue, redis, outcomes, settled)
        if redis is not None:
            redis.flush()

    def _reclaim_rest(self, holder: str, reason: str, *, started: set[tuple[int, int]] | None) -> None:
        """Whatever else the dead worker held. `started` has (task id, token): a task may be back under
        another claim. None: it is not known, so all of it counts."""
        while rows := self._system.store.moves.held_by([holder], limit=ROWS):
            for row in rows:
                began = started is None or (row.id, row.token) in started
                self._reclaims.reclaim(row, reason, started=began)

    def _forget(self, holder: str, batch: Sequence[int]) -> None:
        registry = self._system.store.registry
        registry.leave(holder)
        registry.unlock(LOCK, holder)  # of a sweeper: nobody can prove its death once its file is gone
        self._put_back(holder, batch)
        self._system.queue.waking.due()  # it may have heard a ring, or owed one, that nobody else knows of

    def _put_back_owed(self) -> None:
        tickets = self._system.tickets
        if tickets is not None and not tickets.health.away_seconds:
            for holder, batch in list(self._owed.items()):
                self._put_back(holder, batch)

    def _put_back(self, holder: str, batch: Sequence[int]) -> None:
        tickets = self._system.tickets
        if tickets is None:
            return
        try:
            pushed = put_back(tickets, self._system.store, holder, settled=batch)
        except RedisUnavailable:
            self._owed[holder] = batch
            log.info("tickets.left_to_sweeper", holder=holder)
        else:
            self._owed.pop(holder, None)
            if pushed:
                log.warning("tickets.given_back", worker=holder, count=pushed)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
