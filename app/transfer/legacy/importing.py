"""What a mover of an import moves: the queued rows of a legacy table, in the order in which they were made.

A batch is one transaction: the rows are locked, judged and marked moved, and their tasks are there, with a
key that names the row and that no other task can have. Rows are found without a lock and locked by their
key: a table without an index on its order would otherwise lock every row that it sorts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError, IntegrityError

from app.tasks.admission import user_slots
from app.tasks.database import refuses_values
from app.tasks.ids import IdSource
from app.tasks.model import ENDED, Priority, Status, Ticket
from app.tasks.queue import TaskQueue
from app.tasks.store import Store
from app.tasks.store.imports import Imported
from app.tasks.store.transfers import Aim
from app.transfer.cargo import Batch, Held, Picked
from app.transfer.errors import Incomplete
from app.transfer.legacy.finding import Finder, Stretch
from app.transfer.legacy.judging import Judge, Judged
from app.transfer.legacy.table import LegacyTable
from app.transfer.legacy.verdicts import Flaw, verdict

MOST_NEW = 10_000  # rows that may have come between two counts: their keys are kept for a moment


class Row(NamedTuple):
    """A locked row with the id that its task will have."""

    task_id: int
    queued: bool
    values: dict[str, Any]


@dataclass(slots=True)
class Sorted:
    """The rows of a batch; those of `adopted` have a task that lives, `again` are tasks that have ended."""

    new: list[tuple[Row, Judged]]
    adopted: list[Any]
    again: list[int]


class LegacyRows:
    """A cargo (`app.transfer.cargo`)."""

    def __init__(self, queue: TaskQueue, table: LegacyTable, *, transfer_id: int) -> None:
        """Raises `UnknownTaskName` if the mapping's task has no handler."""
        self._store: Store = queue.store
        self._table = table
        self._transfer_id = transfer_id
        self._finder = Finder(table, but=table.has_task(Status.QUARANTINED))
        self._ids = IdSource()
        self._left: dict[Priority, frozenset[Any] | None] = {}  # as of the last count
        self._limit = queue.settings.active_tasks_per_user
        limit_bytes = queue.settings.payload_limit_bytes
        self._judge = Judge(table, queue.handlers[table.mapping.task], limit_bytes)
        self._names = [column.name for column in table.read]

    # --- finding --------------------------------------------------------------------------------------

    def stretches(self, aim: Aim) -> Iterator[Any]:
        timed = (False, True) if self._table.created else (False,)
        for queued in (True, False):
            yield from (Stretch(queued, with_time) for with_time in timed)

    def count(self, aim: Aim) -> int:
        """How many rows are left. No flip of ours keeps an application from queueing rows; so rows that came
        after the count before are not left, they are new, and a next import's."""
        priority = aim.route.priority
        number = self._count(priority)
        before, self._left[priority] = self._left.get(priority), None
        if not 0 < number <= MOST_NEW:
            return number
        keys = self._left[priority] = self._left_keys(priority)
        return number if before is None else len(keys & before)

    def _count(self, priority: Priority) -> int:
        where, given = self._where_left(priority)
        query = f"SELECT COUNT(*) FROM {self._table.table} legacy WHERE {where}"  # noqa: S608 - checked names
        return self._store.database.read(lambda on: int(on.exec_driver_sql(query, given).scalar_one()))

    def _left_keys(self, priority: Priority) -> frozenset[Any]:
        where, given = self._where_left(priority)
        query = f"SELECT {self._table.key} FROM {self._table.table} legacy WHERE {where}"  # noqa: S608
        rows = self._store.database.read(lambda on: on.exec_driver_sql(query, given).cursor.fetchall())
        return frozenset(row[0] for row in rows)

    def _where_left(self, priority: Priority) -> tuple[str, tuple[str, ...]]:
        """Rows that are neither moved nor named."""
        table, words = self._table, self._table.mapping.status
        of_priority, values = table.of_priority(priority)
        where = (
            f"({table.status} = {table.mark} OR {table.status} IS NULL) AND {of_priority}"
            f" AND NOT {table.has_task(Status.QUARANTINED)}"
        )
        return where, (words.queued, *values)

    def pick(
        self, on: Connection, aim: Aim, stretch: Any, after: Any, limit: int, before: Picked | None = None
    ) -> Picked | None:
        found = self._finder.next(on, aim.route.priority, stretch, after, limit)
        if not found:
            return None
        place = {row[0]: number for number, row in enumerate(found)}
        locked = self._lock(on, aim.route.priority, stretch, [row[0] for row in found])
        locked.sort(key=lambda values: place[values["key"]])
        had = {row.values["key"]: row.task_id for row in before.rows} if before else {}
        ids = self._ids_for([values["key"] for values in locked], had)
        rows = [Row(task_id, stretch.queued, values) for task_id, values in zip(ids, locked, strict=True)]
        return Picked(rows, found[-1])

    def _ids_for(self, keys: Sequence[Any], had: Mapping[Any, int]) -> list[int]:
        """Ids of tasks, which are the order of service: those that the rows `had`, and new ones."""
        new = iter(self._ids.take(sum(key not in had for key in keys)) if keys else ())
        return [had[key] if key in had else next(new) for key in keys]

    def _lock(
        self, on: Connection, priority: Priority, stretch: Stretch, keys: Sequence[Any]
    ) -> list[dict[str, Any]]:
        """Those that nobody else has and that still are what they were found as, with all that is read."""
        table = self._table
        state, given = table.of_state(queued=stretch.queued)
        of_priority, values = table.of_priority(priority)
        columns = ", ".join(column.sql for column in table.read)
        query = (
            f"SELECT {columns} FROM {table.table} legacy"  # noqa: S608 - checked names
            f" WHERE {table.key} IN ({{keys}}) AND {state} AND {of_priority}{table.lock}"
        )
        _, rows = table.run_by_keys(on, query, keys, after=[*given, *values])
        return [dict(zip(self._names, row, strict=True)) for row in rows]

    # --- marking --------------------------------------------------------------------------------------

    def mark(
        self, on: Connection, held: Held, aim: Aim, rows: Sequence[Any], incarnation: int
    ) -> Batch | None:
        keys = [self._judge.named(row.values["key"])[0] for row in rows]
        found = self._sorted(held, rows, self._store.imports.known(on, keys))
        self._store.imports.give_up_keys(on, found.again)
        return self._become(on, held, found.new, self._fence(on, self._to_fence(found)), incarnation)

    def _sorted(self, held: Held, rows: Sequence[Row], known: Mapping[str, tuple[int, Status]]) -> Sorted:
        found = Sorted([], [], [])
        for row in rows:
            j = self._judge(row.values, held.now, queued=row.queued)
            if j.key not in known:
                found.new.append((row, j))
                continue
            task_id, status = known[j.key]
            if status in ENDED:
                found.new.append((row, j))
                found.again.append(task_id)
            elif status is not Status.QUARANTINED:
                found.adopted.append(j.row_key)
        return found

    @staticmethod
    def _to_fence(found: Sorted) -> list[Any]:
        new = [j.row_key for _, j in found.new if j.verdict is None or j.verdict.fenced]
        return [*new, *found.adopted]

    def _become(
        self,
        on: Connection,
        held: Held,
        found: Sequence[tuple[Row, Judged]],
        refused: set[Any],
        incarnation: int,
    ) -> Batch | None:
        """Store the tasks of rows that were marked, but for those that `refused` it."""
        if not found:
            return None
        fixed = verdict(Flaw.STATUS_FIXED)
        new = [(row, j.flawed(fixed) if j.row_key in refused else j) for row, j in found]
        made = self._insert(on, held, new, incarnation)
        sound = [one for one in made if one.status is not Status.QUARANTINED]
        tickets = [
            Ticket(one.task_id, 1, one.priority, one.name) for one in sound if one.status is Status.DISPATCHED
        ]
        ids = (made[0].task_id, made[-1].task_id)
        return Batch(*ids, marked=len(sound), quarantined=len(made) - len(sound), tickets=tickets)

    def _fence(self, on: Connection, keys: Sequence[Any]) -> set[Any]:
        """Mark the rows moved. Returns the keys of those whose table refuses it: a trigger may, and a foreign
        key that points to nothing does, where its index holds the status too."""
        if not keys:
            return set()
        table, words = self._table, self._table.mapping.status
        name = table.mapping.status.column
        statement = (
            f"UPDATE {table.table} SET {table.quoted(name)} = {table.mark}"  # noqa: S608 - checked names
            f" WHERE {table.quoted(table.mapping.key)} IN ({{keys}})"
        )
        try:
            with on.begin_nested():
                changed, _ = table.run_by_keys(on, statement, keys, words.moved)
        except DBAPIError as error:
            if not refuses_values(error):
                raise
            if len(keys) == 1:
                return set(keys)
            half = len(keys) // 2
            return self._fence(on, keys[:half]) | self._fence(on, keys[half:])
        if changed != len(keys):
            raise Incomplete(f"{len(keys) - changed} locked rows of {table.mapping.table} were not marked")
        return set()

    # --- inserting --------------------------------------------------------------------------------------

    def _insert(
        self, on: Connection, held: Held, new: Sequence[tuple[Row, Judged]], incarnation: int
    ) -> list[Imported]:
        made = [self._imported(held, row, judged) for row, judged in new]
        how = {"transfer_id": self._transfer_id, "confirmed_in": incarnation}
        if not self._limit:
            self._store.imports.insert(on, made, held.now, **how)
            return made
        placed = self._placed(on, made)
        try:
            with on.begin_nested():
                self._store.imports.insert(on, placed, held.now, **how)
        except IntegrityError:  # a submission took one of the places meanwhile: all of them wait for theirs
            placed = [_waiting(one) if one.user_id else one for one in made]
            self._store.imports.insert(on, placed, held.now, **how)
        waits = [
            (one.task_id, one.user_id, one.priority)
            for one in placed
            if one.status is Status.SCHEDULED and one.user_id
        ]
        self._store.slots.add(on, waits)
        return placed

    def _imported(self, held: Held, row: Row, judged: Judged) -> Imported:
        name = self._table.mapping.task
        found = judged.verdict
        status = held.route.waiting_status(row.task_id, name) if found is None else Status.QUARANTINED
        return Imported(
            task_id=row.task_id,
            key=judged.key,
            name=name,
            payload=judged.payload,
            priority=held.route.priority,
            status=status,
            created_at=judged.created_at,
            user_id=judged.user_id,
            failures=judged.failures,
            max_retries=judged.max_retries,
            error=None if found is None else found.said,
        )

    def _placed(self, on: Connection, made: Sequence[Imported]) -> list[Imported]:
        """Each with a place among its user's active tasks, or waiting for one."""
        users = {one.user_id for one in made if one.user_id and one.status is not Status.QUARANTINED}
        slots = {user: user_slots(user, self._limit) for user in users}
        taken = set(self._store.submissions.active_of([s for of in slots.values() for s in of], on))
        placed = []
        for one in made:
            if one.user_id and one.status is not Status.QUARANTINED:
                free = next((slot for slot in slots[one.user_id] if slot not in taken), None)
                taken.add(free or "")
                one = one._replace(active_key=free) if free else _waiting(one)
            placed.append(one)
        return placed


def _waiting(one: Imported) -> Imported:
    if one.status is Status.QUARANTINED:
        return one
    return one._replace(status=Status.SCHEDULED, active_key=None)
