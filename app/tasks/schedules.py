"""Recurring tasks: the verbs on schedules, and the scheduler that fires what is due.

A run is fired by one transaction that moves the schedule from its planned time to the next, guarded by the
planned time, and inserts the task with the planned time in its idempotency key. So it does not matter how
many schedulers look, or where one of them is killed: each planned time is fired once. Runs that were missed
are made up for by one, planned for the first of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

import structlog

from app.tasks.errors import ScheduleNotFound, ScheduleRefused, TaskError
from app.tasks.keys import PlannedRun
from app.tasks.model import (
    NewTask,
    Origin,
    Overlap,
    Schedule,
    ScheduleState,
    Submitted,
)
from app.tasks.recurrence import Recurrence
from app.tasks.schedule_requests import ScheduleCheck, ScheduleRequest, columns_of
from app.tasks.store import Store
from app.tasks.store.schedules import CLASHED, Fired, ScheduleRows

BATCH = 100
TRIES = 20
CHANGED_MEANWHILE = "somebody else changed it, or it ran, at this moment; look and try again"

log = structlog.get_logger(__name__)


class Schedules:
    """The verbs on schedules. Safe for threads."""

    def __init__(
        self,
        store: Store,
        check: ScheduleCheck,
        *,
        next_id: Callable[[], int],
        lane_of_name: Callable[[str], int | None],
        active_keys: Callable[[NewTask], list[str]],
        follow: Callable[[NewTask, Submitted], None],
        changed: Callable[[], None],
    ) -> None:
        """`follow` is told of each task that was fired; `changed`, that a next time may be another."""
        self._store = store
        self.check = check
        self._next_id = next_id
        self._lane_of_name = lane_of_name
        self._active_keys = active_keys
        self._follow = follow
        self._changed = changed

    @property
    def _rows(self) -> ScheduleRows:
        return self._store.schedules

    # --- for people and programs ----------------------------------------------------------------------

    def list(self) -> list[Schedule]:
        """Every schedule, by name."""
        return self._rows.all()

    def get(self, name: str) -> Schedule:
        """Raises `ScheduleNotFound`."""
        found = self._rows.find(name)
        if found is None:
            raise ScheduleNotFound(name)
        return found

    def create(self, request: ScheduleRequest) -> Schedule:
        """Store a schedule. Raises `InvalidTask` naming each wrong field, `ScheduleRefused` if the name is
        taken."""
        values = self.check(request) | self._begin(request.enabled, request.recurrence)
        if not self._rows.add(request.name, values | {"origin": Origin.API}):
            raise ScheduleRefused(request.name, "the name is taken")
        log.info("schedule.created", schedule=request.name, task=request.task)
        self._changed()
        return self.get(request.name)

    def change(self, name: str, changes: Mapping[str, Any]) -> Schedule:
        """Change fields of `ScheduleRequest`; `enabled` pauses or resumes. A new cron expression, interval or
        zone begins now; otherwise the next time stays.

        Raises `InvalidTask`, `ScheduleNotFound`, and `ScheduleRefused`: what the code declares can only be
        paused and resumed here.
        """
        seen = self.get(name)
        definition = {field: value for field, value in changes.items() if field != "enabled"}
        if definition and seen.origin is Origin.CODE:
            raise ScheduleRefused(name, "the code declares it; here it can only be paused and resumed")
        values: dict[str, Any] = {}
        recurrence = seen.recurrence
        if definition:
            wanted = replace(ScheduleRequest.of(seen), **_one_rule(definition))
            values, recurrence = self.check(wanted), wanted.recurrence
        enabled = changes.get("enabled", seen.state is ScheduleState.ACTIVE)
        if enabled and seen.state is ScheduleState.WITHDRAWN:
            raise ScheduleRefused(name, "the code does not declare it any more, or declares it disabled")
        if recurrence != seen.recurrence or enabled != (seen.state is ScheduleState.ACTIVE):
            values |= self._begin(enabled, recurrence, otherwise=seen.state)
        if values and not self._rows.change(seen, values):
            raise ScheduleRefused(name, CHANGED_MEANWHILE)
        self._changed()
        return self.get(name)

    def pause(self, name: str) -> Schedule:
        """Plan no more runs; what has been fired goes on."""
        return self.change(name, {"enabled": False})

    def resume(self, name: str) -> Schedule:
        """Plan the next run from now on; nothing is made up for."""
        return self.change(name, {"enabled": True})

    def remove(self, name: str) -> None:
        """Forget a schedule; its tasks stay. Raises `ScheduleNotFound`, `ScheduleRefused`."""
        seen = self.get(name)
        if seen.origin is Origin.CODE and seen.state is not ScheduleState.WITHDRAWN:
            raise ScheduleRefused(name, "the code declares it, it would come back; pause it instead")
        if not self._rows.remove(seen):
            raise ScheduleRefused(name, CHANGED_MEANWHILE)
        log.info("schedule.removed", schedule=name)

    def run_now(self, name: str) -> Submitted:
        """Fire one run beside the plan, planned for now; also of a paused schedule.

        Raises `ScheduleNotFound`, and `ScheduleRefused` if a run is open or its user may have no more tasks.
        """
        for _ in range(TRIES):
            seen = self.get(name)
            planned = self._store.database.now()
            fired = self._fire(seen, planned, seen.next_run_at, may_skip=False)
            if fired is None:
                continue
            if fired.submitted is None:
                task_id = seen.last_task_id if seen.overlap is Overlap.SKIP else None
                raise ScheduleRefused(name, fired.skip_reason or "", task_id=task_id)
            return fired.submitted
        raise TaskError("the run met other changes again and again; nothing was stored, try again")

    def _begin(
        self, enabled: bool, recurrence: Recurrence, *, otherwise: ScheduleState = ScheduleState.PAUSED
    ) -> dict[str, Any]:
        """State and next time of a schedule that begins, or stops, now."""
        if not enabled:
            state = otherwise if otherwise is ScheduleState.WITHDRAWN else ScheduleState.PAUSED
            return {"state": state, "next_run_at": None}
        planned = recurrence.first_after(self._store.database.now())
        return {"state": ScheduleState.ACTIVE, "next_run_at": planned, "skip_reason": None}

    # --- what the code declares -------------------------------------------------------------------------

    def sync(self, declared: Iterable[ScheduleRequest]) -> None:
        """Bring the rows to what the code declares: new ones begin, changed ones change, missing ones are
        withdrawn. What has not changed keeps its next time, and what an operator paused stays paused.

        Raises `InvalidTask`, `DatabaseUnavailable`. Processes that start together do not disturb each other.
        """
        present = {schedule.name: schedule for schedule in self._rows.all()}
        wanted = {request.name: request for request in declared}
        for name, request in wanted.items():
            seen = present.get(name)
            if seen is None:
                begin = self._begin(request.enabled, request.recurrence, otherwise=ScheduleState.WITHDRAWN)
                self._rows.add(name, self.check(request) | begin | {"origin": Origin.CODE})
            elif seen.origin is Origin.API:
                log.warning("schedule.name_taken", schedule=name, reason="one made by the API has this name")
            else:
                self._sync_one(seen, request)
        for name, seen in present.items():
            gone = name not in wanted and seen.origin is Origin.CODE
            if gone and seen.state is not ScheduleState.WITHDRAWN:
                self._rows.change(seen, {"state": ScheduleState.WITHDRAWN, "next_run_at": None})
                log.info("schedule.withdrawn", schedule=name)

    def _sync_one(self, seen: Schedule, request: ScheduleRequest) -> None:
        recurrence = request.recurrence
        values = self.check(request)
        changed = {column: value for column, value in values.items() if value != columns_of(seen)[column]}
        if not request.enabled:
            begin = {"state": ScheduleState.WITHDRAWN, "next_run_at": None}
            changed |= begin if seen.state is not ScheduleState.WITHDRAWN else {}
        elif seen.state is ScheduleState.WITHDRAWN or (
            seen.state is ScheduleState.ACTIVE and recurrence != seen.recurrence
        ):
            changed |= self._begin(True, recurrence)
        if changed and self._rows.change(seen, changed):
            log.info("schedule.changed_by_code", schedule=seen.name, columns=sorted(changed))

    # --- firing -----------------------------------------------------------------------------------------

    def fire_due(self) -> int:
        """Fire every schedule whose time has come; returns how many runs were started or skipped."""
        due, now = self._rows.due(limit=BATCH)
        return sum(self._fire_planned(schedule, now) for schedule in due)

    def _fire_planned(self, schedule: Schedule, now: datetime) -> bool:
        assert schedule.next_run_at is not None
        try:
            next_run_at = schedule.recurrence.next_after(schedule.next_run_at, now)
        except (ValueError, LookupError, OSError, OverflowError) as error:  # its zone is unknown here
            self._give_up(schedule, error)
            return False
        fired = self._fire(schedule, schedule.next_run_at, next_run_at)
        if fired is None:
            return False
        self._tell(schedule, fired)
        return True

    def _fire(
        self, seen: Schedule, planned: datetime, next_run_at: datetime | None, *, may_skip: bool = True
    ) -> Fired | None:
        for _ in range(TRIES):
            new = self._run_of(seen, planned)
            keys = self._active_keys(new)
            fired = self._rows.fire(seen, new, next_run_at=next_run_at, active_keys=keys, may_skip=may_skip)
            if fired is not CLASHED:
                if fired is not None and fired.submitted is not None:
                    self._follow(new, fired.submitted)
                return fired
        raise TaskError("the run met other changes again and again; nothing was stored")

    def _run_of(self, seen: Schedule, planned: datetime) -> NewTask:
        return NewTask(
            task_id=self._next_id(),
            name=seen.task,
            payload=seen.payload,
            priority=seen.priority,
            user_id=seen.user_id,
            idempotency_key=PlannedRun(seen.name, planned).key,
            max_retries=seen.max_retries,
            timeout_seconds=seen.timeout_seconds,
            lane=self._lane_of_name(seen.task),
        )

    def _tell(self, schedule: Schedule, fired: Fired) -> None:
        if fired.submitted is None:
            log.warning("schedule.skipped", schedule=schedule.name, reason=fired.skip_reason)
        else:
            log.info("schedule.fired", schedule=schedule.name, task=fired.submitted.task_id)

    def _give_up(self, schedule: Schedule, error: Exception) -> None:
        """One schedule whose next time cannot be told must not hold up the others."""
        log.error("schedule.paused", schedule=schedule.name, reason=type(error).__name__)
        reason = f"its next time cannot be told here: {type(error).__name__}"
        values = {"state": ScheduleState.PAUSED, "next_run_at": None, "skip_reason": reason}
        self._rows.change(schedule, values)


def _one_rule(changes: Mapping[str, Any]) -> dict[str, Any]:
    """A new cron expression takes the place of an interval, and the other way round."""
    pairs = {"cron": "interval_seconds", "interval_seconds": "cron"}
    replaced = {other: None for rule, other in pairs.items() if changes.get(rule) is not None}
    return replaced | dict(changes)
