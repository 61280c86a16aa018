"""The one way back to waiting: locked rows go where the routing says, with a new epoch and no claim."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, case, literal, update
from sqlalchemy.engine import Connection

from app.tasks.model import Moved, Priority, Status, Ticket
from app.tasks.routing import Routing
from app.tasks.schema import AnyRow, database_now, tasks

# What every row of a waiting status has in common. `active_key` stays: the task is still active.
FRESH: dict[str, Any] = {
    "epoch": tasks.c.epoch + 1,
    "token": None,
    "holder": None,
    "lease_until": None,
    "confirmed_in": 0,
    "run_at": None,
    "held": False,
    "cancel_requested": False,
}
# What every row of an ended status has in common.
OVER: dict[str, Any] = {
    "token": None,
    "lease_until": None,
    "confirmed_in": 0,
    "run_at": None,
    "held": False,
    "active_key": None,
    "ended_at": database_now(),
}
# The columns that `place` needs of each row.
PLACED_COLUMNS = (
    tasks.c.id,
    tasks.c.name,
    tasks.c.priority,
    tasks.c.epoch,
    tasks.c.status,
    tasks.c.timeout_seconds,
)


def place(on: Connection, rows: Sequence[AnyRow], rules: Routing, **values: Any) -> list[Moved]:
    """Bring rows, which this transaction has locked and whose routing it holds, to QUEUED or DISPATCHED.

    `values` are further columns to set. Returns the moves in the order of `rows`, with a ticket for each
    DISPATCHED one: to be pushed after the commit.
    """
    groups: dict[Status, list[int]] = defaultdict(list)
    moves = []
    for row in rows:
        status = rules[row.priority].waiting_status(row.id, row.name)
        groups[status].append(row.id)
        moves.append(moved(row, status, row.priority))
    for status, ids in groups.items():
        fresh = FRESH | {"status": status, "waiting_since": database_now()} | values
        on.execute(update(tasks).where(tasks.c.id.in_(sorted(ids))).values(fresh))
    return moves


def each_its_own(values: Mapping[int, Any], kind: Any) -> ColumnElement[Any]:
    """For each of some rows a value of its own, by their ids: so one statement changes them all."""
    first = next(iter(values.values()))
    if all(value == first for value in values.values()):
        return literal(first, kind)
    whens = {task_id: literal(value, kind) for task_id, value in values.items()}
    return case(whens, value=tasks.c.id)


def moved(row: AnyRow, status: Status, priority: Priority) -> Moved:
    """The move of a row whose epoch goes up by one."""
    if status is not Status.DISPATCHED:
        return Moved(row.id, status, priority=priority)
    ticket = Ticket(row.id, row.epoch + 1, priority, row.name, row.timeout_seconds)
    return Moved(row.id, status, ticket, priority)
