"""Reading tasks: one, many, counts, history. Writes nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select

from app.tasks.database import Database
from app.tasks.errors import TaskNotFound
from app.tasks.model import ENDED, PRIORITIES, Event, PlannedRun, Priority, Status, Task
from app.tasks.schema import AnyRow, database_now, task_events, tasks

PAGE_ROWS = 50
PAGE_LIMIT = 500
ENDED_COUNT_SHARE = 20

_LISTED = [column for column in tasks.c if column.name not in ("token", "active_key", "confirmed_in")]


@dataclass(frozen=True, slots=True)
class Filter:
    """What a list is narrowed to; None means any."""

    status: Status | None = None
    priority: Priority | None = None
    name: str | None = None
    user_id: str | None = None
    ids: Sequence[int] | None = None


class Queries:
    def __init__(self, database: Database, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._clock = clock
        self._ended: dict[tuple[Status, Priority], int] = {}
        self._ended_until = 0.0

    def task(self, task_id: int) -> Task:
        """Raises `TaskNotFound`."""
        query = select(*_LISTED).where(tasks.c.id == task_id)
        row = self._database.read(lambda on: on.execute(query).first())
        if row is None:
            raise TaskNotFound(task_id)
        return _task(row)

    def page(
        self, wanted: Filter | None = None, *, limit: int = PAGE_ROWS, before_id: int | None = None
    ) -> list[Task]:
        """Tasks newest first; `before_id` continues after the last one of the page before."""
        wanted = wanted or Filter()
        query = select(*_LISTED).order_by(tasks.c.id.desc()).limit(min(limit, PAGE_LIMIT))
        for column, value in (
            (tasks.c.status, wanted.status),
            (tasks.c.priority, wanted.priority),
            (tasks.c.name, wanted.name),
            (tasks.c.user_id, wanted.user_id),
        ):
            if value is not None:
                query = query.where(column == value)
        if wanted.ids is not None:
            query = query.where(tasks.c.id.in_(list(wanted.ids)))
        if before_id is not None:
            query = query.where(tasks.c.id < before_id)
        rows = self._database.read(lambda on: on.execute(query).all())
        return [_task(row) for row in rows]

    def counts(self) -> dict[Status, dict[Priority, int]]:
        """How many tasks of each status and priority there are, zeros included.

        Ended tasks may be millions: counting them takes at most a twentieth of the time, so their numbers
        are as old as twenty times what the count took, a fraction of a second for thousands.
        """
        counts = {status: dict.fromkeys(PRIORITIES, 0) for status in Status}
        began = self._clock()
        if began >= self._ended_until:
            self._ended = self._count(ENDED)
            self._ended_until = self._clock() + ENDED_COUNT_SHARE * (self._clock() - began)
        open_ones = self._count([status for status in Status if status not in ENDED])
        for (status, priority), number in (self._ended | open_ones).items():
            counts[status][priority] = number
        return counts

    def _count(self, statuses: Iterable[Status]) -> dict[tuple[Status, Priority], int]:
        query = (
            select(tasks.c.status, tasks.c.priority, func.count())
            .where(tasks.c.status.in_(list(statuses)))
            .group_by(tasks.c.status, tasks.c.priority)
        )
        rows = self._database.read(lambda on: on.execute(query).all())
        return {(status, priority): number for status, priority, number in rows}

    def oldest_waiting_seconds(self, statuses: Iterable[Status]) -> float | None:
        """Age, by the database's clock, of the oldest row in these waiting statuses."""
        query = select(func.min(tasks.c.waiting_since), database_now()).where(
            tasks.c.status.in_(list(statuses))
        )
        oldest, now = self._database.read(lambda on: tuple(on.execute(query).one()))
        return None if oldest is None else max(0.0, (now - oldest).total_seconds())

    def statuses(self, task_ids: Sequence[int]) -> dict[int, Status]:
        """The status of each of these tasks that is still there."""
        query = select(tasks.c.id, tasks.c.status).where(tasks.c.id.in_(list(task_ids)))
        if not task_ids:
            return {}
        return self._database.read(lambda on: {row.id: row.status for row in on.execute(query)})

    def events(self, task_id: int) -> list[Event]:
        query = (
            select(task_events).where(task_events.c.task_id == task_id).order_by(task_events.c.id).limit(200)
        )
        rows = self._database.read(lambda on: on.execute(query).all())
        return [Event(row.task_id, row.at, row.kind, json.loads(row.detail)) for row in rows]

    def next_run_at(self) -> datetime | None:
        """When the next SCHEDULED task is due."""
        query = select(func.min(tasks.c.run_at)).where(tasks.c.run_at.is_not(None))
        moment: datetime | None = self._database.read(lambda on: on.execute(query).scalar_one())
        return moment


def _task(row: AnyRow) -> Task:
    fields = dict(row._mapping)
    fields["task_id"] = fields.pop("id")
    fields["planned_run"] = PlannedRun.of_key(fields.pop("idempotency_key"))
    fields.pop("lease_until", None)
    fields["payload"] = _decoded(fields["payload"])
    fields["result"] = None if fields["result"] is None else _decoded(fields["result"])
    return Task(**fields)


def _decoded(text: str) -> Any:
    """A row's JSON; text that is none (another system wrote it) is shown as it is."""
    try:
        return json.loads(text)
    except ValueError:
        return text
