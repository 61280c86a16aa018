"""Parents and children: the rows behind a task that waits for others, and the limits that tags have.

A child's end costs nothing here: `ended` follows the statuses, in batches, and so do the wake of a parent and
the place of the next child with a tag. Each is judged by rows that are locked, whoever else looks at them.
Rows of `tasks` are locked before those of a family.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    and_,
    delete,
    exists,
    false,
    func,
    insert,
    null,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.engine import Connection

from app.tasks.database import Database
from app.tasks.keys import CHILD_KEYS
from app.tasks.model import ACTIVE, PRIORITIES, WAITING, Claim, Moved, NewTask, Status, Ticket
from app.tasks.schema import (
    AnyRow,
    children,
    database_now,
    parents,
    status_is,
    tag_limits,
    tasks,
)
from app.tasks.store import events
from app.tasks.store.lanes import RANK
from app.tasks.store.placing import FRESH, PLACED_COLUMNS, place
from app.tasks.store.routing import hold_routing
from app.tasks.store.submitting import Placement, Submissions

OVER = tuple(status for status in Status if status not in ACTIVE)
UNDONE = (Status.FAILED, Status.CANCELLED, Status.QUARANTINED)
# What an operator's retry makes of a task that had ended.
ANEW: dict[str, Any] = {"failures": 0, "error": None, "result": None, "ended_at": None, "started_at": None}
ANEW |= {"progress_percent": 0, "progress_step": None}
ROWS_AT_A_TIME = 500
TAGS_AT_A_TIME = 50

_IS_OPEN = children.c.ended == false()
_WAITS = parents.c.waits == true()
_FOR_NO_TIME = (status_is(Status.SCHEDULED), tasks.c.run_at.is_(None), tasks.c.held.is_(False))
_SHOWN = (
    *(tasks.c.id, tasks.c.status, tasks.c.attempt, tasks.c.failures, tasks.c.error, tasks.c.holder),
    *(tasks.c.created_at, tasks.c.started_at, tasks.c.ended_at, tasks.c.run_at),
)


class FamilyRows:
    def __init__(self, database: Database, submissions: Submissions) -> None:
        self._database = database
        self._submissions = submissions

    # --- a parent's ---------------------------------------------------------------------------------------

    def add(
        self, parent: Claim, phase: str, news: Mapping[str, NewTask], tag: str | None
    ) -> list[Moved] | None:
        """Store those of the children, by their names, that the phase does not have yet; after an operator's
        retry of the parent, let those that did not complete wait again. Returns what is on its way now.

        One with a tag is SCHEDULED until it is admitted. None: the parent's claim is lost.
        """
        return self._database.run(lambda on: self._add(on, parent, phase, news, tag))

    def _add(
        self, on: Connection, parent: Claim, phase: str, news: Mapping[str, NewTask], tag: str | None
    ) -> list[Moved] | None:
        its_claim = (tasks.c.id == parent.task_id, tasks.c.token == parent.token)
        held = select(tasks.c.id).where(*its_claim, status_is(Status.PROCESSING)).with_for_update()
        if on.execute(held).first() is None:
            return None
        moves = _let_undone_wait(on, parent.task_id)
        of_phase = and_(children.c.parent_id == parent.task_id, children.c.phase == phase)
        present = set(on.execute(select(children.c.name).where(of_phase)).scalars())
        missing = {name: new for name, new in news.items() if name not in present}
        rules, now = hold_routing(on, {new.priority for new in news.values()})
        born = []
        for new in missing.values():
            route = rules[new.priority]
            waits = route.first_status(new) if tag is None else Status.SCHEDULED
            born.append((new, Placement(waits, route.version)))
        if born:
            self._submissions.insert_many(born, on, now)
            alike = {"parent_id": parent.task_id, "phase": phase, "tag": tag, "admitted": tag is None}
            values = [{"task_id": new.task_id, "name": name} | alike for name, new in missing.items()]
            on.execute(insert(children), values)
        return moves + [_first_move(new, placement.status) for new, placement in born]

    def of_phase(self, parent_id: int, phase: str) -> list[AnyRow]:
        """The children of a phase in the order of their births: (id, name, status, result, error,
        created_at), each with the database's clock as `now`."""
        query = (
            select(tasks.c.id, children.c.name, tasks.c.status, tasks.c.result, tasks.c.error)
            .add_columns(tasks.c.created_at, database_now().label("now"))
            .join(children, children.c.task_id == tasks.c.id)
            .where(children.c.parent_id == parent_id, children.c.phase == phase)
            .order_by(tasks.c.id)
        )
        return self._database.read(lambda on: list[AnyRow](on.execute(query)))

    def set_deadline(self, parent_id: int, moment: Any) -> None:
        """Wake the parent then, if its children have not ended before."""
        change = update(parents).where(parents.c.task_id == parent_id).values(deadline_at=moment)
        self._database.write_one(lambda on: on.execute(change))

    # --- the sweeper's ------------------------------------------------------------------------------------

    def close_ended(self) -> int:
        """Mark children whose tasks have ended, a batch of them. Returns how many."""
        query = (
            select(children.c.task_id)
            .join(tasks, tasks.c.id == children.c.task_id)
            .where(_IS_OPEN, tasks.c.status.in_(OVER))
            .limit(ROWS_AT_A_TIME)
        )
        found = self._database.read(lambda on: on.execute(query).scalars().all())

        def work(on: Connection) -> int:
            # an operator's retry may have opened one meanwhile
            over = select(tasks.c.id).where(tasks.c.id.in_(found), tasks.c.status.in_(OVER))
            ids = list(on.execute(over.order_by(tasks.c.id).with_for_update()).scalars())
            if ids:
                on.execute(update(children).where(children.c.task_id.in_(ids)).values(ended=True))
            return len(ids)

        return self._database.run(work) if found else 0

    def wake(self) -> list[Moved]:
        """Bring parents on their way whose children have ended, or whose deadline is over: a batch."""
        has_open = exists(
            select(children.c.task_id).where(children.c.parent_id == parents.c.task_id, _IS_OPEN)
        )
        late = parents.c.deadline_at <= database_now()
        query = select(parents.c.task_id).where(_WAITS, or_(late, ~has_open)).limit(ROWS_AT_A_TIME)
        found = self._database.read(lambda on: on.execute(query).scalars().all())

        def work(on: Connection) -> list[Moved]:
            moves = _let_in(on, found)
            change = update(parents).where(parents.c.task_id.in_(found))
            on.execute(change.values(waits=False, deadline_at=None))  # of those that were cancelled, too
            return moves

        return self._database.run(work) if found else []

    def admit(self) -> list[Moved]:
        """Bring children with tags on their way as far as the limits have places, in the order of their
        births. A place is held until the child has ended, its retries included."""
        query = (
            select(children.c.tag)
            .where(_IS_OPEN, children.c.tag.is_not(None), children.c.admitted == false())
            .distinct()
            .limit(TAGS_AT_A_TIME)
        )
        tags = self._database.read(lambda on: on.execute(query).scalars().all())
        return [move for tag in tags for move in self._database.run(lambda on, tag=tag: _admit(on, tag))]  # type: ignore[misc]

    def unwanted(self) -> list[int]:
        """Children whose parents were cancelled, or are asked to stop, and that were not told: a batch."""
        parent = tasks.alias("parent")
        asked = and_(parent.c.status == Status.PROCESSING, parent.c.cancel_requested.is_(True))
        told = and_(tasks.c.status == Status.PROCESSING, tasks.c.cancel_requested.is_(True))
        query = (
            select(children.c.task_id)
            .join(tasks, tasks.c.id == children.c.task_id)
            .join(parent, parent.c.id == children.c.parent_id)
            .where(_IS_OPEN, or_(parent.c.status == Status.CANCELLED, asked))
            .where(tasks.c.status.in_(ACTIVE), ~told)
            .limit(ROWS_AT_A_TIME)
        )
        return self._database.read(lambda on: list(on.execute(query).scalars()))

    # --- looking ------------------------------------------------------------------------------------------

    def of_parent(self, parent_id: int, *, limit: int) -> list[AnyRow]:
        """The children of a task, over all phases, in the order of their births."""
        query = (
            select(children.c.phase, children.c.name, children.c.tag, children.c.admitted, *_SHOWN)
            .join(tasks, tasks.c.id == children.c.task_id)
            .where(children.c.parent_id == parent_id)
            .order_by(children.c.task_id)
            .limit(limit)
        )
        return self._database.read(lambda on: list[AnyRow](on.execute(query)))

    def newest_parents(self, *, limit: int, task_name: str | None = None) -> list[AnyRow]:
        """The tasks that have children, newest first, each with (`name`) the name of its task; with a
        `task_name` only those of that name."""
        query = (
            select(tasks.c.name, *_SHOWN)
            .join(parents, parents.c.task_id == tasks.c.id)
            .order_by(parents.c.task_id.desc())
            .limit(limit)
        )
        if task_name is not None:
            query = query.where(tasks.c.name == task_name)
        return self._database.read(lambda on: list[AnyRow](on.execute(query)))

    def tally(self, parent_ids: Sequence[int]) -> dict[int, dict[Status, int]]:
        """How many children each parent has in each status, by one statement."""
        query = (
            select(children.c.parent_id, tasks.c.status, func.count().label("count"))
            .join(tasks, tasks.c.id == children.c.task_id)
            .where(children.c.parent_id.in_(parent_ids))
            .group_by(children.c.parent_id, tasks.c.status)
        )
        found: dict[int, dict[Status, int]] = {parent_id: {} for parent_id in parent_ids}
        for row in self._database.read(lambda on: on.execute(query).all()) if parent_ids else []:
            found[row.parent_id][row.status] = row[2]
        return found

    def waiting(self, *, limit: int) -> list[AnyRow]:
        """Members of runs that wait for no time and by no hold, the oldest first: (run_id, run_name, child,
        status, rank, tag, admitted). `child` is None of a parent itself."""
        run = tasks.alias("run")
        open_children = (
            select(run.c.id.label("run_id"), run.c.name.label("run_name"), children.c.name.label("child"))
            .add_columns(tasks.c.status, RANK.label("rank"), children.c.tag, children.c.admitted)
            .add_columns(tasks.c.id.label("task_id"))
            .select_from(children)
            .join(tasks, tasks.c.id == children.c.task_id)
            .join(run, run.c.id == children.c.parent_id)
            .where(_IS_OPEN, tasks.c.status.in_(WAITING), tasks.c.run_at.is_(None), tasks.c.held == false())
            .order_by(tasks.c.id)
            .limit(limit)
        )
        own = (
            select(tasks.c.id.label("run_id"), tasks.c.name.label("run_name"), null().label("child"))
            .add_columns(tasks.c.status, RANK.label("rank"), null().label("tag"), true().label("admitted"))
            .add_columns(tasks.c.id.label("task_id"))
            .join(parents, parents.c.task_id == tasks.c.id)
            .where(tasks.c.status.in_(WAITING), tasks.c.run_at.is_(None), tasks.c.held == false())
            .order_by(tasks.c.id)
            .limit(limit)
        )
        return self._database.read(
            lambda on: sorted([*on.execute(own), *on.execute(open_children)], key=lambda row: row.task_id)
        )

    # --- limits -------------------------------------------------------------------------------------------

    def limits(self) -> dict[str, int]:
        """How many children with each tag may be on their way at a time; tags without a limit have none."""
        query = select(tag_limits.c.tag, tag_limits.c.at_most).order_by(tag_limits.c.tag)
        return self._database.read(lambda on: {row.tag: row.at_most for row in on.execute(query)})

    def limit(self, tag: str, at_most: int | None) -> None:
        """From now on admit no more than so many at a time; None: as many as there are. What was admitted
        goes on."""

        def work(on: Connection) -> None:
            of_tag = tag_limits.c.tag == tag
            if at_most is None:
                on.execute(delete(tag_limits).where(of_tag))
            # in place: who waits for the row's lock would take a new one for no limit
            elif on.execute(update(tag_limits).where(of_tag).values(at_most=at_most)).rowcount == 0:
                on.execute(insert(tag_limits).values(tag=tag, at_most=at_most))

        self._database.run(work)


