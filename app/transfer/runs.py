"""The verbs of transfers: start one, take up one that was cut short, drain before a planned rollback."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import timedelta

from app.tasks.model import Priority, Status
from app.tasks.queue import TaskQueue
from app.tasks.routing import Intake
from app.transfer.canaries import Canaries
from app.transfer.errors import NotPossible
from app.transfer.holders import is_dead, this_process
from app.transfer.legacy.cargoes import legacy_rows
from app.transfer.mover import Mover, Moving, Watcher
from app.transfer.plans import Direction, Limits, Plan, Scope, make_plan, rows_to_move
from app.transfer.records import Transfer, TransferRecords

DRAIN_LOOK_SECONDS = 0.2
HOLD_SPARE_SECONDS = 120.0  # for the last look and the plan of a long backlog


def _unwatched(moving: Moving) -> None:
    """Nobody looks."""


@dataclass(frozen=True, slots=True)
class RolledBack:
    """What a planned rollback came to. `undrained`: tasks that had not ended when the drain's time was over;
    `remaining`: rows that still wait in Redis, 0 if it is complete."""

    status: str
    transfer_id: int
    undrained: int
    recalled: int
    remaining: int


def start(
    queue: TaskQueue,
    plan: Plan,
    limits: Limits,
    *,
    take_over: bool = False,
    watcher: Watcher = _unwatched,
    canaries: Canaries | None = None,
) -> Mover:
    """Record the transfer and make its mover, held by this process.

    Raises `PriorityTaken` if another transfer has one of the priorities, unless `take_over` aborts it, and
    `NotPossible` for a dispatch while there is no Redis.
    """
    if plan.direction is Direction.DISPATCH:
        _require_redis(queue)
    holder = this_process()
    transfer = TransferRecords(queue.store.database).begin(plan, limits, holder=holder, take_over=take_over)
    return _mover(queue, transfer, holder, watcher, canaries)


def _mover(
    queue: TaskQueue, transfer: Transfer, holder: str, watcher: Watcher, canaries: Canaries | None
) -> Mover:
    source = transfer.plan.scope.source
    cargo = None if source is None else legacy_rows(queue, source, transfer_id=transfer.transfer_id)
    return Mover(queue, transfer, holder=holder, watcher=watcher, canaries=canaries, cargo=cargo)


def _require_redis(queue: TaskQueue) -> None:
    if queue.tickets is None:
        raise NotPossible("there is no Redis to dispatch to: RQ_ENABLED is false")
    if not queue.tickets.ping():
        raise NotPossible("Redis does not answer: nothing was begun")


def _as_recorded(limits: Limits) -> Limits:
    return limits


def resume(
    queue: TaskQueue,
    direction: Direction,
    *,
    transfer_id: int | None = None,
    adjusted: Callable[[Limits], Limits] = _as_recorded,
    watcher: Watcher = _unwatched,
    canaries: Canaries | None = None,
) -> Mover:
    """Take up a transfer whose process is gone; without an id the open one of the direction. It goes on
    with its limits as `adjusted` makes them.

    One that is merely paused, in a living process, is told to go on, and `HolderLives` is raised. Raises
    `NotPossible` if there is nothing to resume, or more than one that could be meant.
    """
    records = TransferRecords(queue.store.database)
    found = open_transfer(records, direction, transfer_id)
    records.resume(found.transfer_id)
    limits = adjusted(found.limits)
    holder = this_process()
    transfer = records.take(found.transfer_id, holder=holder, is_dead=is_dead, limits=limits)
    return _mover(queue, transfer, holder, watcher, canaries)


def open_transfer(
    records: TransferRecords,
    direction: Direction,
    transfer_id: int | None,
    *,
    scope: Scope | None = None,
    source: str | None = None,
) -> Transfer:
    """The transfer that a verb means: the one with this id, or the open one of the direction, of the scope
    and of the legacy table if these are given. Raises `NotPossible`, also where several could be meant."""
    if transfer_id is not None:
        found = records.get(transfer_id)
        if found.plan.direction is not direction:
            raise NotPossible(f"transfer {transfer_id} is a {found.plan.direction.value}")
        return found
    candidates = records.open_ones(direction)
    fitting = [
        each
        for each in candidates
        if scope in (None, each.plan.scope) and source in (None, each.plan.scope.source)
    ]
    if len(fitting) == 1:
        return fitting[0]
    listed = ", ".join(f"{each.transfer_id} of {each.plan.scope}" for each in fitting or candidates)
    if fitting:
        raise NotPossible(f"several are open, say which by its number: {listed}")
    other = f" of {scope or source}; open: {listed}" if candidates else ""
    raise NotPossible(f"there is no open {direction.value} to go on with{other}")


def roll_back_planned(
    queue: TaskQueue,
    scope: Scope,
    limits: Limits,
    *,
    drain_seconds: float,
    reason: str,
    watcher: Watcher = _unwatched,
    waiting: Callable[[int], None] = lambda left: None,
    begun: Callable[[int], None] = lambda transfer_id: None,
) -> RolledBack:
    """Hold new tasks, let those that wait and run come to their end, then recall whatever is left; `begun` is
    told by which transfer, before a row moves.

    The hold ends with the rollback, whatever became of it, and by itself if this process is killed: from the
    recall on the routing alone keeps new tasks out of Redis. Held tasks go by the new routing. Where an
    operator had closed the intake, it stays as it was.
    """
    is_open = all(route.intake is Intake.OPEN for route in queue.store.routing.refresh().values())
    if is_open:
        duration = timedelta(seconds=drain_seconds + HOLD_SPARE_SECONDS)
        queue.pause_intake(reason=reason, mode=Intake.HOLD, duration=duration)
    try:
        undrained = drain(queue, scope.priorities, limit_seconds=drain_seconds, waiting=waiting)
        plan = make_plan(queue.store, Direction.RECALL, scope)
        mover = start(queue, plan, limits, take_over=True, watcher=watcher)
        begun(mover.transfer_id)
        done = mover.run()
        left = sum(rows_to_move(queue.store, plan, queue.store.routing.refresh()).values())
    finally:
        if is_open:
            queue.resume_intake()
    status = "rollback_completed" if left == 0 else "rollback_incomplete"
    return RolledBack(status, mover.transfer_id, undrained, done.moved, left)


def drain(
    queue: TaskQueue,
    priorities: Collection[Priority],
    *,
    limit_seconds: float,
    statuses: Collection[Status] = (Status.QUEUED, Status.DISPATCHED, Status.PROCESSING),
    waiting: Callable[[int], None] = lambda left: None,
) -> int:
    """Wait until no task of these priorities is in one of the statuses, for `limit_seconds` at most. Returns
    how many are left; of thousands, as of a moment ago. `waiting` is told at each look."""
    until = time.monotonic() + limit_seconds
    while True:
        counts = queue.store.queries.counts(statuses)
        left = sum(counts[status][priority] for status in statuses for priority in priorities)
        waiting(left)
        if not left or time.monotonic() >= until:
            return left
        time.sleep(DRAIN_LOOK_SECONDS)
