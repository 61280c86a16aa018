"""Lanes: ranks beyond those of the queues, each with a name, in which rows wait for one kind of server."""

from __future__ import annotations

import threading

from sqlalchemy import ColumnElement, Integer, Table, func, insert, select, type_coerce
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from app.tasks.database import Database
from app.tasks.errors import DatabaseUnavailable
from app.tasks.model import FLOW_RANK, POOL_RANK, PRIORITIES
from app.tasks.schema import database_now, tasks

TRIES = 8

RANK: ColumnElement[int] = type_coerce(tasks.c.priority, Integer)
"""Where a row waits: the rank of its queue, or the number of its lane."""


def in_a_queue() -> ColumnElement[bool]:
    """A task of one of the four queues, not one in a lane."""
    return tasks.c.priority.in_(PRIORITIES)


def in_a_pool() -> ColumnElement[bool]:
    """A task in the lane of a pool."""
    return RANK > POOL_RANK


def is_a_record() -> ColumnElement[bool]:
    """A record in the lane of its flow."""
    return RANK.between(FLOW_RANK + 1, POOL_RANK)


class Lanes:
    """The lanes of one table, numbered upwards from `above`. Safe for threads."""

    def __init__(self, database: Database, table: Table, *, above: int) -> None:
        self._database = database
        self._table = table
        self._above = above
        self._lock = threading.Lock()
        self._known: dict[str, int] = {}

    def all(self) -> dict[str, int]:
        """The number of each lane that there is, by name."""
        columns = self._table.c
        query = select(columns.name, columns.lane).order_by(columns.name)
        lanes = self._database.read(lambda on: {row.name: row.lane for row in on.execute(query)})
        with self._lock:
            self._known |= lanes
        return lanes

    def find(self, name: str) -> int | None:
        """The lane of this name; None if there is none."""
        with self._lock:
            found = self._known.get(name)
        return found if found is not None else self.all().get(name)

    def open(self, name: str) -> int:
        """The lane of this name, which is made if there is none."""
        for _ in range(TRIES):
            lane = self.find(name)
            if lane is not None:
                return lane
            try:
                self._database.run(lambda on: self._open(on, name))
            except IntegrityError:
                continue  # another process has taken the name or the number
        raise DatabaseUnavailable("others open lanes again and again; try again")

    def _open(self, on: Connection, name: str) -> None:
        highest = on.execute(select(func.max(self._table.c.lane))).scalar()
        lane = (highest or self._above) + 1
        on.execute(insert(self._table).values(name=name, lane=lane, created_at=database_now()))
