"""The birth of imported tasks, and what is remembered of the tables that they came from.

Everything here happens in the transaction in which the legacy rows are marked: a task exists if and only if
its row was moved, or was named for what keeps it from being one.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, delete, func, insert, select, update
from sqlalchemy.engine import Connection

from app.tasks.database import Database
from app.tasks.model import ENDED, WAITING, Priority, Status
from app.tasks.schema import AnyRow, database_now, legacy_sources, tasks
from app.tasks.sources import SOURCE_KEYS, Source, SourceKey
from app.tasks.store import events
from app.tasks.store.placing import OVER

KEYS_AT_A_TIME = 5000  # every database takes more parameters than that
ROWS_AT_A_TIME = 1000
GIVEN_BACK = "given back: its legacy row is queued again"


class Imported(NamedTuple):
    """A task as it comes out of a legacy row. `error` is the reason of a QUARANTINED one."""

    task_id: int
    key: str
    name: str
    payload: str
    priority: Priority
    status: Status
    created_at: datetime
    user_id: str | None = None
    active_key: str | None = None
    failures: int = 0
    max_retries: int | None = None
    error: str | None = None


class Imports:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._known: dict[str, Source] = {}

    # --- the tables that tasks came from --------------------------------------------------------------

    def remember(self, source: Source) -> None:
        """Store what this table calls things, for every process whose tasks may have come from it."""

        def work(on: Connection) -> None:
            on.execute(delete(legacy_sources).where(legacy_sources.c.name == source.name))
            row = {"name": source.name, "definition": source.to_json(), "changed_at": database_now()}
            on.execute(insert(legacy_sources).values(**row))

        self._database.run(work)
        with self._lock:
            self._known[source.name] = source

    def source(self, name: str, on: Connection | None = None) -> Source | None:
        """What is stored under this name; read once per process and name."""
        with self._lock:
            if name in self._known:
                return self._known[name]
        query = select(legacy_sources.c.definition).where(legacy_sources.c.name == name)

        def work(on: Connection) -> str | None:
            return on.execute(query).scalar()

        text = work(on) if on is not None else self._database.read(work)
        if text is None:
            return None
        found = Source.of_json(text)
        with self._lock:
            return self._known.setdefault(name, found)

    # --- the tasks --------------------------------------------------------------------------------------

    def known(self, on: Connection, keys: Sequence[str]) -> dict[str, tuple[int, Status]]:
        """Which of these keys have a task already, and its status."""
        found: dict[str, tuple[int, Status]] = {}
        query = select(tasks.c.idempotency_key, tasks.c.id, tasks.c.status)
        for at in range(0, len(keys), KEYS_AT_A_TIME):
            part = query.where(tasks.c.idempotency_key.in_(keys[at : at + KEYS_AT_A_TIME]))
            found |= {row.idempotency_key: (row.id, row.status) for row in on.execute(part)}
        return found

    def named(self, source: str) -> list[str]:
        """The keys of the rows that have a task in quarantine."""
        query = select(tasks.c.idempotency_key).where(
            *_of_source(source), tasks.c.status == Status.QUARANTINED
        )
        keys = self._database.read(lambda on: list(on.execute(query).scalars()))
        return [key.key for text in keys if (key := SourceKey.of_key(text)) is not None]

    def give_up_keys(self, on: Connection, task_ids: Sequence[int]) -> None:
        """Ended tasks whose legacy row was queued anew: the row's next task takes the key."""
        if task_ids:
            ended = (tasks.c.id.in_(sorted(task_ids)), tasks.c.status.in_(ENDED))
            on.execute(update(tasks).where(*ended).values(idempotency_key=None))
            events.record(on, "its legacy row was queued anew", task_ids)

    def insert(
        self, on: Connection, rows: Sequence[Imported], now: datetime, *, transfer_id: int, confirmed_in: int
    ) -> None:
        """Store the tasks. `now` is the database's clock, `confirmed_in` as for `TransferRows.mark`. Raises
        `IntegrityError` on a key that is taken."""
        values = [_values(row, now, confirmed_in) for row in rows]
        for at in range(0, len(values), ROWS_AT_A_TIME):
            on.execute(insert(tasks), values[at : at + ROWS_AT_A_TIME])
        events.record_all(on, _named(rows, transfer_id))

    # --- the way back -----------------------------------------------------------------------------------

    def never_started(self, on: Connection, source: str, limit: int) -> list[AnyRow]:
        """Lock tasks of this source that wait and were never started: (id, idempotency_key)."""
        query = select(tasks.c.id, tasks.c.idempotency_key).where(*_never_started(source))
        return list(on.execute(query.order_by(tasks.c.id).limit(limit).with_for_update(skip_locked=True)))

    def count_never_started(self, source: str) -> int:
        """How many there are, locked ones included."""
        query = select(func.count()).select_from(tasks).where(*_never_started(source))
        return self._database.read(lambda on: int(on.execute(query).scalar_one()))

    def close_given_back(self, on: Connection, task_ids: Sequence[int]) -> None:
        """Their rows are an old worker's again."""
        values = OVER | {"status": Status.CANCELLED, "epoch": tasks.c.epoch + 1, "error": GIVEN_BACK}
        on.execute(update(tasks).where(tasks.c.id.in_(task_ids)).values(values))
        events.record(on, "given back", task_ids)


def _of_source(source: str) -> tuple[ColumnElement[bool], ...]:
    key = tasks.c.idempotency_key
    return key >= f"{SOURCE_KEYS}{source}:", key < f"{SOURCE_KEYS}{source};"  # the character behind the colon


def _never_started(source: str) -> tuple[ColumnElement[bool], ...]:
    return (*_of_source(source), tasks.c.status.in_(WAITING), tasks.c.started_at.is_(None))


def _values(row: Imported, now: datetime, confirmed_in: int) -> dict[str, Any]:
    waits = row.status in (Status.QUEUED, Status.DISPATCHED)
    return {
        "id": row.task_id,
        "name": row.name,
        "status": row.status,
        "priority": row.priority,
        "payload": row.payload,
        "user_id": row.user_id,
        "active_key": row.active_key,
        "idempotency_key": row.key,
        "attempt": row.failures,  # nothing has failed more often than it was tried
        "failures": row.failures,
        "max_retries": row.max_retries,
        "error": row.error,
        "confirmed_in": confirmed_in if row.status is Status.DISPATCHED else 0,
        "created_at": row.created_at,
        "waiting_since": now if waits else None,
        "ended_at": now if row.status is Status.QUARANTINED else None,
    }


def _named(rows: Iterable[Imported], transfer_id: int) -> list[events.Happened]:
    return [
        (row.task_id, "quarantined", {"reason": row.error, "transfer": transfer_id})
        for row in rows
        if row.status is Status.QUARANTINED
    ]
