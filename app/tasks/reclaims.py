"""Reclaims: what becomes of a task that its holder has lost, by the handler's rule, and its next ticket."""

from __future__ import annotations

import structlog

from app.tasks.model import OnLost
from app.tasks.queue import TaskQueue
from app.tasks.schema import AnyRow

log = structlog.get_logger(__name__)


class Reclaims:
    def __init__(self, queue: TaskQueue) -> None:
        self._queue = queue

    def reclaim(self, row: AnyRow, reason: str, *, started: bool = True, only_expired: bool = False) -> bool:
        """Take back the claim that `row` shows, as `Moves.expired` and `held_by` give it; guarded by token,
        and with `only_expired` by its lease as well.

        Counts one failure, or none if the task had not `started`. False: somebody else was first.
        """
        handler = self._queue.handlers.find(row.name)
        moved = self._queue.store.moves.reclaim(
            row.id,
            row.token,
            on_lost=handler.on_lost if handler else OnLost.RETRY,
            max_retries=self._queue.settings.retry_limit(handler, row.max_retries),
            reason=reason,
            started=started,
            only_expired=only_expired,
        )
        if moved is None:
            return False
        log.warning("task.reclaimed", task=row.id, holder=row.holder, reason=reason, now=moved.status.value)
        self._queue.push_moved([moved], front=True)
        return True
