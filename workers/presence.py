"""A worker of ours on RQ's lists, so that `rq info` and rq-dashboard show it and what it runs.

Costs three commands a minute while the worker is idle, and nothing per task: a run is listed once it has
taken half a second; nobody sees shorter ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import structlog

from app.tasks.errors import RedisUnavailable
from app.tasks.model import Claim, Priority, Track
from app.tasks.runner import LiveTask, boot_clock
from app.tasks.tickets import RQQueueManager
from app.tasks.tickets.worker_registry import Presence

IDLE_BEAT_SECONDS = 60.0
RUN_BEAT_SECONDS = 30.0
LISTED_AFTER_SECONDS = 0.5

log = structlog.get_logger(__name__)


class WorkerPresence:
    """Told by the heartbeat how things are; decides what of it Redis is to know. For one thread at a time."""

    def __init__(
        self,
        tickets: RQQueueManager,
        *,
        worker_id: str,
        priorities: Sequence[Priority],
        counts: Callable[[], tuple[int, int]] = lambda: (0, 0),
        clock: Callable[[], float] = boot_clock,
    ) -> None:
        """`counts` gives the numbers of finished and failed runs since the start."""
        self._tickets = tickets
        self._worker_id = worker_id
        self._priorities = priorities
        self._counts = counts
        self._clock = clock
        self._born_at = 0.0
        self._counted = (0, 0)
        self._told: tuple[bool, Claim | None] | None = None
        self._next = 0.0

    def beat(self, live: LiveTask | None, *, busy: bool) -> None:
        """Tell Redis if there is something to tell. An outage is waited for."""
        now = self._clock()
        claim = live.claim if live is not None and _is_long(live, now) else None
        if now < self._next and not (self._is_news(claim, busy=busy) and self._tickets.health.up_seconds):
            return
        self._next = now + (RUN_BEAT_SECONDS if claim else IDLE_BEAT_SECONDS)
        self._told = (busy, claim)
        self._tell(claim, "busy" if busy else "idle", now - live.started if live is not None else 0.0)

    def leave(self) -> None:
        """Off the lists. Raises `RedisUnavailable`."""
        self._tickets.workers.leave(self._worker_id, self._priorities)

    def _is_news(self, claim: Claim | None, *, busy: bool) -> bool:
        """Short tasks come and go too fast to be news."""
        if self._told is None:
            return True
        was_busy, listed = self._told
        return claim not in (None, listed) or (was_busy and not busy)

    def _tell(self, claim: Claim | None, state: str, running_seconds: float) -> None:
        now = self._tickets.database_clock()
        self._born_at = self._born_at or now
        counted = self._counts()
        seen = Presence(
            worker_id=self._worker_id,
            priorities=self._priorities,
            born_at=self._born_at,
            state=state,
            finished=counted[0] - self._counted[0],
            failed=counted[1] - self._counted[1],
            running=claim,
            running_since=now - running_seconds,
        )
        try:
            self._tickets.workers.present(seen, now=now)
        except RedisUnavailable as error:
            self._told = None
            log.debug("worker.not_on_rqs_lists", worker=self._worker_id, reason=str(error))
        else:
            self._counted = counted


def _is_long(live: LiveTask, now: float) -> bool:
    return live.claim.track is Track.REDIS and now - live.started >= LISTED_AFTER_SECONDS
