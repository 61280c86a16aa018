"""A limit of running tasks per user: who is over it is set aside when claimed, and let in when a task ends.

Used only where the setting asks for it. A task that is set aside is SCHEDULED without a time, and named in
`user_waits`; its ticket is worth nothing from then on. Whoever ends a task of a user lets the user's next one
in, in the same transaction; the sweeper makes up for what nobody let in.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from sqlalchemy import and_, bindparam, delete, false, func, insert, select, update
from sqlalchemy.engine import Connection

from app.tasks.database import Database
from app.tasks.model import Claim, Moved, Outcome, Status
from app.tasks.schema import status_is, tasks, user_gates, user_waits
from app.tasks.store.placing import FRESH, PLACED_COLUMNS, place
from app.tasks.store.routing import hold_routing

GATES = 64
USERS_PER_PASS = 200
LET_IN_WITHOUT_LIMIT = 500

_SET_ASIDE = (
    update(tasks)
    .where(tasks.c.id.in_(bindparam("ids", expanding=True)))
    .values(FRESH | {"status": Status.SCHEDULED})
)


class UserLimit:
    """At most `limit` tasks of one user are PROCESSING at a time, on both tracks together; 0: no limit."""

    def __init__(self, database: Database, limit: int) -> None:
        self._database = database
        self.limit = limit
        self.some_wait = False
        self._after = ""

    # --- in the transaction of a claim and of a settle ------------------------------------------------

    def admit(self, on: Connection, claims: Sequence[Claim]) -> list[Claim]:
        """Those of the claims, whose rows are locked and not yet taken, that their users may have. The others
        are set aside.

        Exact: claims of one user pass one gate, a row lock until the commit; a task that ends meanwhile only
        makes room.
        """
        users = {claim.user_id for claim in claims if claim.user_id is not None}
        if not users:
            return list(claims)
        gates = sorted({zlib.crc32(user.encode()) % GATES for user in users})
        on.execute(
            select(user_gates.c.id)
            .where(user_gates.c.id.in_(gates))
            .order_by(user_gates.c.id)
            .with_for_update()
        ).all()
        room = self._room(on, users)
        admitted, over = [], []
        for claim in claims:
            if claim.user_id is not None:
                if room[claim.user_id] <= 0:
                    over.append(claim)
                    continue
                room[claim.user_id] -= 1
            admitted.append(claim)
        _set_aside(on, over)
        return admitted

    def let_next_in(self, on: Connection, ended: Iterable[Outcome]) -> list[Moved]:
        """For each claim that has ended, the next task of its user that was set aside, if there is one."""
        users = Counter(outcome.claim.user_id for outcome in ended)
        del users[None]
        if not users:
            return []
        waiting = select(user_waits.c.user_id).where(user_waits.c.user_id.in_(sorted(filter(None, users))))
        found = on.execute(waiting.distinct()).scalars().all()
        return _let_in(on, {user: users[user] for user in found})

    # --- the sweeper's --------------------------------------------------------------------------------

    def make_up(self) -> list[Moved]:
        """Let in what has room and was not let in: after a reclaim, a crash, or a change of the limit. Some
        users at a time, in turn. Returns the moves, their tickets to be pushed."""
        query = (
            select(user_waits.c.user_id)
            .where(user_waits.c.user_id > self._after)
            .distinct()
            .order_by(user_waits.c.user_id)
            .limit(USERS_PER_PASS)
        )
        users = self._database.read(lambda on: on.execute(query).scalars().all())
        self.some_wait = bool(users or self._after)
        self._after = users[-1] if len(users) == USERS_PER_PASS else ""

        def work(on: Connection) -> list[Moved]:
            room = self._room(on, set(users))
            return _let_in(on, {user: number for user, number in room.items() if number > 0})

        return self._database.run(work) if users else []

    def _room(self, on: Connection, users: set[str]) -> Counter[str]:
        """How many more tasks each user may have running."""
        if not self.limit:
            return Counter(dict.fromkeys(users, LET_IN_WITHOUT_LIMIT))
        query = (
            select(tasks.c.user_id, func.count())
            .where(tasks.c.status == Status.PROCESSING, tasks.c.user_id.in_(sorted(users)))
            .group_by(tasks.c.user_id)
        )
        room = Counter(dict.fromkeys(users, self.limit))
        room.subtract({row[0]: row[1] for row in on.execute(query)})
        return room


def _set_aside(on: Connection, claims: Sequence[Claim]) -> None:
    if not claims:
        return
    on.execute(_SET_ASIDE, {"ids": sorted(claim.task_id for claim in claims)})
    rows = [
        {"task_id": claim.task_id, "user_id": claim.user_id, "priority": claim.priority} for claim in claims
    ]
    # a task that was cancelled and retried may have left its old place behind
    on.execute(delete(user_waits).where(user_waits.c.task_id.in_([row["task_id"] for row in rows])))
    on.execute(insert(user_waits), rows)


def _let_in(on: Connection, numbers: Mapping[str, int]) -> list[Moved]:
    """Let so many tasks of each user wait for a worker again, at the head of their queue."""
    ids: list[int] = []
    for user in sorted(numbers):
        query = (
            select(user_waits.c.task_id)
            .where(user_waits.c.user_id == user)
            .order_by(user_waits.c.priority, user_waits.c.task_id)
            .limit(numbers[user])
            .with_for_update(skip_locked=True)
        )
        ids += on.execute(query).scalars()
    if not ids:
        return []
    aside = and_(status_is(Status.SCHEDULED), tasks.c.run_at.is_(None), tasks.c.held == false())
    query = select(*PLACED_COLUMNS).where(tasks.c.id.in_(sorted(ids)), aside).order_by(tasks.c.id)
    rows = on.execute(query.with_for_update()).all()
    # also of those that were cancelled meanwhile
    on.execute(delete(user_waits).where(user_waits.c.task_id.in_(sorted(ids))))
    if not rows:
        return []
    rules, _ = hold_routing(on, {row.priority for row in rows})
    return [move._replace(front=True) for move in place(on, rows, rules)]
