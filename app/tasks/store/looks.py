"""One statement that tells whether there is anything to do: what idle processes ask instead of trying.

Each look brings the routing along, so that an idle process needs no other statement to stay up to date.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import exists, func, select
from sqlalchemy.sql.elements import ColumnElement

from app.tasks.database import Database
from app.tasks.model import Priority, Status
from app.tasks.routing import Routing
from app.tasks.schema import AnyRow, database_now, locks, routing, schedules, tasks
from app.tasks.source_tables import legacy_ends
from app.tasks.store.families import some_are_open
from app.tasks.store.lanes import in_a_queue
from app.tasks.store.routing import RoutingTable, route_of


@dataclass(frozen=True, slots=True)
class Glance:
    """What a sweeper must know before it acts. Seconds are by the database's clock, from now on."""

    rules: Routing
    lock_holder: str | None
    lock_left_seconds: float
    queued: bool
    dispatched: bool
    processing: bool
    next_due_seconds: float | None
    next_run_seconds: float | None
    families: bool = False
    untold: bool = False  # rows of legacy tables in other databases are to be told something

    @property
    def anything_live(self) -> bool:
        """True if some task waits for a worker or for children, or is in a worker's hands."""
        return self.queued or self.dispatched or self.processing or self.families


class Looks:
    def __init__(self, database: Database, routing_table: RoutingTable) -> None:
        self._database = database
        self._routing = routing_table
        self._queued = select(
            routing, _some(Status.QUEUED, tasks.c.priority == routing.c.priority).label("some")
        )
        self._glances: dict[str, Any] = {}

    def queued(self) -> tuple[Routing, set[Priority]]:
        """The rules, and the priorities of which some row is QUEUED."""
        rows = self._read(self._queued)
        return self._remember(rows), {row.priority for row in rows if row.some}

    def glance(self, lock: str) -> Glance:
        """What there may be to heal, and who holds the sweeper's lock."""
        query = self._glances.setdefault(lock, _glance(lock))
        rows = self._read(query)
        rules = self._remember(rows)
        first = rows[0]
        return Glance(
            rules=rules,
            lock_holder=first.lock_holder,
            lock_left_seconds=_seconds(first.lock_until, first.now) or 0.0,
            queued=bool(first.queued),
            dispatched=bool(first.dispatched),
            processing=bool(first.processing),
            next_due_seconds=_seconds(first.next_due, first.now),
            next_run_seconds=_seconds(first.next_run, first.now),
            families=bool(first.families),
            untold=bool(first.untold),
        )

    def _read(self, query: Any) -> list[AnyRow]:
        return self._database.read(lambda on: list[AnyRow](on.execute(query)))

    def _remember(self, rows: Sequence[AnyRow]) -> Routing:
        return self._routing.remember({row.priority: route_of(row) for row in rows})


def _seconds(moment: datetime | None, now: datetime) -> float | None:
    return None if moment is None else (moment - now).total_seconds()


def _some(status: Status, *conditions: ColumnElement[bool]) -> ColumnElement[bool]:
    return exists(select(tasks.c.id).where(tasks.c.status == status, *conditions))


def _glance(lock: str) -> Any:
    of_lock = locks.c.name == lock
    # no MIN: beside another condition MariaDB would read every scheduled row for it
    next_due = (
        select(tasks.c.run_at)
        .where(tasks.c.run_at.is_not(None), tasks.c.held.is_(False))
        .order_by(tasks.c.run_at)
        .limit(1)
    )
    return select(
        routing,
        database_now().label("now"),
        select(locks.c.holder).where(of_lock).scalar_subquery().label("lock_holder"),
        select(locks.c.until_at).where(of_lock).scalar_subquery().label("lock_until"),
        next_due.scalar_subquery().label("next_due"),
        select(func.min(schedules.c.next_run_at)).scalar_subquery().label("next_run"),
        _some(Status.QUEUED, in_a_queue()).label("queued"),
        _some(Status.DISPATCHED).label("dispatched"),
        _some(Status.PROCESSING).label("processing"),
        some_are_open().label("families"),
        exists(select(legacy_ends.c.task_id)).label("untold"),
    )