# --- in the transactions of others ------------------------------------------------------------------------


def await_children(on: Connection, task_ids: Sequence[int]) -> None:
    """These tasks, which become SCHEDULED, wait for their children."""
    on.execute(update(parents).where(parents.c.task_id.in_(task_ids)).values(waits=True))


def reopen(on: Connection, rows: Sequence[Any]) -> set[int]:
    """These tasks, which had ended, are to run again. Returns those that must wait to be admitted. `rows`
    have ids and idempotency keys."""
    again = update(parents).where(parents.c.task_id.in_([row.id for row in rows]))
    on.execute(again.values(again=True, waits=False, deadline_at=None))
    ids = [row.id for row in rows if (row.idempotency_key or "").startswith(CHILD_KEYS)]
    if not ids:
        return set()
    of_them = children.c.task_id.in_(ids)
    on.execute(update(children).where(of_them).values(ended=False, admitted=children.c.tag.is_(None)))
    return set(on.execute(select(children.c.task_id).where(of_them, children.c.tag.is_not(None))).scalars())


def forget(on: Connection, task_ids: Sequence[int]) -> None:
    """These tasks are deleted."""
    on.execute(delete(children).where(children.c.task_id.in_(task_ids)))
    on.execute(delete(parents).where(parents.c.task_id.in_(task_ids)))


