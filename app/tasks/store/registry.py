"""Who works here: the workers' own rows, and the named locks that make one sweeper active at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from app.tasks.database import Database
from app.tasks.schema import database_now, locks, memory, workers

POOL_WORD = "pool:"  # before the name of the pool that a worker serves, in place of queues


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """A worker as it last described itself. `idle_seconds`: since it was last seen, database clock."""

    worker_id: str
    host: str
    pid: int
    track: str
    queues: str
    state: str
    done: int
    started_at: datetime
    seen_at: datetime
    idle_seconds: float

    @property
    def pool(self) -> str | None:
        """The pool that it serves; None: it serves queues."""
        return self.queues.removeprefix(POOL_WORD) if self.queues.startswith(POOL_WORD) else None


class Registry:
    def __init__(self, database: Database) -> None:
        self._database = database

    def arrive(self, worker_id: str, *, host: str, pid: int, track: str, queues: Sequence[str]) -> None:
        row = {"id": worker_id, "host": host, "pid": pid, "track": track, "queues": ",".join(queues)}
        statement = insert(workers).values(
            **row, state="idle", started_at=database_now(), seen_at=database_now()
        )
        self._database.write_one(lambda on: on.execute(statement))

    def seen(self, worker_id: str, *, state: str, done: int) -> None:
        """A sign of life. `done`: tasks ended since the start."""
        statement = (
            update(workers)
            .where(workers.c.id == worker_id)
            .values(state=state, done=done, seen_at=database_now())
        )
        self._database.write_one(lambda on: on.execute(statement))

    def leave(self, worker_id: str) -> None:
        self._database.write_one(lambda on: on.execute(delete(workers).where(workers.c.id == worker_id)))

    def forget_silent(self, *, silent_seconds: float) -> int:
        """Remove workers that gave no sign of life for that long."""
        statement = delete(workers).where(workers.c.seen_at < database_now(-silent_seconds))
        return self._database.write_one(lambda on: on.execute(statement).rowcount)

    def workers(self, *, silent_seconds: float = 90) -> list[WorkerRow]:
        """The workers that gave a sign of life within `silent_seconds`."""
        query = (
            select(workers, database_now().label("now"))
            .where(workers.c.seen_at >= database_now(-silent_seconds))
            .order_by(workers.c.started_at, workers.c.id)
        )
        return [_worker(row) for row in self._database.read(lambda on: on.execute(query).all())]

    def try_lock(self, name: str, holder: str, *, seconds: float) -> bool:
        """Take or keep a named lock for `seconds` by the database's clock; false if another holds it."""
        keep = (
            update(locks)
            .where(locks.c.name == name)
            .where((locks.c.holder == holder) | (locks.c.until_at < database_now()))
            .values(holder=holder, until_at=database_now(seconds))
        )
        if self._database.write_one(lambda on: on.execute(keep).rowcount):
            return True
        present = select(locks.c.name).where(locks.c.name == name)
        if self._database.read(lambda on: on.execute(present).first()):
            return False
        first = insert(locks).values(name=name, holder=holder, until_at=database_now(seconds))
        try:
            self._database.write_one(lambda on: on.execute(first))
        except IntegrityError:
            return False
        return True

    def lock_holder(self, name: str) -> str | None:
        """Who holds a named lock, or held it last."""
        query = select(locks.c.holder).where(locks.c.name == name)
        return self._database.read(lambda on: on.execute(query).scalar_one_or_none())

    def unlock(self, name: str, holder: str) -> None:
        statement = delete(locks).where(locks.c.name == name, locks.c.holder == holder)
        self._database.write_one(lambda on: on.execute(statement))

    def recall(self, name: str) -> str | None:
        """What was remembered under this name."""
        query = select(memory.c.value).where(memory.c.name == name)
        return self._database.read(lambda on: on.execute(query).scalar_one_or_none())

    def remember(self, name: str, value: str) -> None:
        change = update(memory).where(memory.c.name == name).values(value=value)
        first = insert(memory).values(name=name, value=value)
        if self._database.write_one(lambda on: on.execute(change).rowcount):
            return
        try:
            self._database.write_one(lambda on: on.execute(first))
        except IntegrityError:  # another process that starts at the same time was first
            self._database.write_one(lambda on: on.execute(change))


def _worker(row: Any) -> WorkerRow:
    return WorkerRow(
        worker_id=row.id,
        host=row.host,
        pid=row.pid,
        track=row.track,
        queues=row.queues,
        state=row.state,
        done=row.done,
        started_at=row.started_at,
        seen_at=row.seen_at,
        idle_seconds=max(0.0, (row.now - row.seen_at).total_seconds()),
    )
