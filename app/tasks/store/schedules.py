"""The schedules' rows: read them, change them under their version, and fire one: its next time and the row of
its task in one transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete, insert, select, update
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from app.tasks.database import Database
from app.tasks.model import (
    ACTIVE,
    NewTask,
    Origin,
    Overlap,
    Schedule,
    ScheduleState,
    Status,
    Submitted,
)
from app.tasks.recurrence import Recurrence
from app.tasks.routing import Intake, Routing
from app.tasks.schema import AnyRow, database_now, schedules, tasks
from app.tasks.store.routing import hold_routing
from app.tasks.store.submitting import Placement, Submissions


@dataclass(frozen=True, slots=True)
class Fired:
    """What firing did: the task of this run, or why there is none."""

    submitted: Submitted | None
    skip_reason: str | None = None
    placement: Placement | None = None


CLASHED = Fired(None)


class ScheduleRows:
    def __init__(self, database: Database, submissions: Submissions) -> None:
        self._database = database
        self._submissions = submissions

    # --- reading --------------------------------------------------------------------------------------

    def all(self) -> list[Schedule]:
        """Every schedule, by name."""
        query = select(schedules).order_by(schedules.c.name)
        return [_schedule(row) for row in self._database.read(lambda on: on.execute(query).all())]

    def find(self, name: str) -> Schedule | None:
        query = select(schedules).where(schedules.c.name == name)
        row = self._database.read(lambda on: on.execute(query).first())
        return None if row is None else _schedule(row)

    def due(self, *, limit: int) -> tuple[list[Schedule], datetime]:
        """Schedules whose time has come, the longest overdue first, and the database's clock."""
        query = (
            select(schedules, database_now().label("read_at"))
            .where(schedules.c.next_run_at <= database_now())
            .order_by(schedules.c.next_run_at)
            .limit(limit)
        )
        rows = self._database.read(lambda on: on.execute(query).all())
        return [_schedule(row) for row in rows], rows[0].read_at if rows else self._database.now()

    # --- writing ----------------------------------------------------------------------------------------

    def add(self, name: str, values: Mapping[str, Any]) -> bool:
        """Insert a schedule; false if the name is taken."""
        statement = insert(schedules).values(
            name=name, version=1, created_at=database_now(), changed_at=database_now(), **values
        )
        try:
            self._database.write_one(lambda on: on.execute(statement))
        except IntegrityError:
            return False
        return True

    def change(self, seen: Schedule, values: Mapping[str, Any]) -> bool:
        """Change a schedule if it is still as it was seen."""
        statement = _guarded(seen).values(
            version=schedules.c.version + 1, changed_at=database_now(), **values
        )
        return self._database.write_one(lambda on: on.execute(statement).rowcount) == 1

    def remove(self, seen: Schedule) -> bool:
        statement = delete(schedules).where(
            schedules.c.name == seen.name, schedules.c.version == seen.version
        )
        return self._database.write_one(lambda on: on.execute(statement).rowcount) == 1

    def fire(
        self,
        seen: Schedule,
        new: NewTask,
        *,
        next_run_at: datetime | None,
        active_keys: Sequence[str],
        may_skip: bool = True,
    ) -> Fired | None:
        """Advance the schedule and insert the task of this run, both or neither; None: somebody was first.

        `new` carries the run's idempotency key, `active_keys` those that its user may take. What stands in
        the way is recorded as a skipped run, or without `may_skip` only told. While intake is paused the task
        is held, in either mode. `CLASHED`: another task took its id or its active key at the same moment;
        nothing was stored, and the same run can be tried with another id.
        """

        def work(on: Connection) -> Fired | None:
            rules, now = hold_routing(on, [new.priority])
            fired = self._of_this_run(on, new) or self._decide(on, seen, new, active_keys, rules, now)
            if fired.skip_reason is not None and not may_skip:
                return fired
            if not self._advance(on, seen, new, next_run_at, fired):
                return None
            if fired.placement is not None:
                self._submissions.insert_many([(new, fired.placement)], on, now)
            return fired

        try:
            return self._database.run(work)
        except IntegrityError:
            return CLASHED

    def _decide(
        self,
        on: Connection,
        seen: Schedule,
        new: NewTask,
        active_keys: Sequence[str],
        rules: Routing,
        now: datetime,
    ) -> Fired:
        if seen.overlap is Overlap.SKIP and self._is_open(on, seen.last_task_id):
            return Fired(None, f"task {seen.last_task_id} of the run before is still open")
        taken = self._submissions.active_of(active_keys, on) if active_keys else {}
        key = next((key for key in active_keys if key not in taken), None)
        if active_keys and key is None:
            return Fired(None, f"user {seen.user_id} has {len(active_keys)} active task(s) already")
        route = rules[new.priority]
        held = route.intake_at(now) is not Intake.OPEN
        status = Status.SCHEDULED if held else route.first_status(new)
        placement = Placement(status, route.version, held=held, active_key=key)
        return Fired(Submitted(new.task_id, status, new.line), placement=placement)

    def _of_this_run(self, on: Connection, new: NewTask) -> Fired | None:
        """The task that this planned time has already: a clock was put back, or the rule there and back."""
        assert new.idempotency_key is not None
        found = self._submissions.with_keys([new.idempotency_key], on).get(new.idempotency_key)
        if found is None:
            return None
        return Fired(Submitted(found.task_id, found.status, found.priority, created=False))

    def _is_open(self, on: Connection, task_id: int | None) -> bool:
        if task_id is None:
            return False
        query = select(tasks.c.id).where(tasks.c.id == task_id, tasks.c.status.in_(ACTIVE))
        return on.execute(query).first() is not None

    def _advance(
        self, on: Connection, seen: Schedule, new: NewTask, next_run_at: datetime | None, fired: Fired
    ) -> bool:
        """The guard of the run: of two that fire the same planned time, one changes the row."""
        values: dict[str, Any] = {"version": schedules.c.version + 1, "next_run_at": next_run_at}
        if fired.submitted is None:
            values |= {"skipped": schedules.c.skipped + 1, "skip_reason": (fired.skip_reason or "")[:200]}
        else:
            assert new.planned_run is not None
            values |= {"last_run_at": new.planned_run.planned_at, "last_task_id": fired.submitted.task_id}
            values |= {"skip_reason": None}
        return on.execute(_guarded(seen).values(values)).rowcount == 1


def _guarded(seen: Schedule) -> Any:
    unchanged = schedules.c.next_run_at == seen.next_run_at
    if seen.next_run_at is None:
        unchanged = schedules.c.next_run_at.is_(None)
    return update(schedules).where(
        schedules.c.name == seen.name, schedules.c.version == seen.version, unchanged
    )


def _schedule(row: AnyRow) -> Schedule:
    return Schedule(
        name=row.name,
        task=row.task,
        recurrence=Recurrence(row.cron, row.interval_seconds, row.time_zone),
        payload=row.payload,
        priority=row.priority,
        user_id=row.user_id,
        max_retries=row.max_retries,
        timeout_seconds=row.timeout_seconds,
        overlap=Overlap(row.overlap),
        origin=Origin(row.origin),
        state=ScheduleState(row.state),
        version=row.version,
        next_run_at=row.next_run_at,
        last_run_at=row.last_run_at,
        last_task_id=row.last_task_id,
        skipped=row.skipped,
        skip_reason=row.skip_reason,
        created_at=row.created_at,
        changed_at=row.changed_at,
    )
