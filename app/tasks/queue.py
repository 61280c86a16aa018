"""TaskQueue: the verbs. Submit, cancel, retry, reprioritise, pause, and the pushes that follow them.

Commit first, push the ticket second: a verb's answer means that the row is stored, whatever Redis does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from app.tasks.after_commit import after_commit
from app.tasks.combining import Combiner
from app.tasks.database import CommitUnknown
from app.tasks.errors import (
    DatabaseUnavailable,
    IdempotencyConflict,
    IntakePaused,
    QueueFull,
    RedisUnavailable,
    TaskError,
    UserLimitReached,
)
from app.tasks.handlers import HandlerRegistry
from app.tasks.ids import IdSource
from app.tasks.model import PRIORITIES, Moved, NewTask, Priority, Status, Submitted, Ticket
from app.tasks.routing import Intake, Route, Routing
from app.tasks.schedule_requests import ScheduleCheck
from app.tasks.schedules import Schedules
from app.tasks.settings import CoreSettings
from app.tasks.store import Store
from app.tasks.store.submitting import Placement, Present, Refusal
from app.tasks.submission import RequestCheck, TaskRequest
from app.tasks.tickets import RQQueueManager
from app.tasks.waking import Waking, first_moves

TRIES = 20
PAUSED_RETRY_SECONDS = 60

log = structlog.get_logger(__name__)


def utc_now() -> datetime:
    return datetime.now(UTC)


class TaskQueue:
    """The one way in for programs and pages. Safe for threads."""

    def __init__(
        self,
        store: Store,
        handlers: HandlerRegistry,
        tickets: RQQueueManager | None,
        settings: CoreSettings | None = None,
        *,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self.store = store
        self.handlers = handlers
        self.tickets = tickets
        self.settings = settings or CoreSettings()
        self._now = now
        self._ids = IdSource()
        self._check = RequestCheck(handlers, self.settings, self._ids, now)
        self._combined = Combiner(self._submit_checked, self._submit_together)
        self.waking = Waking(store.notices, tickets)
        self.schedules = Schedules(
            store,
            ScheduleCheck(self._check),
            next_id=self._ids.next,
            active_keys=self._slots,
            push_moved=self.push_moved,
            changed=self.waking.due,
        )

    # --- submit -----------------------------------------------------------------------------------

    def submit(self, request: TaskRequest, *, connection: Connection | None = None) -> Submitted:
        """Store one task and push its ticket if it goes by Redis.

        With `connection`, the row commits or rolls back with the caller's transaction, and the ticket is
        pushed after that commit. Raises `InvalidTask` and its subclasses, `UserLimitReached`,
        `IdempotencyConflict`, `IntakePaused`, `QueueFull`, `DatabaseUnavailable`. After any of them
        nothing is stored.
        """
        new = self._check(request)
        self._refuse_when_full()
        if connection is None:
            # a task with a key or under a limit may be refused for its own reason: it goes alone
            alone = new.idempotency_key is not None or self._limited(new)
            answer = self._submit_checked(new) if alone else self._combined(new)
            if isinstance(answer, TaskError):
                raise answer
            return answer
        submitted = self._insert(new, connection)
        if submitted.created:
            for move in first_moves(new, submitted, self._now):
                after_commit(connection, move, self.push_moved)
        return submitted

    def submit_many(self, requests: Iterable[TaskRequest]) -> list[Submitted | TaskError]:
        """Store many tasks, a few statements per thousand. Each request has its own answer, in order:
        a `Submitted`, or the error that `submit` would raise for it. `DatabaseUnavailable` is raised."""
        self._refuse_when_full()
        answers: list[Submitted | TaskError | None] = []
        bulk: list[tuple[int, NewTask]] = []
        for position, request in enumerate(requests):
            try:
                new = self._check(request)
            except TaskError as error:
                answers.append(error)
                continue
            answers.append(None)
            if new.idempotency_key is None and not self._limited(new):
                bulk.append((position, new))
            else:
                answers[position] = self._submit_checked(new)
        for position, answer in self._insert_bulk(bulk):
            answers[position] = answer
        return [answer for answer in answers if answer is not None]

    def _submit_checked(self, new: NewTask) -> Submitted | TaskError:
        try:
            submitted = self._insert(new, None)
        except DatabaseUnavailable:
            raise
        except TaskError as error:
            return error
        if submitted.created:
            self.push_moved(first_moves(new, submitted, self._now))
        return submitted

    def _submit_together(self, news: Sequence[NewTask]) -> list[Submitted | TaskError]:
        """What several threads submit at the same moment: one transaction, one push."""
        return [answer for _, answer in self._insert_bulk(list(enumerate(news)))]

    def _insert(self, new: NewTask, connection: Connection | None) -> Submitted:
        rules = self.store.routing.known()  # the insert is guarded by their version, however old they are
        if rules[new.priority].intake is not Intake.OPEN:
            rules = self.store.routing.current()  # a refusal is guarded by nothing
        slots = self._slots(new)
        doubtful: set[int] = set()
        for _ in range(TRIES):
            placement = self._placement(new, rules[new.priority], slots[0] if slots else None)
            refusal = self._insert_placed(new, placement, connection, doubtful)
            match refusal:
                case None:
                    return Submitted(new.task_id, placement.status, new.priority)
                case Refusal.ROUTING_CHANGED:
                    rules = self.store.routing.refresh()
                case Refusal.KEY_EXISTS:
                    present = self._present(new, connection)
                    if present is not None:
                        return present
                case Refusal.USER_ACTIVE:
                    slots = self._free_slots(new, connection)
                case Refusal.ID_EXISTS:
                    self._ids.renew_node()
                    new = replace(new, task_id=self._ids.next())
        raise TaskError("the submission met other changes again and again; nothing was stored, try again")

    def _insert_placed(
        self, new: NewTask, placement: Placement, connection: Connection | None, doubtful: set[int]
    ) -> Refusal | None:
        """As the store's insert. A lost answer is read back, and what did not arrive is sent again under the
        same id: whichever of the tries was stored, it is one row. `doubtful` keeps the ids whose answer was
        lost: if such an id exists later, by an earlier placement too, it is ours."""
        for _ in range(TRIES):
            try:
                refusal = self.store.submissions.insert(new, placement, connection)
            except CommitUnknown:
                doubtful.add(new.task_id)
            else:
                if refusal is not Refusal.ID_EXISTS or new.task_id not in doubtful:
                    return refusal
            if self.store.submissions.stored([new.task_id]):
                return None
        raise DatabaseUnavailable("the database broke every connection before it answered")

    def _insert_bulk(self, bulk: Sequence[tuple[int, NewTask]]) -> list[tuple[int, Submitted | TaskError]]:
        if not bulk:
            return []

        placed: list[tuple[int, NewTask, Placement | IntakePaused]] = []

        def work(on: Connection) -> None:
            rules, now = self.store.submissions.hold_routing(on, {new.priority for _, new in bulk})
            placed[:] = [(at, new, self._try_placement(new, rules[new.priority])) for at, new in bulk]
            good = [(new, where) for _, new, where in placed if isinstance(where, Placement)]
            self.store.submissions.insert_many(good, on, now)

        try:
            self.store.database.run(work)
        except CommitUnknown:
            wanted = [new.task_id for _, new, where in placed if isinstance(where, Placement)]
            if not self.store.submissions.stored(wanted[:1]):  # one transaction: one row tells of all
                raise
        except IntegrityError:  # two processes drew one node and met in a millisecond: one by one finds out
            return [(at, self._submit_checked(new)) for at, new in bulk]
        answers: list[tuple[int, Submitted | TaskError]] = []
        moves = []
        for at, new, where in placed:
            if isinstance(where, IntakePaused):
                answers.append((at, where))
                continue
            submitted = Submitted(new.task_id, where.status, new.priority)
            answers.append((at, submitted))
            moves += first_moves(new, submitted, self._now)
        self.push_moved(moves)
        return answers

    def _placement(self, new: NewTask, route: Route, slot: str | None) -> Placement:
        """Where the rules put the task. Raises `IntakePaused`."""
        intake = route.intake
        if intake is not Intake.OPEN:
            intake = route.intake_at(self._now())
        if intake is Intake.REFUSE:
            raise self._paused(route)
        if new.run_at is not None or intake is Intake.HOLD:
            held = intake is Intake.HOLD
            return Placement(Status.SCHEDULED, route.version, held=held, active_key=slot)
        status = route.waiting_status(new.task_id, new.name)
        return Placement(status, route.version, active_key=slot)

    def _try_placement(self, new: NewTask, route: Route) -> Placement | IntakePaused:
        try:
            return self._placement(new, route, None)
        except IntakePaused as paused:
            return paused

    def _paused(self, route: Route) -> IntakePaused:
        until = route.intake_until
        seconds = PAUSED_RETRY_SECONDS if until is None else (until - self._now()).total_seconds()
        return IntakePaused(
            reason=route.intake_reason or "no reason given",
            until=until,
            retry_after_seconds=max(1, round(seconds)),
        )

    def _present(self, new: NewTask, connection: Connection | None) -> Submitted | None:
        assert new.idempotency_key is not None
        found = self.store.submissions.with_keys([new.idempotency_key], connection)
        present: Present | None = found.get(new.idempotency_key)
        if present is None:
            return None
        if (present.name, present.payload, present.user_id) != (new.name, new.payload, new.user_id):
            raise IdempotencyConflict(key=new.idempotency_key, task_id=present.task_id)
        return Submitted(present.task_id, present.status, present.priority, created=False)

    def _refuse_when_full(self) -> None:
        limit = self.settings.queue_size_limit
        if limit and self.store.submissions.at_least_waiting(limit):
            raise QueueFull(limit=limit)

    # --- the limit of active tasks per user ---------------------------------------------------------

    def _limited(self, new: NewTask) -> bool:
        return bool(self.settings.active_tasks_per_user) and new.user_id is not None

    def _slots(self, new: NewTask) -> list[str]:
        """The active keys that this task may take: the unique key lets one task have each."""
        if not self._limited(new):
            return []
        return [f"{new.user_id}#{number}" for number in range(1, self.settings.active_tasks_per_user + 1)]

    def _free_slots(self, new: NewTask, connection: Connection | None) -> list[str]:
        slots = self._slots(new)
        taken = self.store.submissions.active_of(slots, connection)
        free = [slot for slot in slots if slot not in taken]
        if not free:
            assert new.user_id is not None
            raise UserLimitReached(
                user_id=new.user_id,
                limit=len(slots),
                active_task_id=min(taken.values(), default=None),
            )
        return free

    # --- verbs on one task ------------------------------------------------------------------------

    def cancel(self, task_id: int) -> Moved:
        """Cancel a waiting task at once, ask a running one to stop. Raises `TaskNotFound`, `WrongState`."""
        task = self.store.queries.task(task_id)
        moved = self.store.moves.cancel(task_id)
        self.withdraw([Ticket(task_id, task.epoch, task.priority, task.name)])
        return moved

    def retry(self, task_id: int) -> Moved:
        """Let an ended task wait again, its failures forgotten.

        Raises `TaskNotFound`, `WrongState`, and `UserLimitReached` if its user has an active task again.
        """
        task = self.store.queries.task(task_id)
        new = NewTask(task_id, task.name, "", task.priority, user_id=task.user_id)
        slots = self._slots(new)
        for _ in range(TRIES):
            try:
                moved = self.store.moves.retry(task_id, active_key=slots[0] if slots else None)
            except IntegrityError:
                slots = self._free_slots(new, None)
                continue
            self.push_moved([moved])
            return moved
        raise TaskError("the retry met other changes again and again; nothing was changed, try again")

    def reprioritise(self, task_id: int, priority: Priority) -> Moved:
        """Move a waiting task to another priority. Raises `TaskNotFound`, `WrongState`."""
        task = self.store.queries.task(task_id)
        moved, was = self.store.moves.reprioritise(task_id, priority)
        self.withdraw([Ticket(task_id, task.epoch, was, task.name)])
        self.push_moved([moved])
        return moved

    # --- verbs on queues and intake -----------------------------------------------------------------

    def pause(self, priorities: Iterable[Priority] = PRIORITIES) -> Routing:
        """From now on nothing of these priorities is claimed; what runs goes on."""
        return self.store.routing.change(priorities, paused=True)

    def resume(self, priorities: Iterable[Priority] = PRIORITIES) -> Routing:
        """Let these priorities be claimed again; idle workers wake at once."""
        return self._change(priorities, paused=False)

    def pause_intake(
        self, *, reason: str, mode: Intake = Intake.HOLD, duration: timedelta | None = None
    ) -> Routing:
        """Hold or refuse submissions, for `duration` or until resumed."""
        until = None if duration is None else self._now() + duration
        return self._change(PRIORITIES, intake=mode, intake_reason=reason[:500], intake_until=until)

    def resume_intake(self) -> Routing:
        """Take submissions again; held tasks follow by the sweeper."""
        return self._change(PRIORITIES, intake=Intake.OPEN, intake_reason=None, intake_until=None)

    def route(self, *, redis_percent: int, priorities: Iterable[Priority] = PRIORITIES) -> Routing:
        """Send this share of tasks by Redis from now on; waiting rows follow."""
        return self._change(priorities, redis_percent=redis_percent)

    def _change(self, priorities: Iterable[Priority], **values: Any) -> Routing:
        wanted = list(priorities)
        rules = self.store.routing.change(wanted, **values)
        self.waking.rules_changed(wanted)
        return rules

    def dispatch(self, priorities: Iterable[Priority] = PRIORITIES) -> int:
        """Route these priorities by Redis and move every waiting row there. Returns how many moved."""
        return self._route_and_move(list(priorities), redis_percent=100)

    def recall(self, priorities: Iterable[Priority] = PRIORITIES) -> int:
        """Route these priorities by the database and move every waiting row back. Returns how many moved."""
        return self._route_and_move(list(priorities), redis_percent=0)

    def _route_and_move(self, priorities: list[Priority], *, redis_percent: int) -> int:
        self.route(redis_percent=redis_percent, priorities=priorities)
        total = 0
        for priority in priorities:
            while moved := self.move_batch(priority):
                total += moved
        return total

    def move_batch(self, priority: Priority, *, limit: int = 500) -> int:
        """Move one batch of waiting rows that are not on the track that the routing names."""
        moves = self.store.moves.to_right_track(priority, limit=limit)
        self.push_moved(moves)
        return len(moves)

    def clear(self, priority: Priority, *, batch: int = 500) -> int:
        """Cancel every waiting task of a priority. Returns how many."""
        total = 0
        while cancelled := self.store.moves.cancel_waiting(priority, limit=batch):
            total += cancelled
        if self.tickets is not None and total:
            try:
                self.tickets.clear(priority)
            except RedisUnavailable:
                log.warning("tickets.not_cleared", priority=priority.value)
        return total

    # --- tickets ------------------------------------------------------------------------------------

    def push(self, tickets: list[Ticket], *, front: bool = False) -> None:
        """Push tickets of committed rows, with `front` before all that wait. Never raises: what cannot be
        pushed now, the sweeper pushes."""
        if not tickets:
            return
        if self.tickets is None or not self.tickets.health.worth_a_try:
            log.debug("tickets.left_to_sweeper", count=len(tickets))
            return
        try:
            if self.tickets.push(tickets, front=front) < len(tickets):
                self.waking.due()  # to refill the window, which is full
        except RedisUnavailable as error:
            log.warning("tickets.left_to_sweeper", count=len(tickets), reason=str(error))

    def push_moved(self, moves: Iterable[Moved], *, front: bool = False) -> None:
        """Push the tickets of moved rows, and wake who waits for rows. `front`: before all that wait."""
        moves = list(moves)
        groups: dict[bool, list[Ticket]] = {True: [], False: []}
        for move in moves:
            if move.ticket is not None:
                groups[front or move.front].append(move.ticket)
        for first, tickets in groups.items():
            self.push(tickets, front=first)
        self.waking.follow(moves)

    def withdraw(self, tickets: Sequence[Ticket], *, from_the_head: bool = False) -> None:
        """Take tickets of one queue that became stale out of it, so that `LLEN` tells the truth at once."""
        if not tickets or self.tickets is None or not self.tickets.health.worth_a_try:
            return
        try:
            ids = [ticket.job_id for ticket in tickets]
            self.tickets.remove(tickets[0].priority, ids, from_the_head=from_the_head)
        except RedisUnavailable:
            log.info("tickets.left_to_sweeper", count=len(tickets))
