"""What becomes of a submission by the rules: its place, or why it gets none. Decides, and asks nobody.

What it goes by (the routing, and which keys and places of users are taken) its caller reads and guards.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from app.tasks.errors import IdempotencyConflict, IntakePaused, TaskError, UserLimitReached
from app.tasks.model import NewTask, Priority, Status, Submitted
from app.tasks.routing import Intake, Route, Routing
from app.tasks.settings import CoreSettings
from app.tasks.store.submitting import Placement, Present

PAUSED_RETRY_SECONDS = 60
ALIKE_CHARACTERS = 4_000_000  # of payload in one statement, far below any server's packet limit

Decision = Placement | Submitted | TaskError


def user_slots(user_id: str, limit: int) -> list[str]:
    """The active keys that a user's tasks share, of which each takes one; none: there is no limit."""
    return [f"{user_id}#{number}" for number in range(1, limit + 1)]


class Admission:
    def __init__(self, settings: CoreSettings, now: Callable[[], datetime]) -> None:
        self._limit = settings.active_tasks_per_user
        self._now = now

    def place(self, new: NewTask, route: Route, slot: str | None = None) -> Placement:
        """Where the rules put the task. Raises `IntakePaused`."""
        intake = route.intake
        if intake is not Intake.OPEN:
            intake = route.intake_at(self._now())
        if intake is Intake.REFUSE:
            raise self._paused(route)
        if new.run_at is not None or intake is Intake.HOLD:
            held = intake is Intake.HOLD
            return Placement(Status.SCHEDULED, route.version, held=held, active_key=slot)
        return Placement(route.first_status(new), route.version, active_key=slot)

    def alike(
        self, news: Sequence[NewTask], rules: Routing
    ) -> dict[tuple[Placement, Priority], list[NewTask]] | None:
        """The submissions by where they go; None if more than the rules decides of some, or it is much."""
        groups: dict[tuple[Placement, Priority], list[NewTask]] = defaultdict(list)
        characters = 0
        for new in news:
            route = rules[new.priority]
            if new.idempotency_key is not None or self.slots(new) or route.intake is not Intake.OPEN:
                return None
            if new.lane is not None:
                return None
            groups[self.place(new, route), new.priority].append(new)
            characters += len(new.payload)
        return groups if characters <= ALIKE_CHARACTERS else None

    def slots(self, new: NewTask) -> list[str]:
        """The active keys that this task may take: the unique key lets one task have each."""
        return [] if new.user_id is None else user_slots(new.user_id, self._limit)

    def free_slots(self, new: NewTask, taken: Mapping[str, int]) -> list[str]:
        """Those that no task has. Raises `UserLimitReached` if there is none."""
        slots = self.slots(new)
        free = [slot for slot in slots if slot not in taken]
        if not free:
            assert new.user_id is not None
            active = min((taken[slot] for slot in slots), default=None)
            raise UserLimitReached(user_id=new.user_id, limit=len(slots), active_task_id=active)
        return free

    def answer_of(self, new: NewTask, present: Present) -> Submitted:
        """The answer to a wish whose key is taken. Raises `IdempotencyConflict` if it was another wish."""
        if (present.name, present.payload, present.user_id) != (new.name, new.payload, new.user_id):
            assert new.idempotency_key is not None
            raise IdempotencyConflict(key=new.idempotency_key, task_id=present.task_id)
        return Submitted(present.task_id, present.status, present.priority, created=False)

    def decide_all(
        self,
        news: Sequence[NewTask],
        rules: Routing,
        present: Mapping[str, Present],
        taken: Mapping[str, int],
    ) -> list[Decision]:
        """Decide in order, for each as if those before it were stored. `present` are the tasks that have one
        of the idempotency keys, `taken` the active keys of these users that are not free."""
        present, taken = dict(present), dict(taken)
        decisions: list[Decision] = []
        for new in news:
            try:
                decision = self._decide(new, rules[new.priority], present, taken)
            except TaskError as error:
                decisions.append(error)
                continue
            decisions.append(decision)
            if isinstance(decision, Placement):
                if new.idempotency_key is not None:
                    wish = (new.task_id, new.name, new.payload, new.user_id)
                    present[new.idempotency_key] = Present(*wish, decision.status, new.priority)
                if decision.active_key is not None:
                    taken[decision.active_key] = new.task_id
        return decisions

    def _decide(
        self, new: NewTask, route: Route, present: Mapping[str, Present], taken: Mapping[str, int]
    ) -> Placement | Submitted:
        placement = self.place(new, route)
        known = present.get(new.idempotency_key) if new.idempotency_key is not None else None
        if known is not None:
            return self.answer_of(new, known)
        if self.slots(new):
            placement = placement._replace(active_key=self.free_slots(new, taken)[0])
        return placement

    def _paused(self, route: Route) -> IntakePaused:
        until = route.intake_until
        seconds = PAUSED_RETRY_SECONDS if until is None else (until - self._now()).total_seconds()
        return IntakePaused(
            reason=route.intake_reason or "no reason given",
            until=until,
            retry_after_seconds=max(1, round(seconds)),
        )
