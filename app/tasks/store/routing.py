"""The routing rows: read them, hold them for a transaction, change them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

from sqlalchemy import Select, insert, select, update
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from app.tasks.database import Database
from app.tasks.errors import RoutingTaken
from app.tasks.model import LANES, PRIORITIES, Priority, Track
from app.tasks.routing import LANE_ROUTES, Intake, Route, Routing
from app.tasks.schema import AnyRow, database_now, routing

_ALL = select(routing)


class RoutingTable:
    """The rules of all priorities. `current` may be a moment old; every insert is guarded by its version."""

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._clock = clock
        self._lock = threading.Lock()
        self._cached: tuple[float, Routing] | None = None

    def current(self, *, max_age_seconds: float = 1.0) -> Routing:
        """The rules, read at most `max_age_seconds` ago."""
        cached = self._cached
        if cached is not None and self._clock() - cached[0] <= max_age_seconds:
            return cached[1]
        return self.refresh()

    def known(self) -> Routing:
        """The rules as they were last read, however long ago: for who is corrected if they are old."""
        cached = self._cached
        return cached[1] if cached is not None else self.refresh()

    def refresh(self) -> Routing:
        return self.remember(self._database.read(read_routing))

    def remember(self, rules: Routing) -> Routing:
        with self._lock:
            self._cached = (self._clock(), rules)
        return rules

    def ensure(self, *, redis_percent: int) -> Routing:
        """Create missing rows with the start value of the settings; existing ones stay."""
        present = self._database.read(read_routing)
        for priority in PRIORITIES:
            if priority in present:
                continue
            row = {"priority": priority, "version": 1, "redis_percent": redis_percent, "name_percents": "{}"}
            try:
                self._database.write_one(lambda c, row=row: c.execute(insert(routing), row))  # type: ignore[misc]
            except IntegrityError:
                continue  # another process starting at the same time was first
        return self.refresh()

    def change(self, priorities: Iterable[Priority] = PRIORITIES, **values: Any) -> Routing:
        """Change columns of these priorities in one transaction and raise their versions.

        Waits for submissions in flight: when it returns, every later transition obeys the new rules.
        """
        wanted = list(priorities)

        def work(connection: Connection) -> Routing:
            change_routing(connection, wanted, **values)
            return read_routing(connection)

        return self.remember(self._database.run(work))

    def change_free(self, priorities: Iterable[Priority], **values: Any) -> Routing:
        """As `change`, of priorities that no transfer has. Raises `RoutingTaken`, and changes none."""
        wanted = list(priorities)

        def work(connection: Connection) -> Routing:
            rows = select(routing).where(routing.c.priority.in_(wanted)).order_by(routing.c.priority)
            for route in map(route_of, connection.execute(rows.with_for_update())):
                if route.transfer_id is not None:
                    raise RoutingTaken(priority=route.priority.value, transfer_id=route.transfer_id)
            change_routing(connection, wanted, **values)
            return read_routing(connection)

        return self.remember(self._database.run(work))


def change_routing(connection: Connection, priorities: Iterable[Priority], **values: Any) -> None:
    """As `RoutingTable.change`, in a transaction of the caller's."""
    if "name_percents" in values:
        values["name_percents"] = json.dumps(values["name_percents"], sort_keys=True)
    statement = update(routing).where(routing.c.priority.in_(list(priorities)))
    connection.execute(statement.values(version=routing.c.version + 1, **values))


def read_routing(connection: Connection) -> Routing:
    """The rules as they are now, without a lock."""
    return {route.priority: route for route in map(route_of, connection.execute(_ALL))}


def hold_routing(connection: Connection, priorities: Iterable[Priority]) -> tuple[Routing, datetime]:
    """The rules under a shared lock that lasts until the transaction ends, and the database's clock. Those of
    lanes come along: they never change.

    Every transition into QUEUED or DISPATCHED reads the rules this way, so a flip waits for it.
    """
    queues = set(priorities) - LANES.keys()
    if not queues:
        return LANE_ROUTES, connection.execute(select(database_now())).scalar_one()
    rows = connection.execute(_held_rows(queues)).all()
    rules = {route.priority: route for route in map(route_of, rows)}
    return {**rules, **LANE_ROUTES}, rows[0].read_at


def _held_rows(priorities: Iterable[Priority]) -> Select[Any]:
    return (
        select(routing, database_now().label("read_at"))
        .where(routing.c.priority.in_(sorted(priorities, key=lambda p: p.rank)))
        .order_by(routing.c.priority)
        .with_for_update(read=True)
    )


def route_of(row: AnyRow) -> Route:
    """The rules that a row of the table says."""
    return Route(
        priority=row.priority,
        version=row.version,
        redis_percent=row.redis_percent,
        name_percents=json.loads(row.name_percents),
        paused=row.paused,
        fenced_track=Track(row.fenced_track) if row.fenced_track else None,
        fallback=row.fallback,
        intake=Intake(row.intake),
        intake_until=row.intake_until,
        intake_reason=row.intake_reason,
        transfer_id=row.transfer_id,
        moving_to=Track(row.moving_to) if row.moving_to else None,
    )
