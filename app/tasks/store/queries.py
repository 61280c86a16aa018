"""Reading tasks: one, many, counts, history. Writes nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Select, func, select, union_all

from app.tasks.database import Database
from app.tasks.errors import TaskNotFound
from app.tasks.keys import PlannedRun
from app.tasks.model import PRIORITIES, Event, Priority, Status, Task
from app.tasks.schema import AnyRow, database_now, task_events, tasks
from app.tasks.store.lanes import in_a_queue

PAGE_ROWS = 50
PAGE_LIMIT = 500
LARGE_COUNT = 5_000
LARGE_COUNT_SHARE = 20
HEAD_ROWS = 500

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
        self._kept: dict[Status, tuple[float, dict[Priority, int]]] = {}

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

    def keyed(self, prefix: str) -> dict[int, Status]:
        """The tasks whose idempotency key begins so, with their status."""
        its_key = tasks.c.idempotency_key.startswith(prefix, autoescape=True)
        query = select(tasks.c.id, tasks.c.status).where(its_key)
        return self._database.read(lambda on: {row.id: row.status for row in on.execute(query)})

    def counts(self, statuses: Iterable[Status] = Status) -> dict[Status, dict[Priority, int]]:
        """How many tasks of each of these statuses and of each queue's priority there are, zeros included.

        A status may have millions of rows: counting those takes at most a twentieth of the time, so their
        numbers are as old as twenty times what the count took. Up to some thousands are counted each time.
        """
        now = self._clock()
        wanted = set(statuses)
        kept = {s: numbers for s, (until, numbers) in self._kept.items() if s in wanted and now < until}
        counts = kept | self._count([status for status in wanted if status not in kept])
        until = self._clock() + LARGE_COUNT_SHARE * (self._clock() - now)
        for status in counts.keys() - kept.keys():
            if sum(counts[status].values()) > LARGE_COUNT:
                self._kept[status] = (until, counts[status])
        return {status: dict(numbers) for status, numbers in counts.items()}

    def _count(self, statuses: Sequence[Status]) -> dict[Status, dict[Priority, int]]:
        counts = {status: dict.fromkeys(PRIORITIES, 0) for status in statuses}
        if statuses:
            query = (
                select(tasks.c.status, tasks.c.priority, func.count())
                .where(tasks.c.status.in_(statuses), in_a_queue())
                .group_by(tasks.c.status, tasks.c.priority)
            )
            for status, priority, number in self._database.read(lambda on: on.execute(query).all()):
                counts[status][priority] = number
        return counts

    def oldest_waiting_seconds(self, statuses: Iterable[Status]) -> float | None:
        """Age, by the database's clock, of the oldest row in these waiting statuses.

        Of a queue with more than some hundred rows, the first in order of service are asked: the table may
        have millions, and no index knows since when they wait.
        """
        heads = [head for status in statuses for head in _heads(status)]
        query = select(func.min(union_all(*heads).subquery().c.waiting_since), database_now())
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


def _heads(status: Status) -> list[Select[Any]]:
    """When the first rows of each queue began to wait: those that were never seen in Redis, and those that
    were. Each part is one walk along the index."""
    parts = []
    for priority in PRIORITIES:
        rows = select(tasks.c.waiting_since).where(tasks.c.status == status, tasks.c.priority == priority)
        parts.append(rows.where(tasks.c.confirmed_in == 0).order_by(tasks.c.id))
        if status is Status.DISPATCHED:
            seen = rows.where(tasks.c.confirmed_in > 0)
            parts.append(seen.order_by(tasks.c.confirmed_in, tasks.c.id))
    return [select(part.limit(HEAD_ROWS).subquery().c.waiting_since) for part in parts]


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
