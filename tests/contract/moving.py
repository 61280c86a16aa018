"""Transfers as the tests of them begin one, and what they then look at."""

from __future__ import annotations

from typing import Any

from app.tasks.queue import TaskQueue
from app.transfer import runs
from app.transfer.mover import Mover
from app.transfer.plans import Direction, Limits, Scope, make_plan

FAST = Limits(patience_seconds=5, batch_rows=40, database_milliseconds=None, redis_milliseconds=None)


def dispatch(queue: TaskQueue, scope: Scope = Scope(), limits: Limits = FAST) -> Mover:  # noqa: B008
    return runs.start(queue, make_plan(queue.store, Direction.DISPATCH, scope), limits)


def recall(queue: TaskQueue, scope: Scope = Scope(), limits: Limits = FAST, **how: Any) -> Mover:  # noqa: B008
    return runs.start(queue, make_plan(queue.store, Direction.RECALL, scope), limits, **how)


def listed(raw: Any, priority: str) -> list[str]:
    return list(raw.lrange(f"rq:queue:{priority}", 0, -1))
