"""TaskQueue: the verbs. Submit, cancel, retry, reprioritise, pause, and the pushes that follow them.

Commit first, push the ticket second: a verb's answer means that the row is stored, whatever Redis does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from app.tasks.admission import Admission, Decision
from app.tasks.after_commit import after_commit
from app.tasks.bulks import Answers, submit_in_parts
from app.tasks.combining import Combiner
from app.tasks.database import CommitUnknown
from app.tasks.errors import (
    DatabaseUnavailable,
    QueueFull,
    RedisUnavailable,
    TaskError,
)
from app.tasks.families import Families
from app.tasks.handlers import HandlerRegistry
from app.tasks.ids import IdSource
from app.tasks.model import PRIORITIES, Moved, NewTask, Priority, Status, Submitted, Ticket
from app.tasks.routing import Intake, Routing
from app.tasks.schedule_requests import ScheduleCheck
from app.tasks.schedules import Schedules
from app.tasks.settings import CoreSettings
from app.tasks.store import Store
from app.tasks.store.submitting import Placement, Refusal
from app.tasks.submission import RequestCheck, TaskRequest
from app.tasks.tickets import RQQueueManager
from app.tasks.waking import Waking, first_moves, first_ticket

TRIES = 20

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
        self._check = RequestCheck(handlers, self.settings, self._ids, now, lane_of_pool=store.pools.lane)
        self._admission = Admission(self.settings, now)
        self._combined = Combiner(self._submit_checked, self._submit_together)
        self.waking = Waking(store.notices, tickets)
        self.schedules = Schedules(
            store,
            ScheduleCheck(self._check),
            next_id=self._ids.next,
            lane_of_name=self._check.lane_of_name,
            active_keys=self._admission.slots,
            follow=self._follow,
            changed=self.waking.due,
        )
        self.families = Families(store, self._check, follow=self.push_moved, cancel=self.cancel)

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
            answer = self._combined(new)
            if isinstance(answer, TaskError):
                raise answer
            return answer
        submitted = self._insert(new, connection)
        if submitted.created:
            for move in first_moves(new, submitted, self._now):
                after_commit(connection, move, self.push_moved)
        return submitted

    def submit_many(self, requests: Iterable[TaskRequest]) -> Answers:
        """Store many tasks, a few statements per thousand. Each request has its own answer, in order:
        a `Submitted`, or the error that `submit` would raise for it.

        More than `bulks.PART` go in parts of that size, each in a transaction of its own. An outage is raised
        as `DatabaseUnavailable` if nothing was stored, and is else the answer to those that were not.
        """
        self._refuse_when_full()
        return submit_in_parts(requests, self._check, self._store_bulk)

    def _submit_checked(self, new: NewTask) -> Submitted | TaskError:
        try:
            submitted = self._insert(new, None)
        except DatabaseUnavailable:
            raise
        except TaskError as error:
            return error
        self._follow(new, submitted)
        return submitted

    def _follow(self, new: NewTask, submitted: Submitted) -> None:
        """What follows the commit of a birth: its ticket, or a word to who waits for rows."""
        if submitted.created:
            self.push_moved(first_moves(new, submitted, self._now))

    def _insert(self, new: NewTask, connection: Connection | None) -> Submitted:
        rules = self.store.routing.known()  # the insert is guarded by their version, however old they are
        if rules[new.priority].intake is not Intake.OPEN:
            rules = self.store.routing.current()  # a refusal is guarded by nothing
        slots = self._admission.slots(new)
        doubtful: set[int] = set()
        for _ in range(TRIES):
            placement = self._admission.place(new, rules[new.priority], slots[0] if slots else None)
            refusal = self._insert_placed(new, placement, connection, doubtful)
            match refusal:
                case None:
                    return Submitted(new.task_id, placement.status, new.line)
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
                    new = new._replace(task_id=self._ids.next())
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

    def _submit_together(self, news: Sequence[NewTask]) -> Answers:
        """A party of submissions: those alike by one statement, if the routing alone decides of them."""
        groups = self._admission.alike(news, self.store.routing.known())
        if groups is None:
            return self._insert_bulk(news)
        answers: dict[int, Submitted | TaskError] = {}
        for (placement, _), group in groups.items():
            try:
                answered = self._insert_alike(placement, group)
            except DatabaseUnavailable as error:  # the other groups are stored, or will say so themselves
                answered = [error] * len(group)
            answers |= zip([new.task_id for new in group], answered, strict=True)
        return [answers[new.task_id] for new in news]

    def _insert_alike(self, placement: Placement, news: Sequence[NewTask]) -> Answers:
        if self.store.submissions.insert_alike(placement, news):
            return self._follow_all(news, [placement] * len(news))
        self.store.routing.refresh()
        return self._insert_bulk(news)

    def _insert_bulk(self, news: Sequence[NewTask]) -> Answers:
        """Store many in one transaction with one push: each as if those before it were stored already."""
        return self._store_bulk(news)() if news else []

    def _store_bulk(self, news: Sequence[NewTask]) -> Callable[[], Answers]:
        """Store many in one transaction. Returns what is to follow its commit, and gives the answers."""
        for _ in range(2):  # who takes a key or a place at the same moment is seen by the second try
            try:
                decided = self._store_all(news)
            except IntegrityError:
                continue
            return lambda: self._follow_all(news, decided)
        # two processes drew one node and met in a millisecond: one by one finds out
        answers = [self._submit_checked(new) for new in news]
        return lambda: answers

    def _store_all(self, news: Sequence[NewTask]) -> list[Decision]:
        """Decide and store. Raises `IntegrityError`, and nothing is stored."""
        decided: list[Decision] = []

        def work(on: Connection) -> None:
            submissions = self.store.submissions
            rules, now = submissions.hold_routing(on, {new.priority for new in news})
            keys = {new.idempotency_key for new in news if new.idempotency_key is not None}
            slots = {slot for new in news for slot in self._admission.slots(new)}
            present, taken = submissions.with_keys(keys, on), submissions.active_of(slots, on)
            decided[:] = self._admission.decide_all(news, rules, present, taken)
            placed = [(new, at) for new, at in zip(news, decided, strict=True) if isinstance(at, Placement)]
            submissions.insert_many(placed, on, now)

        try:
            self.store.database.run(work)
        except CommitUnknown:
            pairs = zip(news, decided, strict=False)  # nothing is decided if not even the work was done
            wanted = [new.task_id for new, decision in pairs if isinstance(decision, Placement)]
            if not self.store.submissions.stored(wanted[:1]):  # one transaction: one row tells of all
                raise
        return decided

    def _follow_all(self, news: Sequence[NewTask], decided: Sequence[Decision]) -> Answers:
        answers: Answers = []
        tickets: list[Ticket] = []
        others: list[Moved] = []
        for new, decision in zip(news, decided, strict=True):
            if isinstance(decision, Placement):
                decision = Submitted(new.task_id, decision.status, new.line)
                if decision.status is Status.DISPATCHED:
                    tickets.append(first_ticket(new))
                else:
                    others += first_moves(new, decision, self._now)
            answers.append(decision)
        self.push(tickets)
        self.push_moved(others)
        return answers

    def _present(self, new: NewTask, connection: Connection | None) -> Submitted | None:
        assert new.idempotency_key is not None
        found = self.store.submissions.with_keys([new.idempotency_key], connection)
        present = found.get(new.idempotency_key)
        return None if present is None else self._admission.answer_of(new, present)

    def _free_slots(self, new: NewTask, connection: Connection | None) -> list[str]:
        taken = self.store.submissions.active_of(self._admission.slots(new), connection)
        return self._admission.free_slots(new, taken)

    def _refuse_when_full(self) -> None:
        limit = self.settings.queue_size_limit
        if limit and self.store.submissions.at_least_waiting(limit):
            raise QueueFull(limit=limit)

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
        slots = self._admission.slots(new)
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

    def route(
        self, *, redis_percent: int, priorities: Iterable[Priority] = PRIORITIES, forget_names: bool = False
    ) -> Routing:
        """Send this share of tasks by Redis from now on; waiting rows follow. With `forget_names` it is the
        share of those tasks, too, whose name had one of its own. Raises `RoutingTaken` beside a transfer."""
        names: dict[str, Any] = {"name_percents": {}} if forget_names else {}
        wanted = list(priorities)
        rules = self.store.routing.change_free(wanted, redis_percent=redis_percent, **names)
        self.waking.rules_changed(wanted)
        return rules

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