def is_needed() -> ColumnElement[bool]:
    """The task's parent has not ended, and may still ask what has become of it."""
    parent = tasks.alias("parent")
    of_parent = select(children.c.task_id).join(parent, parent.c.id == children.c.parent_id)
    return exists(of_parent.where(children.c.task_id == tasks.c.id, parent.c.status.in_(ACTIVE)))


def some_are_open() -> ColumnElement[bool]:
    """Some child has not ended, or some parent waits."""
    return or_(
        exists(select(children.c.task_id).where(_IS_OPEN)), exists(select(parents.c.task_id).where(_WAITS))
    )


def _first_move(new: NewTask, status: Status) -> Moved:
    ticket = Ticket(new.task_id, 1, new.priority, new.name, new.timeout_seconds)
    return Moved(new.task_id, status, ticket if status is Status.DISPATCHED else None, new.line)


def _let_undone_wait(on: Connection, parent_id: int) -> list[Moved]:
    """Make the row of a new parent; after an operator's retry, let its children that did not complete wait
    again, those with a tag until they are admitted."""
    row = on.execute(select(parents.c.again).where(parents.c.task_id == parent_id)).first()
    if row is None:
        on.execute(insert(parents).values(task_id=parent_id, created_at=database_now()))
    if row is None or not row.again:
        return []
    on.execute(update(parents).where(parents.c.task_id == parent_id).values(again=False))
    query = (
        select(*PLACED_COLUMNS, tasks.c.idempotency_key)
        .join(children, children.c.task_id == tasks.c.id)
        .where(children.c.parent_id == parent_id)
        .order_by(tasks.c.id)
    )
    ids = [row.id for row in on.execute(query) if row.status in UNDONE]
    undone = select(*PLACED_COLUMNS, tasks.c.idempotency_key).where(
        tasks.c.id.in_(ids), tasks.c.status.in_(UNDONE)
    )
    rows = on.execute(undone.order_by(tasks.c.id).with_for_update()).all() if ids else []
    if not rows:
        return []
    tagged = reopen(on, rows)
    events.record(on, "operator's retry", [row.id for row in rows], parent=parent_id)
    rules, _ = hold_routing(on, PRIORITIES)
    if tagged:
        waits = FRESH | ANEW | {"status": Status.SCHEDULED}
        on.execute(update(tasks).where(tasks.c.id.in_(tagged)).values(waits))
    return place(on, [row for row in rows if row.id not in tagged], rules, **ANEW)


