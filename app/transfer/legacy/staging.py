"""What a mover moves out of a legacy table in another database, which no transaction spans with ours.

Rows are staged in ours and committed, then marked there and committed, then they become tasks in ours. The
transaction of this last step is begun before the rows are marked, and holds the routing throughout: so nobody
takes an import over while its rows are being marked. What a kill leaves is staged, and the next walk begins
with it; decision 0032 has all the points at which a kill may come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

from sqlalchemy.engine import Connection

from app.tasks.errors import DatabaseUnavailable, SourceUnavailable
from app.tasks.model import ENDED, Priority, Status
from app.tasks.queue import TaskQueue
from app.tasks.store.stages import Staged
from app.tasks.store.transfers import Aim
from app.transfer.cargo import Batch, Held, Picked
from app.transfer.legacy.finding import Finder, Stretch
from app.transfer.legacy.importing import LegacyRows, Row, Sorted
from app.transfer.legacy.table import LegacyTable

T = TypeVar("T")

STAGED_ROWS = 5_000


class Chosen(NamedTuple):
    """A staged row with the id that its task will have."""

    task_id: int
    staged: Staged


class _Known(NamedTuple):
    """What our tables say of the rows of a batch, by the keys of their tasks. `untold`: tasks that have
    ended, and whose rows nobody tells until this transaction ends."""

    tasks: dict[str, tuple[int, Status]]
    untold: set[int]


class _Marked(NamedTuple):
    """What has become of the rows of a batch. `locked` ones are somebody else's at the moment."""

    found: Sorted
    refused: set[Any]
    locked: set[str]


