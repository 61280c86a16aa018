"""Moves of waiting rows: due, dispatch, recall, reclaim, and what people ask for by id.

Each takes its rows under a lock, obeys the routing that it holds for its transaction, and returns what was
moved; tickets are pushed by the caller after the commit. Batches are bounded by `limit`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import and_, or_, select, update
from sqlalchemy.engine import Connection

from app.tasks.database import Database
from app.tasks.errors import DatabaseUnavailable, TaskNotFound, WrongState
from app.tasks.ids import first_id_of
from app.tasks.model import ENDED, PRIORITIES, WAITING, Moved, OnLost, Priority, Status, Ticket, Track
from app.tasks.routing import Intake, Route
from app.tasks.schema import AnyRow, database_now, status_is, task_events, tasks
from app.tasks.store import events, families
from app.tasks.store.lanes import in_a_pool, in_a_queue
from app.tasks.store.misplaced import Misplaced
from app.tasks.store.placing import FRESH, OVER, PLACED_COLUMNS, moved, place
from app.tasks.store.routing import hold_routing
from app.tasks.store.write_backs import TRIES, EndUnwritten, WriteBacks

_RETRYABLE = (Status.FAILED, Status.CANCELLED, Status.QUARANTINED)


class Moves:
    def __init__(self, database: Database, backs: WriteBacks) -> None:
        self._database = database
        self._backs = backs
        self._misplaced = Misplaced()

    # --- by condition: the sweeper's -------------------------------------------------------------

    def due(self, *, limit: int) -> list[Moved]:
        """SCHEDULED rows whose time has come go to their track."""
        condition = and_(tasks.c.run_at <= database_now(), tasks.c.held.is_(False))
        return self._start_scheduled(condition, tasks.c.run_at, limit)

    def lift_holds(self, priorities: Sequence[Priority], *, limit: int) -> list[Moved]:
        """Rows held by a pause of intake go to their track; whose own time has not come waits for that. Those
        of pools follow once all queues are open."""
        of_open: Any = tasks.c.priority.in_(priorities)
        if set(priorities) == set(PRIORITIES):
            of_open = or_(of_open, in_a_pool())
        later = and_(tasks.c.run_at.is_not(None), tasks.c.run_at > database_now()).label("later")
        query = (
            select(*PLACED_COLUMNS, later)
            .where(tasks.c.status == Status.SCHEDULED, of_open, tasks.c.held)
            .order_by(tasks.c.id)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )

        def work(on: Connection) -> list[Moved]:
            rules, _ = hold_routing(on, PRIORITIES)
            rows = on.execute(query).all()
            to_wait = [row.id for row in rows if row.later]
            if to_wait:
                on.execute(update(tasks).where(tasks.c.id.in_(to_wait)).values(held=False))
            waiting = [Moved(task_id, Status.SCHEDULED) for task_id in to_wait]
            return waiting + place(on, [row for row in rows if not row.later], rules)

        return self._database.run(work)

    def _start_scheduled(self, condition: Any, order: Any, limit: int) -> list[Moved]:
        query = (
            select(*PLACED_COLUMNS)
            .where(tasks.c.status == Status.SCHEDULED, condition)
            .order_by(order)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )

        def work(on: Connection) -> list[Moved]:
            rules, _ = hold_routing(on, PRIORITIES)
            return place(on, on.execute(query).all(), rules)

        return self._database.run(work)

    def to_right_track(self, priority: Priority, *, limit: int) -> list[Moved]:
        """Waiting rows of a priority whose track differs from the routing's are moved: dispatch and recall.

        Recalls are recorded as events; a dispatch is the normal way and is not.
        """

        def work(on: Connection) -> list[Moved]:
            rules, _ = hold_routing(on, [priority])
            route = rules[priority]
            suspects = None if route.whole_track else self._misplaced.find(on, route, limit=limit)
            if suspects == []:
                return []
            rows = on.execute(_on_wrong_track(route, suspects, limit)).all()
            rows = [row for row in rows if row.status is not route.waiting_status(row.id, row.name)]
            recalled = [row.id for row in rows if row.status is Status.DISPATCHED]
            events.record(on, "recall", recalled, fallback=route.fallback)
            return place(on, rows, rules)

        return self._database.run(work)

    def expired(self, *, limit: int, within_seconds: float = 0) -> list[AnyRow]:
        """PROCESSING rows whose lease is over, or will be within so many seconds, the oldest lease first:
        (id, token, name, holder, failures, max_retries, lease_until, is_over)."""
        return self._processing(tasks.c.lease_until < database_now(within_seconds), limit)

    def held_by(self, holders: Sequence[str], *, limit: int) -> list[AnyRow]:
        """PROCESSING rows of these workers, as `expired` gives them."""
        return self._processing(tasks.c.holder.in_(list(holders)), limit)

    def _processing(self, condition: Any, limit: int) -> list[AnyRow]:
        query = (
            select(
                tasks.c.id,
                tasks.c.token,
                tasks.c.name,
                tasks.c.holder,
                tasks.c.failures,
                tasks.c.max_retries,
                tasks.c.lease_until,
                (tasks.c.lease_until < database_now()).label("is_over"),
            )
            .where(tasks.c.status == Status.PROCESSING, condition)
            .order_by(tasks.c.lease_until, tasks.c.id)
            .limit(limit)
        )
        return self._database.read(lambda on: list[AnyRow](on.execute(query)))

    def reclaim(
        self,
        task_id: int,
        token: int,
        *,
        on_lost: OnLost,
        max_retries: int,
        reason: str,
        started: bool = True,
        only_expired: bool = False,
    ) -> Moved | None:
        """Take a lost claim back, guarded by the token that was read with the evidence.

        Counts one failure. `on_lost` "park", or no retry left, ends the task as FAILED. A task that is
        known not to have `started` has lost nothing: it waits again, without a failure. With `only_expired`
        the lease must still be over: a holder that lives may have renewed it since it was read. None:
        somebody else was first.
        """
        its_claim = and_(tasks.c.id == task_id, tasks.c.token == token, tasks.c.status == Status.PROCESSING)
        if only_expired:
            its_claim = and_(its_claim, tasks.c.lease_until < database_now())

        def work(on: Connection) -> Moved | None:
            row = on.execute(
                select(
                    *PLACED_COLUMNS,
                    *(tasks.c.cancel_requested, tasks.c.failures, tasks.c.holder, tasks.c.idempotency_key),
                )
                .where(its_claim)
                .with_for_update()
            ).first()
            if row is None:
                return None
            if not started and not row.cancel_requested:
                return _return_unstarted(on, row, reason)
            moved = _reclaim(on, row, on_lost, max_retries, reason)
            if moved.status in ENDED:
                self._backs.of_row(on, row, moved.status, reason)
            return moved

        return self._database.run(work)

    # --- by id: what people ask for -----------------------------------------------------------------

    def cancel(self, task_id: int) -> Moved:
        """Cancel a waiting task at once; leave a request on a running one.

        Returns the new status: CANCELLED, or PROCESSING where the request was left. Raises `TaskNotFound`,
        or `WrongState` for an ended task.
        """

        def work(on: Connection) -> Moved:
            row = _locked(on, task_id)
            if row.status in WAITING:
                values = OVER | {"status": Status.CANCELLED, "epoch": tasks.c.epoch + 1}
                on.execute(update(tasks).where(tasks.c.id == task_id).values(values))
                events.record(on, "cancelled", [task_id], was=row.status)
                self._backs.of_row(on, row, Status.CANCELLED, "cancelled")
                return moved(row, Status.CANCELLED, row.priority)
            if row.status is Status.PROCESSING:
                on.execute(update(tasks).where(tasks.c.id == task_id).values(cancel_requested=True))
                events.record(on, "cancel requested", [task_id])
                return moved(row, Status.PROCESSING, row.priority)
            raise WrongState(task_id=task_id, status=row.status, verb="cancel")

        return self._database.run(work)

    def retry(self, task_id: int, *, active_key: str | None) -> Moved:
        """An operator's retry: an ended task waits again, with its failures forgotten.

        Raises `TaskNotFound`, `WrongState`, `IntegrityError` if the active key is taken, and
        `SourceUnavailable` if its legacy row is in a database that is away.
        """

        def work(on: Connection) -> Moved:
            row = _locked(on, task_id)
            if row.status not in _RETRYABLE:
                raise WrongState(task_id=task_id, status=row.status, verb="retry")
            if not self._backs.reopen(on, row):
                raise WrongState(task_id=task_id, status=row.status, verb="retry")
            rules, now = hold_routing(on, [row.priority])
            events.record(on, "operator's retry", [task_id], was=row.status)
            again = families.ANEW | {"active_key": active_key}
            tagged = bool(families.reopen(on, [row]))
            if rules[row.priority].intake_at(now) is Intake.OPEN and not tagged:
                return place(on, [row], rules, **again)[0]
            hold = FRESH | again | {"status": Status.SCHEDULED, "held": not tagged}
            on.execute(update(tasks).where(tasks.c.id == task_id).values(hold))
            return Moved(task_id, Status.SCHEDULED)

        for _ in range(TRIES):
            try:
                return self._database.run(work)
            except EndUnwritten:
                self._backs.write_anew(task_id)
        raise DatabaseUnavailable("somebody else tells the task's legacy row its end: try again")

    def reprioritise(self, task_id: int, priority: Priority) -> tuple[Moved, Priority]:
        """Give a waiting task another priority; it goes where that priority's routing says.

        Returns the move and the priority that it had. Raises `TaskNotFound`, `WrongState`.
        """

        def work(on: Connection) -> tuple[Moved, Priority]:
            rules, _ = hold_routing(on, [priority])
            row = _locked(on, task_id)
            if row.status not in WAITING or row.priority not in PRIORITIES:
                raise WrongState(task_id=task_id, status=row.status, verb="reprioritise")
            status = row.status
            values: dict[str, Any] = {"priority": priority, "epoch": tasks.c.epoch + 1, "confirmed_in": 0}
            if status is not Status.SCHEDULED:
                status = rules[priority].waiting_status(row.id, row.name)
                values |= {"waiting_since": database_now()}
            on.execute(update(tasks).where(tasks.c.id == task_id).values(values | {"status": status}))
            events.record(on, "reprioritised", [task_id], was=row.priority, now=priority)
            return moved(row, status, priority), row.priority

        return self._database.run(work)

    def cancel_waiting(self, priority: Priority, *, limit: int) -> int:
        """Cancel waiting tasks of a priority: clearing a queue. Returns how many; repeat until 0."""
        return len(self._cancel_waiting(tasks.c.priority == priority, limit, cleared=priority))

    def cancel_keyed(self, prefix: str, *, limit: int) -> list[Ticket]:
        """Cancel waiting tasks whose idempotency key begins so. Returns the tickets that became stale; repeat
        until there are none."""
        rows = self._cancel_waiting(_keyed(prefix), limit)
        return [Ticket(row.id, row.epoch, row.priority, row.name) for row in rows]

    def _cancel_waiting(self, condition: Any, limit: int, **detail: Any) -> list[AnyRow]:
        """The rows as they were before."""
        query = (
            select(tasks.c.id, tasks.c.epoch, tasks.c.priority, tasks.c.name, tasks.c.idempotency_key)
            .where(tasks.c.status.in_(WAITING), condition)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )

        def work(on: Connection) -> list[AnyRow]:
            rows = list(on.execute(query))
            ids = [row.id for row in rows]
            if ids:
                values = OVER | {"status": Status.CANCELLED, "epoch": tasks.c.epoch + 1}
                on.execute(update(tasks).where(tasks.c.id.in_(ids)).values(values))
                events.record(on, "cancelled", ids, **detail)
                self._backs.of_rows(on, rows, Status.CANCELLED, "cancelled")
            return rows

        return self._database.run(work)

    def purge_failed(self, *, limit: int, task_id: int | None = None) -> int:
        """Delete dead letters of queues and pools, or one of them, but no child whose parent has not ended.
        Returns how many; repeat until 0."""
        conditions = [tasks.c.status == Status.FAILED, ~families.is_needed()]
        if task_id is not None:
            conditions.append(tasks.c.id == task_id)
        return self._delete_but_records(conditions, limit)

    def purge_ended(self, *, before: Any, limit: int) -> int:
        """Delete completed and cancelled tasks that ended before `before` (aware), but no child whose parent
        has not ended. Repeat until 0.

        Ids ascend with time, so the primary key bounds the search: no index on the end is needed.
        """
        conditions = (
            tasks.c.id < first_id_of(before),
            tasks.c.status.in_((Status.COMPLETED, Status.CANCELLED)),
            tasks.c.ended_at < before,
            ~families.is_needed(),
        )
        return self._delete_but_records(conditions, limit)

    def _delete_but_records(self, conditions: Sequence[Any], limit: int) -> int:
        """Two searches, each along a part of the index: records may be millions, and lie between."""
        query = select(tasks.c.id).where(*conditions).limit(limit)
        return self._delete(query.where(in_a_queue())) or self._delete(query.where(in_a_pool()))

    def purge_keyed(self, prefix: str, *, limit: int) -> int:
        """Delete ended tasks whose idempotency key begins so. Repeat until 0."""
        return self._delete(select(tasks.c.id).where(_keyed(prefix), tasks.c.status.in_(ENDED)).limit(limit))

    def _delete(self, query: Any) -> int:
        def work(on: Connection) -> int:
            ids = list(on.execute(query.with_for_update(skip_locked=True)).scalars())
            if ids:
                on.execute(tasks.delete().where(tasks.c.id.in_(ids)))
                on.execute(task_events.delete().where(task_events.c.task_id.in_(ids)))
                families.forget(on, ids)
            return len(ids)

        return self._database.run(work)


def _keyed(prefix: str) -> Any:
    return tasks.c.idempotency_key.startswith(prefix, autoescape=True)


def _locked(on: Connection, task_id: int) -> AnyRow:
    row = on.execute(
        select(*PLACED_COLUMNS, tasks.c.user_id, tasks.c.idempotency_key)
        .where(tasks.c.id == task_id)
        .with_for_update()
    ).first()
    if row is None:
        raise TaskNotFound(task_id)
    return row


def _on_wrong_track(route: Route, suspects: Sequence[int] | None, limit: int) -> Any:
    """Waiting rows whose status may not be what `route` says: with a whole track, by the index in order of
    service; with a share, those of the suspects."""
    query = select(*PLACED_COLUMNS).where(tasks.c.priority == route.priority)
    if suspects is not None:
        waits = or_(status_is(Status.QUEUED), status_is(Status.DISPATCHED))  # they may be claimed meanwhile
        query = query.where(tasks.c.id.in_(suspects), waits).order_by(tasks.c.id)
    elif route.whole_track is Track.REDIS:
        query = query.where(tasks.c.status == Status.QUEUED, tasks.c.confirmed_in == 0).order_by(tasks.c.id)
    else:
        query = query.where(tasks.c.status == Status.DISPATCHED).order_by(tasks.c.confirmed_in, tasks.c.id)
    return query.limit(limit).with_for_update(skip_locked=True)


def _reclaim(on: Connection, row: AnyRow, on_lost: OnLost, max_retries: int, reason: str) -> Moved:
    detail: Mapping[str, Any] = {"reason": reason, "holder": row.holder}
    if row.cancel_requested:
        return _close(on, row, Status.CANCELLED, f"cancelled; {reason}", detail)
    if on_lost is OnLost.PARK:
        return _close(on, row, Status.FAILED, f"{reason}; parked: its handler must not repeat", detail)
    if row.failures >= max_retries:
        return _close(on, row, Status.FAILED, f"{reason}; no retry is left", detail)
    rules, _ = hold_routing(on, [row.priority])
    events.record(on, "reclaim", [row.id], **detail)
    return place(on, [row], rules, failures=tasks.c.failures + 1, error=reason)[0]


def _return_unstarted(on: Connection, row: AnyRow, reason: str) -> Moved:
    rules, _ = hold_routing(on, [row.priority])
    events.record(on, "returned unstarted", [row.id], reason=reason, holder=row.holder)
    return place(on, [row], rules)[0]


def _close(on: Connection, row: AnyRow, status: Status, error: str, detail: Mapping[str, Any]) -> Moved:
    values = OVER | {"status": status, "error": error, "failures": tasks.c.failures + 1}
    on.execute(update(tasks).where(tasks.c.id == row.id).values(values))
    events.record(on, status.value.lower(), [row.id], **detail)
    return Moved(row.id, status)
