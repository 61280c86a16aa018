"""Waiting rows on the wrong track of a share: found by walks along the index, a stretch at a time.

Only the routing tells them from the others, row by row, so a long backlog cannot be searched as a whole: each
look goes on where the last one ended, and from the start again when the rules have changed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Select, and_, or_, select
from sqlalchemy.engine import Connection

from app.tasks.model import Priority, Status
from app.tasks.routing import Route
from app.tasks.schema import tasks

STRETCH_ROWS = 5_000
STRETCHES_PER_LOOK = 4

_START = (0, 0)


@dataclass(slots=True)
class _Walk:
    """How far the rows of one priority were looked at: per status, `confirmed_in` and id of the last one."""

    version: int
    places: dict[Status, tuple[int, int]] = field(default_factory=dict)


class Misplaced:
    def __init__(self) -> None:
        self._walks: dict[Priority, _Walk] = {}

    def find(self, on: Connection, route: Route, *, limit: int) -> list[int]:
        """Up to `limit` ids of rows whose status is not what `route` says, from one bounded stretch of each
        track's backlog. None found does not mean that there are none, unless the backlog is short."""
        walk = self._walks.get(route.priority)
        if walk is None or walk.version != route.version:
            walk = self._walks[route.priority] = _Walk(route.version)
        found: list[int] = []
        for status in (Status.QUEUED, Status.DISPATCHED):
            for _ in range(STRETCHES_PER_LOOK):
                at_end = self._look(on, route, status, walk, limit, found)
                if at_end or len(found) >= limit:
                    break
        return found

    def _look(
        self, on: Connection, route: Route, status: Status, walk: _Walk, limit: int, found: list[int]
    ) -> bool:
        """Look at one stretch and move the walk's place. True at the end of the backlog."""
        rows = on.execute(_stretch(route.priority, status, walk.places.get(status, _START))).all()
        for task_id, confirmed_in, name in rows:
            if route.waiting_status(task_id, name) is not status:
                found.append(task_id)
                if len(found) >= limit:
                    walk.places[status] = (confirmed_in, task_id)
                    return False
        at_end = len(rows) < STRETCH_ROWS
        walk.places[status] = _START if at_end else (rows[-1].confirmed_in, rows[-1].id)
        return at_end


def _stretch(priority: Priority, status: Status, place: tuple[int, int]) -> Select[Any]:
    confirmed_in, task_id = place
    behind = or_(
        tasks.c.confirmed_in > confirmed_in,
        and_(tasks.c.confirmed_in == confirmed_in, tasks.c.id > task_id),
    )
    query = (
        select(tasks.c.id, tasks.c.confirmed_in, tasks.c.name)
        .where(tasks.c.status == status, tasks.c.priority == priority, behind)
        .order_by(tasks.c.confirmed_in, tasks.c.id)
        .limit(STRETCH_ROWS)
    )
    for dialect in ("mysql", "mariadb"):
        query = query.with_hint(tasks, "FORCE INDEX (ix_tasks_waiting)", dialect)
    return query
