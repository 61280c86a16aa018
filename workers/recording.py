"""What follows a settle, whoever made it: tickets of what waits again, and the end of the old ones."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from app.tasks.keys import CHILD_KEYS
from app.tasks.model import Outcome, Released, Track
from app.tasks.queue import TaskQueue
from app.tasks.store.settling import Settled
from workers.consumers import RedisConsumer

log = structlog.get_logger(__name__)


def follow_up(
    queue: TaskQueue, redis: RedisConsumer | None, outcomes: Sequence[Outcome], settled: Settled
) -> None:
    """Push tickets, those of released claims to the front, and tell `redis` how each old one ended."""
    released = {outcome.claim.task_id for outcome in outcomes if isinstance(outcome, Released)}
    queue.push_moved([move for move in settled.moves if move.task_id in released], front=True)
    queue.push_moved([move for move in settled.moves if move.task_id not in released])
    if any((outcome.claim.idempotency_key or "").startswith(CHILD_KEYS) for outcome in outcomes):
        queue.waking.children_ended()
    mine = {*settled.recorded, *settled.lost}
    for outcome in outcomes:
        task_id = outcome.claim.task_id
        if task_id not in mine:
            continue
        if task_id in settled.lost and task_id not in released:
            log.warning("task.result_refused", task=task_id, attempt=outcome.claim.attempt)
        if outcome.claim.track is Track.REDIS and redis is not None:
            # a released claim's ticket has neither failed nor finished: another one takes its place
            status = None if task_id in released else settled.recorded.get(task_id)
            redis.ended(outcome, status)