class StagedRows(LegacyRows):
    """A cargo (`app.transfer.cargo`). A stretch is a list of rows that are staged already."""

    def __init__(self, queue: TaskQueue, table: LegacyTable, *, transfer_id: int) -> None:
        """Raises `UnknownTaskName` if the mapping's task has no handler."""
        super().__init__(queue, table, transfer_id=transfer_id)
        self._finder = Finder(table)
        self._source = table.mapping.name
        self._stages = queue.store.stages
        self._there: dict[Priority, int] = {}  # rows that are not moved, named ones too, as of the last count

    # --- finding --------------------------------------------------------------------------------------

    def stretches(self, aim: Aim) -> Iterator[Sequence[Staged]]:
        """What a run before has left, then no more new rows than the last count has found."""
        priority, after = aim.route.priority, 0
        while left := self._stages.next(self._source, priority, after=after, limit=STAGED_ROWS):
            after = left[-1].number
            yield left
        room = self._there.get(priority, 0)
        for stretch in super().stretches(aim):
            cursor = None
            while room > 0 and (found := self._find(priority, stretch, cursor, min(room, STAGED_ROWS))):
                room, cursor = room - len(found), found[-1]
                yield self._stages.add(self._source, priority, [str(row[0]) for row in found])

    def _find(self, priority: Priority, stretch: Stretch, cursor: Any, limit: int) -> list[Any]:
        return self._reading(lambda there: self._finder.next(there, priority, stretch, cursor, limit))

    def pick(
        self, on: Connection, aim: Aim, stretch: Any, after: Any, limit: int, before: Picked | None = None
    ) -> Picked | None:
        """Rows are locked in their own database, and not before they are marked."""
        start = after or 0
        rows = stretch[start : start + limit]
        had = {chosen.staged: chosen.task_id for chosen in before.rows} if before else {}
        ids = self._ids_for(rows, had)
        chosen = [Chosen(*pair) for pair in zip(ids, rows, strict=True)]
        return Picked(chosen, start + len(rows)) if rows else None

    # --- counting -------------------------------------------------------------------------------------

    def count(self, aim: Aim) -> int:
        return super().count(aim) + self._stages.count(self._source, aim.route.priority)

    def _count(self, priority: Priority) -> int:
        where, given = self._where_left(priority)
        table = self._table
        query = f"SELECT COUNT(*) FROM {table.table} legacy WHERE {where}"  # noqa: S608 - checked names
        number = self._reading(lambda there: int(there.exec_driver_sql(query, given).scalar_one()))
        self._there[priority] = number
        if number and (named := self._named_keys()):
            among = f"{query} AND {table.key} IN ({{keys}})"
            _, counts = self._reading(lambda there: table.run_by_keys(there, among, named, *given))
            number -= sum(row[0] for row in counts)
        return number

    def _left_keys(self, priority: Priority) -> frozenset[Any]:
        where, given = self._where_left(priority)
        query = f"SELECT {self._table.key} FROM {self._table.table} legacy WHERE {where}"  # noqa: S608
        rows = self._reading(lambda there: there.exec_driver_sql(query, given).cursor.fetchall())
        return frozenset(str(row[0]) for row in rows) - frozenset(self._named_keys())

    def _where_left(self, priority: Priority) -> tuple[str, tuple[str, ...]]:
        """Rows that are not moved: which of them are named only our database knows."""
        table = self._table
        of_priority, values = table.of_priority(priority)
        where = f"({table.status} = {table.mark} OR {table.status} IS NULL) AND {of_priority}"
        return where, (table.mapping.status.queued, *values)

    def _named_keys(self) -> list[str]:
        return [key for key in self._store.imports.named(self._source) if not key.startswith("#")]

    # --- marking --------------------------------------------------------------------------------------

    def mark(
        self, on: Connection, held: Held, aim: Aim, rows: Sequence[Chosen], incarnation: int
    ) -> Batch | None:
        task_ids = {row.staged.key: row.task_id for row in reversed(rows)}
        known = self._known(on, list(task_ids))
        marked = self._writing(lambda there: self._mark_there(there, held, task_ids, known))
        self._store.ends.void(on, marked.found.again)
        self._store.imports.give_up_keys(on, marked.found.again)
        batch = self._become(on, held, marked.found.new, marked.refused, incarnation)
        self._stages.delete(on, [row.staged for row in rows if row.staged.key not in marked.locked])
        return batch

    def _known(self, on: Connection, keys: Sequence[str]) -> _Known:
        found = self._store.imports.known(on, [self._judge.named(key)[0] for key in keys])
        ended = [task_id for task_id, status in found.values() if status in ENDED]
        return _Known(found, self._store.ends.lock(on, ended))

    def _mark_there(self, there: Connection, held: Held, task_ids: dict[str, int], known: _Known) -> _Marked:
        """In a transaction of its own, committed before ours."""
        place = {key: number for number, key in enumerate(task_ids)}
        locked = self._lock_staged(there, list(task_ids))
        locked.sort(key=lambda values: place[str(values["key"])])
        rows = [
            Row(task_ids[str(values["key"])], not values["no status"], values)
            for values in locked
            if not self._is_still_to_be_told(values, known)
        ]
        found = self._sorted(held, rows, known.tasks)
        refused = self._fence(there, self._to_fence(found))
        missing = set(task_ids) - {str(values["key"]) for values in locked}
        return _Marked(found, refused, self._still_there(there, sorted(missing)))

    def _is_still_to_be_told(self, values: dict[str, Any], known: _Known) -> bool:
        """A row that was marked for a task which lived then, and has ended since."""
        task_id, _ = known.tasks.get(self._judge.named(values["key"])[0], (0, None))
        return bool(values["moved"]) and task_id in known.untold

    def _lock_staged(self, there: Connection, keys: Sequence[str]) -> list[dict[str, Any]]:
        """Those that nobody else has and that wait, or that we have marked before, with all that is read."""
        table, words = self._table, self._table.mapping.status
        flags = {"moved": f"{table.status} = {table.mark}", "no status": f"{table.status} IS NULL"}
        columns = [f"CASE WHEN {flag} THEN 1 ELSE 0 END" for flag in flags.values()]
        columns += [column.sql for column in table.read]
        query = (
            f"SELECT {', '.join(columns)} FROM {table.table} legacy"  # noqa: S608 - checked names
            f" WHERE {table.key} IN ({{keys}}) AND {self._staged_state}{table.lock}"
        )
        after = (words.queued, words.moved)
        _, rows = table.run_by_keys(there, query, keys, words.moved, after=after)
        return [dict(zip([*flags, *self._names], row, strict=True)) for row in rows]

    def _still_there(self, there: Connection, keys: Sequence[str]) -> set[str]:
        """Rows that could not be locked, and are what they were staged as: somebody else has them."""
        table, words = self._table, self._table.mapping.status
        query = (
            f"SELECT {table.key} FROM {table.table} legacy"  # noqa: S608 - checked names
            f" WHERE {table.key} IN ({{keys}}) AND {self._staged_state}"
        )
        _, rows = table.run_by_keys(there, query, keys, after=(words.queued, words.moved))
        return {str(row[0]) for row in rows}

    @property
    def _staged_state(self) -> str:
        status, mark = self._table.status, self._table.mark
        return f"({status} = {mark} OR {status} = {mark} OR {status} IS NULL)"

    # --- the other database -----------------------------------------------------------------------------

    def _reading(self, work: Callable[[Connection], T]) -> T:
        return self._asking(lambda: self._table.database.read(work))

    def _writing(self, work: Callable[[Connection], T]) -> T:
        return self._asking(lambda: self._table.database.run(work))

    def _asking(self, ask: Callable[[], T]) -> T:
        try:
            return ask()
        except DatabaseUnavailable as error:  # of a commit, too: what it may have marked is staged
            raise SourceUnavailable(f"the database {self._table.mapping.database}: {error}") from error
