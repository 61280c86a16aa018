"""Pools: named workers whose tasks wait in a lane of their own, with a limit of how many run at a time.

The limit is held by whoever claims (`Claims.of_pool_on`): it counts what runs, under a lock of the pool's
row.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from sqlalchemy import func, select, update

from app.tasks.database import Database
from app.tasks.model import ACTIVE, POOL_RANK, Status
from app.tasks.schema import AnyRow, database_now, pools, tasks
from app.tasks.store.lanes import RANK, Lanes

DEFAULT = "default"  # what the workers of the queues call themselves; no pool of this kind
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,39}")


class NoSuchPool(ValueError):
    """Nobody has created a pool of this name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no pool {name[:40]!r}")


@dataclass(frozen=True, slots=True)
class PoolFigures:
    """A pool and its tasks that have not ended. `at_most` None: no limit. `waiting` ones could run at once,
    `scheduled` ones wait for a time or for a place of their tag; `oldest_seconds`: since the first waits."""

    name: str
    at_most: int | None
    running: int
    waiting: int
    scheduled: int
    oldest_seconds: float | None


class Pools:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._lanes = Lanes(database, pools, above=POOL_RANK)

    def lane(self, name: str) -> int | None:
        """The lane of this pool; None if there is no such pool."""
        return self._lanes.find(name)

    def open(self, name: str) -> int:
        """The lane of this pool, which is created without a limit if there is none. Raises `ValueError` for a
        name that cannot be one."""
        if name == DEFAULT or not _NAME.fullmatch(name):
            raise ValueError(f"{name[:40]!r} cannot name a pool: 1 to 40 letters, digits, -, _ and . can")
        return self._lanes.open(name)

    def limit(self, name: str, at_most: int | None) -> None:
        """From now on start a task of the pool only while fewer than so many run; None: as many as there are
        workers. What runs goes on. Raises `NoSuchPool`."""
        statement = update(pools).where(pools.c.name == name).values(at_most=at_most)
        if self.lane(name) is None:
            raise NoSuchPool(name)
        self._database.write_one(lambda on: on.execute(statement))

    def some_wait(self, lane: int) -> bool:
        """True if some task of this pool could run at once."""
        waiting = select(tasks.c.id).where(tasks.c.status == Status.QUEUED, RANK == lane).limit(1)
        return self._database.read(lambda on: on.execute(waiting).first()) is not None

    def running(self, name: str, *, limit: int = 100) -> list[AnyRow]:
        """What runs in this pool, the oldest claim first: (id, name, holder, attempt, started_at, now).
        Raises `NoSuchPool`."""
        lane = self.lane(name)
        if lane is None:
            raise NoSuchPool(name)
        query = (
            select(tasks.c.id, tasks.c.name, tasks.c.holder, tasks.c.attempt, tasks.c.started_at)
            .add_columns(database_now().label("now"))
            .where(tasks.c.status == Status.PROCESSING, RANK == lane)
            .order_by(tasks.c.started_at)
            .limit(limit)
        )
        return self._database.read(lambda on: list[AnyRow](on.execute(query)))

    def all(self) -> list[PoolFigures]:
        """Every pool, by name. One statement, which counts along an index."""
        of_pool = (RANK == pools.c.lane, tasks.c.status.in_(ACTIVE))
        query = (
            select(pools.c.name, pools.c.at_most, tasks.c.status, func.count(tasks.c.id).label("number"))
            .add_columns(func.min(tasks.c.waiting_since).label("since"), database_now().label("now"))
            .select_from(pools.outerjoin(tasks, of_pool[0] & of_pool[1]))
            .group_by(pools.c.name, pools.c.at_most, tasks.c.status)
            .order_by(pools.c.name)
        )
        rows = self._database.read(lambda on: on.execute(query).all())
        found: dict[str, dict[Status | None, int]] = {}
        limits: dict[str, int | None] = {}
        oldest: dict[str, float] = {}
        for row in rows:
            found.setdefault(row.name, {})[row.status] = row.number
            limits[row.name] = row.at_most
            if row.status is Status.QUEUED:
                oldest[row.name] = max(0.0, (row.now - row.since).total_seconds())
        return [
            PoolFigures(
                name,
                limits[name],
                running=counts.get(Status.PROCESSING, 0),
                waiting=counts.get(Status.QUEUED, 0),
                scheduled=counts.get(Status.SCHEDULED, 0),
                oldest_seconds=oldest.get(name),
            )
            for name, counts in found.items()
        ]
