"""The proof of an import: every queued legacy row is moved with one task, or named, and was told its end.

It shares no statement with the import: rows and tasks are read by SQL of its own, from both sides, and each
pair is judged by itself. What looks wrong is read again until it holds still, since the system is alive.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from hashlib import blake2b
from math import isfinite
from typing import Any

from sqlalchemy import String, and_, bindparam, cast, column, or_, select, table
from sqlalchemy.engine import Connection
from sqlalchemy.types import NullType

from app.tasks.database import Database
from app.tasks.errors import TaskError
from app.tasks.schema import task_events, tasks
from app.tasks.source_tables import legacy_ends, legacy_stages
from app.transfer.legacy.mapping import Mapping as Said
from app.transfer.verification.faults import Finding, ImportFault
from app.transfer.verification.report import Report

PAGE_ROWS = 2000
LOOKS = 3
SETTLE_SECONDS = 1.0
LIVE = ("SCHEDULED", "QUEUED", "DISPATCHED", "PROCESSING")
NAMED = "QUARANTINED"
REFUSED_ITS_END = "its legacy row refused its end"
KEY_CHARACTERS = 128


@dataclass(frozen=True, slots=True)
class Row:
    """A legacy row: its key as text, its status, and what its payload was made of. Whether it waits or was
    moved is the database's to say: it may take words for the same that differ in case."""

    key: str
    status: str | None
    waits: bool
    moved: bool
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Imported:
    """A task that names a legacy row."""

    task_id: int
    status: str
    payload: str


