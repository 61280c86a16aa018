"""An age bonus: tasks that have waited long move up one priority. Used only where the setting asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Select, select, union_all
from sqlalchemy.engine import Connection

from app.tasks.database import Database
from app.tasks.model import PRIORITIES, Moved, Priority, Status, Ticket
from app.tasks.schema import AnyRow, database_now, tasks
from app.tasks.store import events
from app.tasks.store.placing import PLACED_COLUMNS, place
from app.tasks.store.routing import hold_routing

HEAD_ROWS = 2_000


class Aging:
    def __init__(self, database: Database) -> None:
        self._database = database

    def move_up(
        self, priority: Priority, *, waited_seconds: float, limit: int
    ) -> tuple[list[Moved], list[Ticket]]:
        """Waiting tasks of this priority that have waited so long wait in the next higher one, anew from now.

        Looks at the first rows of the queue only, in order of service. Returns the moves, and the tickets
        that became worthless. The highest priority stays as it is.
        """
        if priority is PRIORITIES[0]:
            return [], []
        higher = PRIORITIES[priority.rank - 1]
        ids = self._database.read(
            lambda on: on.execute(_aged(priority, waited_seconds, limit)).scalars().all()
        )

        def work(on: Connection) -> tuple[list[Moved], list[Ticket]]:
            rules, _ = hold_routing(on, [higher])
            rows = on.execute(_locked(priority, ids, waited_seconds)).all()
            events.record(on, "moved up", [row.id for row in rows], was=priority, now=higher)
            moves = place(on, rows, {priority: rules[higher]}, priority=higher)
            return [_in(move, higher) for move in moves], [_old_ticket(row) for row in rows]

        return self._database.run(work) if ids else ([], [])


def _aged(priority: Priority, waited_seconds: float, limit: int) -> Select[Any]:
    """Ids among the heads of both tracks: two or three walks along the index."""
    heads = []
    for status in (Status.QUEUED, Status.DISPATCHED):
        rows = select(tasks.c.id, tasks.c.waiting_since).where(
            tasks.c.status == status, tasks.c.priority == priority
        )
        heads.append(rows.where(tasks.c.confirmed_in == 0).order_by(tasks.c.id).limit(HEAD_ROWS))
        if status is Status.DISPATCHED:
            seen = rows.where(tasks.c.confirmed_in > 0).order_by(tasks.c.confirmed_in, tasks.c.id)
            heads.append(seen.limit(HEAD_ROWS))
    parts = [head.subquery() for head in heads]
    found = union_all(*(select(part.c.id, part.c.waiting_since) for part in parts)).subquery()
    return (
        select(found.c.id)
        .where(found.c.waiting_since <= database_now(-waited_seconds))
        .order_by(found.c.id)
        .limit(limit)
    )


def _locked(priority: Priority, ids: Sequence[int], waited_seconds: float) -> Select[Any]:
    return (
        select(*PLACED_COLUMNS)
        .where(
            tasks.c.id.in_(ids),
            tasks.c.status.in_((Status.QUEUED, Status.DISPATCHED)),
            tasks.c.priority == priority,
            tasks.c.waiting_since <= database_now(-waited_seconds),
        )
        .order_by(tasks.c.id)
        .with_for_update(skip_locked=True)
    )


def _in(move: Moved, priority: Priority) -> Moved:
    return move if move.ticket is None else move._replace(ticket=move.ticket._replace(priority=priority))


def _old_ticket(row: AnyRow) -> Ticket:
    return Ticket(row.id, row.epoch, row.priority, row.name, row.timeout_seconds)
