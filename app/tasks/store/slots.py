"""Imported tasks that wait for a place among their user's active ones, and follow one by one.

A submission beyond the limit of active tasks is refused; an imported task exists already and cannot be. It is
SCHEDULED without a time and without an active key, named in `slot_waits`, until the sweeper finds a place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

from sqlalchemy import delete, insert, select
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from app.tasks.database import Database
from app.tasks.model import Moved, Priority, Status
from app.tasks.schema import AnyRow, slot_waits, status_is, tasks
from app.tasks.store.placing import PLACED_COLUMNS, place
from app.tasks.store.routing import hold_routing

ROWS_PER_PASS = 1000


class SlotWaits:
    """Imported tasks without a place."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._after = ""
        self.some_wait = False  # as of the last look

    def add(self, on: Connection, waits: Sequence[tuple[int, str, Priority]]) -> None:
        """In the transaction that stores the tasks: (task id, user, priority)."""
        rows = [{"task_id": task_id, "user_id": user, "priority": p} for task_id, user, p in waits]
        if rows:
            on.execute(insert(slot_waits), rows)

    def make_up(self, slots_of: Callable[[str], Sequence[str]]) -> list[Moved]:
        """Give free places to who waits for one, the users in turn. Returns the moves, their tickets to be
        pushed. `slots_of` names the active keys that a user's tasks may take; none: there is no limit."""
        waiting = self._next()
        self.some_wait = bool(waiting or self._after)
        self._after = waiting[-1].user_id if len(waiting) == ROWS_PER_PASS else ""
        wanted = self._places(waiting, slots_of) if waiting else []
        try:
            return self._database.run(lambda on: _let_in(on, wanted)) if wanted else []
        except IntegrityError:  # a submission took one of the places: one by one, the others keep theirs
            return [move for one in wanted for move in self._let_one_in(one)]

    def _next(self) -> Sequence[AnyRow]:
        order = (slot_waits.c.user_id, slot_waits.c.priority, slot_waits.c.task_id)
        query = select(slot_waits).where(slot_waits.c.user_id > self._after).order_by(*order)
        return self._database.read(lambda on: on.execute(query.limit(ROWS_PER_PASS)).all())

    def _places(
        self, waiting: Sequence[AnyRow], slots_of: Callable[[str], Sequence[str]]
    ) -> list[tuple[int, str | None]]:
        """A task for each free place, with the place's key; all of them where there is no limit."""
        keys = {user: slots_of(user) for user in {row.user_id for row in waiting}}
        taken = self._taken([key for slots in keys.values() for key in slots])
        places: list[tuple[int, str | None]] = []
        for user, rows in groupby(waiting, key=lambda row: row.user_id):
            if keys[user]:
                free = [key for key in keys[user] if key not in taken]
                places += [(row.task_id, key) for row, key in zip(rows, free, strict=False)]
            else:
                places += [(row.task_id, None) for row in rows]
        return places

    def _taken(self, keys: Sequence[str]) -> set[str]:
        if not keys:
            return set()
        query = select(tasks.c.active_key).where(tasks.c.active_key.in_(keys))
        return self._database.read(lambda on: set(on.execute(query).scalars()))

    def _let_one_in(self, one: tuple[int, str | None]) -> list[Moved]:
        try:
            return self._database.run(lambda on: _let_in(on, [one]))
        except IntegrityError:
            return []


def _let_in(on: Connection, places: Sequence[tuple[int, str | None]]) -> list[Moved]:
    key_of = dict(places)
    waits = (tasks.c.run_at.is_(None), tasks.c.held.is_(False), status_is(Status.SCHEDULED))
    query = select(*PLACED_COLUMNS).where(tasks.c.id.in_(sorted(key_of)), *waits).order_by(tasks.c.id)
    rows = on.execute(query.with_for_update()).all()
    # also of those that were cancelled meanwhile
    on.execute(delete(slot_waits).where(slot_waits.c.task_id.in_(sorted(key_of))))
    if not rows:
        return []
    rules, _ = hold_routing(on, {row.priority for row in rows})
    moves: list[Moved] = []
    for row in rows:
        moves += place(on, [row], rules, active_key=key_of[row.id])
    return moves