class ImportVerifier:
    """Verifies the import of one table. `pause` sleeps between two looks."""

    def __init__(
        self,
        database: Database,
        said: Said,
        *,
        theirs: Database | None = None,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """`theirs`: the database that the table is in, if it is not ours."""
        self._database = database
        self._theirs = theirs or database
        self._said = said
        self._pause = pause
        self._fields = [*said.payload.columns.items(), *said.payload.json_columns.items()]
        names = dict.fromkeys((said.key, said.status.column, *(c for _, c in self._fields)))
        self._table = table(said.table, *map(column, names))
        self._key = self._table.c[said.key]
        self._status = self._table.c[said.status.column]
        # an enumeration of PostgreSQL refuses a word that it lacks; the others compare as the import does
        word = cast(self._status, String(64)) if self._theirs.kind == "postgresql" else self._status
        waits = or_(word == said.status.queued, self._status.is_(None))
        moved = word == said.status.moved
        self._rows = select(self._table, waits, moved)
        self._left_or_moved = or_(waits, moved)
        self._start = f"legacy:{said.name}:"

    def run(self) -> Report:
        """Raises nothing that the database says: what could not be read is in the report, and no pass."""
        began = time.monotonic()
        report = Report(f"import of {self._said.table}", at=datetime.now(UTC).isoformat(timespec="seconds"))
        try:
            suspects = self._walk(report)
            for _ in range(LOOKS - 1):
                if not suspects:
                    break
                self._pause(SETTLE_SECONDS)
                again = self._look_again(suspects)
                for key, fault in again.items():
                    if fault is not None and fault is not suspects[key]:
                        report.pending[key] = f"was {suspects[key]}, is {fault}"
                suspects = {key: fault for key, fault in again.items() if fault is suspects[key]}
            if self._said.database is not None:
                self._excuse_what_is_under_way(suspects, report)
            report.findings = [Finding(fault, key) for key, fault in suspects.items() if fault is not None]
        except TaskError as error:
            report.unread.append(str(error))
        report.seconds = time.monotonic() - began
        return report

    def _walk(self, report: Report) -> dict[str, ImportFault | None]:
        """All rows that wait or were moved, then all tasks that name a row. Returns what is suspect."""
        suspects: dict[str, ImportFault | None] = {}
        statuses: Counter[str] = Counter()
        for rows in self._waiting_rows():
            found = self._tasks_of([row.key for row in rows])
            report.rows += len(rows)
            statuses.update(f"row {row.status}" for row in rows)
            suspects |= self._judged(rows, found)
        for page in self._named_tasks():
            keys = [key for key in page if not key.startswith("#")]
            by_key = {row.key: row for row in self._rows_of(keys)}
            report.rows += len(page)
            statuses.update(f"task {task.status}" for task in page.values())
            suspects |= self._judged_pairs({key: (by_key.get(key), page[key]) for key in keys})
        report.statuses = dict(statuses)
        return suspects

    def _look_again(self, suspects: Iterable[str]) -> dict[str, ImportFault | None]:
        keys = list(suspects)
        again: dict[str, ImportFault | None] = {}
        for at in range(0, len(keys), PAGE_ROWS):
            part = keys[at : at + PAGE_ROWS]
            rows, found = {row.key: row for row in self._rows_of(part)}, self._tasks_of(part)
            pairs = {key: (rows.get(key), found.get(key)) for key in part}
            again |= dict.fromkeys(part) | self._judged_pairs(pairs)
        return again

    def _excuse_what_is_under_way(self, suspects: dict[str, ImportFault | None], report: Report) -> None:
        """Of rows in another database: what our tables know to be half-done is pending, and no fault."""
        half_done = (
            (legacy_ends, ImportFault.NOT_TOLD, "its row is still to be told"),
            (legacy_stages, ImportFault.NO_TASK, "an import that was cut short has staged it"),
        )
        for of, excused, said in half_done:
            query = select(of.c.row_key).where(of.c.source == self._said.name)
            known = {one.row_key for one in self._read(query)} if suspects else set()
            for key in [key for key, fault in suspects.items() if fault is excused and key in known]:
                report.pending[key] = said
                del suspects[key]

    # --- the verdict ------------------------------------------------------------------------------------

    def _judged(self, rows: Sequence[Row], found: Mapping[str, Imported]) -> dict[str, ImportFault | None]:
        return self._judged_pairs({row.key: (row, found.get(row.key)) for row in rows})

    def _judged_pairs(
        self, pairs: Mapping[str, tuple[Row | None, Imported | None]]
    ) -> dict[str, ImportFault | None]:
        """The faults only."""
        wrong = {key: fault for key, pair in pairs.items() if (fault := self._fault(*pair)) is not None}
        untold = [key for key, fault in wrong.items() if fault is ImportFault.NOT_TOLD]
        told_of = self._refused_ends([task.task_id for key in untold if (task := pairs[key][1]) is not None])
        excused = {key for key in untold if (task := pairs[key][1]) is not None and task.task_id in told_of}
        return {key: fault for key, fault in wrong.items() if key not in excused}

    def _fault(self, row: Row | None, task: Imported | None) -> ImportFault | None:
        if row is None:
            return ImportFault.ROW_GONE if task is not None and task.status in LIVE else None
        if task is None:
            if row.waits:
                return ImportFault.LEFT_BEHIND
            return ImportFault.NO_TASK if row.moved else None
        if task.status == NAMED:
            return None
        if task.status in LIVE:
            if not row.moved:
                return ImportFault.NOT_FENCED if row.waits else ImportFault.TAKEN
        elif row.waits:
            return ImportFault.LEFT_BEHIND
        elif row.moved:
            return ImportFault.NOT_TOLD
        return ImportFault.CHANGED if self._differs(row, task) else None

    def _differs(self, row: Row, task: Imported) -> bool:
        """Whether the payload does not say what the row's columns say."""
        payload = json.loads(task.payload)
        if self._said.payload.whole:
            return False
        texts = self._said.payload.json_columns
        return any(
            payload.get(field) != _in_json(row.values[name], is_text_of_it=field in texts)
            for field, name in self._fields
        )

    # --- reading ----------------------------------------------------------------------------------------

    def _waiting_rows(self) -> Iterator[list[Row]]:
        query = self._rows.where(self._left_or_moved).order_by(self._key).limit(PAGE_ROWS)
        after: Any = None
        while True:
            page = query if after is None else query.where(self._key > after)
            found = self._read(page, self._theirs)
            if not found:
                return
            after = found[-1]._mapping[self._said.key]
            yield [self._row(one) for one in found]

    def _rows_of(self, keys: Sequence[str]) -> list[Row]:
        if not keys:
            return []
        # text of no type: each database takes it for what the key is, and so uses the key's index
        among = self._key.in_(bindparam("keys", list(keys), type_=NullType(), expanding=True))
        return [self._row(one) for one in self._read(self._rows.where(among), self._theirs)]

    def _row(self, one: Any) -> Row:
        *_, waits, moved = one
        values = dict(one._mapping)
        status = values[self._said.status.column]
        return Row(str(values[self._said.key]), status, bool(waits), bool(moved), values)

    def _named_tasks(self) -> Iterator[dict[str, Imported]]:
        key = tasks.c.idempotency_key
        within = and_(key >= self._start, key < self._start[:-1] + ";")
        query = select(key, tasks.c.id, tasks.c.status, tasks.c.payload).where(within).order_by(key)
        after = ""
        while found := self._read(query.where(key > after).limit(PAGE_ROWS)):
            after = found[-1].idempotency_key
            yield self._by_key(found)

    def _tasks_of(self, keys: Sequence[str]) -> dict[str, Imported]:
        by_name = {self._name(key): key for key in keys}
        named = tasks.c.idempotency_key.in_(list(by_name))
        query = select(tasks.c.idempotency_key, tasks.c.id, tasks.c.status, tasks.c.payload).where(named)
        found = self._read(query)
        return {
            by_name[one.idempotency_key]: Imported(one.id, one.status.value, one.payload) for one in found
        }

    def _name(self, key: str) -> str:
        """The idempotency key of a row's task; of a key that cannot be in one, its digest's."""
        name = self._start + key
        if len(name) <= KEY_CHARACTERS and name.isprintable():
            return name
        return f"{self._start}#{blake2b(key.encode('utf-8', 'surrogatepass'), digest_size=16).hexdigest()}"

    def _by_key(self, found: Iterable[Any]) -> dict[str, Imported]:
        return {
            one.idempotency_key.removeprefix(self._start): Imported(one.id, one.status.value, one.payload)
            for one in found
        }

    def _refused_ends(self, task_ids: Sequence[int]) -> set[int]:
        """Those whose history says that their row takes no end."""
        if not task_ids:
            return set()
        said = and_(task_events.c.task_id.in_(task_ids), task_events.c.kind == REFUSED_ITS_END)
        return {one.task_id for one in self._read(select(task_events.c.task_id).where(said))}

    def _read(self, query: Any, database: Database | None = None) -> Sequence[Any]:
        def work(on: Connection) -> Sequence[Any]:
            return on.execute(query).all()

        return (database or self._database).read(work)


def _in_json(value: Any, *, is_text_of_it: bool = False) -> Any:
    """A driver's value as a payload holds it, which has no words for times, keys of bytes and the like."""
    if is_text_of_it and isinstance(value, str):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    if isinstance(value, list):
        return [_in_json(one) for one in value]
    if isinstance(value, Decimal) and isfinite(value):
        return int(value) if value == int(value) else float(value)
    if value is None or isinstance(value, str | int | dict) or (isinstance(value, float) and isfinite(value)):
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