def _admit(on: Connection, tag: str) -> list[Moved]:
    limit = on.execute(select(tag_limits.c.at_most).where(tag_limits.c.tag == tag).with_for_update()).scalar()
    of_tag = and_(_IS_OPEN, children.c.tag == tag)
    room = ROWS_AT_A_TIME
    if limit is not None:
        admitted = select(func.count()).where(of_tag, children.c.admitted == true())
        room = min(room, limit - on.execute(admitted).scalar_one())
    if room <= 0:
        return []
    line = select(children.c.task_id).where(of_tag, children.c.admitted == false())
    ids = list(on.execute(line.order_by(children.c.task_id).limit(room)).scalars())
    moves = _let_in(on, ids)
    on.execute(update(children).where(children.c.task_id.in_(ids)).values(admitted=True))
    return moves


def _let_in(on: Connection, task_ids: Sequence[int]) -> list[Moved]:
    """Those of the tasks that are SCHEDULED for no time and by no hold go to their track."""
    query = select(*PLACED_COLUMNS).where(tasks.c.id.in_(task_ids), *_FOR_NO_TIME).order_by(tasks.c.id)
    rows = on.execute(query.with_for_update()).all() if task_ids else []
    if not rows:
        return []
    rules, _ = hold_routing(on, {row.priority for row in rows})
    return place(on, rows, rules)
