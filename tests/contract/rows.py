"""Plain SQL beside the product: writes and reads the tables without any of its code.

What a test believes of a row comes from here, so that a wrong statement of the store cannot hide behind
a wrong reading of its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, create_engine, event, text

from app.tasks.database import Database

EFFECTS = "CREATE TABLE effects (task_id BIGINT NOT NULL)"  # what a handler writes through its connection
TABLES = (
    *("effects", "schedules", "user_waits", "slot_waits", "tasks", "task_events"),
    *("routing", "workers", "locks", "memory", "legacy_sources", "legacy_stages", "legacy_ends"),
    *("transfers", "transfer_batches", "transfer_events", "procedures", "variables"),
    *("flows", "flow_execution_logs", "parents", "children", "tag_limits", "pools"),
)
RANKS = {"urgent": 0, "high": 1, "normal": 2, "low": 3}
WAITING = ("QUEUED", "DISPATCHED")
ENDED = ("COMPLETED", "FAILED", "CANCELLED")
TOKEN = 4711
SEEN_INCARNATION = 99

# What tells a clean waiting row from one that is claimed, ended or was never touched.
_KEPT_OUT = ("created_at", "waiting_since", "started_at", "ended_at")


class Rows:
    """The tables of one database, seen from outside."""

    def __init__(self, url: str, database: Database) -> None:
        """`database` is the product's, for the parts under test; nothing here uses it."""
        self.url = url
        self.database = database
        self.kind = url.partition(":")[0].partition("+")[0]
        options: dict[str, Any] = {}
        if self.kind == "postgresql":
            options["connect_args"] = {"options": "-c timezone=UTC"}
        elif self.kind == "mysql":
            options["isolation_level"] = "READ COMMITTED"
        self.engine = create_engine(url, **options)
        if self.kind == "sqlite":
            event.listen(self.engine, "connect", _explicit_begin)
            event.listen(self.engine, "begin", _begin_immediate)
        self._numbers = itertools.count(1000)

    def close(self) -> None:
        self.engine.dispose()

    def execute(self, statement: str, **values: Any) -> list[Any]:
        """Run one statement in its own transaction and return its rows."""
        with self.engine.begin() as on:
            result = on.execute(text(statement), values)
            return list(result) if result.returns_rows else []

    def scalar(self, statement: str, **values: Any) -> Any:
        return self.execute(statement, **values)[0][0]

    def empty(self) -> None:
        with self.engine.begin() as on:
            for table in TABLES:
                on.execute(text(f"DELETE FROM {table}"))

    # --- writing ------------------------------------------------------------------------------------

    def put(self, status: str = "QUEUED", *, count: int = 1, **columns: Any) -> int:
        """Insert `count` like rows with ascending ids; returns the first id."""
        first = next(self._numbers) if "id" not in columns else columns.pop("id")
        rows = [self._row(status, first, columns)]
        rows += [self._row(status, next(self._numbers), columns) for _ in range(count - 1)]
        names = list(rows[0])
        statement = f"INSERT INTO tasks ({', '.join(names)}) VALUES ({', '.join(f':{n}' for n in names)})"
        with self.engine.begin() as on:
            on.execute(text(statement), rows)
        return int(first)

    def put_on(self, on: Connection, status: str = "QUEUED", **columns: Any) -> int:
        """As `put`, in the transaction of `on`."""
        row = self._row(status, next(self._numbers), columns)
        names = ", ".join(row)
        on.execute(text(f"INSERT INTO tasks ({names}) VALUES ({', '.join(f':{n}' for n in row)})"), row)
        return int(row["id"])

    def _row(self, status: str, task_id: int, columns: Mapping[str, Any]) -> dict[str, Any]:
        row: dict[str, Any] = {"id": task_id, "status": status, "name": "test.noop", "payload": "{}"}
        row |= {"priority": RANKS["normal"], "epoch": 3, "confirmed_in": 0, "created_at": self.at(-60)}
        row |= _OF_STATUS[status](self)
        row |= columns
        if isinstance(row["priority"], str):
            row["priority"] = RANKS[row["priority"]]
        return row

    def change(self, task_id: int, **columns: Any) -> None:
        settings = ", ".join(f"{name} = :{name}" for name in columns)
        self.execute(f"UPDATE tasks SET {settings} WHERE id = :id", id=task_id, **columns)

    def at(self, seconds: float) -> str:
        """The moment `seconds` from now, as this database takes it."""
        moment = datetime.now(UTC) + timedelta(seconds=seconds)
        return moment.strftime("%Y-%m-%d %H:%M:%S.%f") + ("+00" if self.kind == "postgresql" else "")

    # --- reading ------------------------------------------------------------------------------------

    def row(self, task_id: int) -> dict[str, Any]:
        found = self.execute("SELECT * FROM tasks WHERE id = :id", id=task_id)
        assert found, f"no row {task_id}"
        return dict(found[0]._mapping)

    def status(self, task_id: int) -> str:
        return str(self.scalar("SELECT status FROM tasks WHERE id = :id", id=task_id))

    def all(self) -> dict[int, dict[str, Any]]:
        return {row.id: dict(row._mapping) for row in self.execute("SELECT * FROM tasks")}

    def count(self, status: str | None = None) -> int:
        if status is None:
            return int(self.scalar("SELECT COUNT(*) FROM tasks"))
        return int(self.scalar("SELECT COUNT(*) FROM tasks WHERE status = :status", status=status))

    def effects(self) -> list[int]:
        """The ids of the tasks whose handlers' own writes were committed."""
        return [row.task_id for row in self.execute("SELECT task_id FROM effects ORDER BY task_id")]

    def events(self, task_id: int) -> list[str]:
        """The kinds of the task's events, in order."""
        found = self.execute("SELECT kind FROM task_events WHERE task_id = :id ORDER BY id", id=task_id)
        return [row.kind for row in found]

    def waiters(self) -> int:
        """How many statements wait for a lock in this database at this moment; SQLite does not tell."""
        if self.kind == "sqlite":
            return 0
        return int(self.scalar(_WAITERS[self.kind]))

    def seconds_from_now(self, value: Any) -> float:
        """How far a time that was read lies ahead (positive) or behind."""
        moment = datetime.fromisoformat(value) if isinstance(value, str) else value
        aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return float((aware - datetime.now(UTC)).total_seconds())

    @contextmanager
    def holding(self, statement: str, **values: Any) -> Iterator[Connection]:
        """Run a statement in a transaction that stays open for the length of the block, then commits."""
        with self.engine.begin() as on:
            on.execute(text(statement), values)
            yield on

    @contextmanager
    def locked(self, task_id: int) -> Iterator[Connection]:
        """Hold the row's lock (on SQLite: the database's write lock)."""
        suffix = "" if self.kind == "sqlite" else " FOR UPDATE"
        with self.holding(f"SELECT id FROM tasks WHERE id = :id{suffix}", id=task_id) as on:
            yield on


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """The columns that differ, with their new values; clocks are left out."""
    return {name: after[name] for name in after if name not in _KEPT_OUT and before[name] != after[name]}


def _explicit_begin(connection: Any, _record: Any) -> None:
    connection.isolation_level = None
    connection.execute("PRAGMA busy_timeout = 20000")


def _begin_immediate(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


_WAITERS = {
    # not innodb_trx: it is a cache that whoever reads it often keeps from being refreshed
    "mysql": "SELECT variable_value FROM information_schema.global_status"
    " WHERE variable_name = 'innodb_row_lock_current_waits'",
    "postgresql": "SELECT COUNT(*) FROM pg_stat_activity"
    " WHERE datname = current_database() AND wait_event_type = 'Lock'",
}

_OF_STATUS: dict[str, Any] = {
    "SCHEDULED": lambda rows: {"run_at": rows.at(3600)},
    "QUEUED": lambda rows: {"waiting_since": rows.at(-60)},
    "DISPATCHED": lambda rows: {"waiting_since": rows.at(-60), "confirmed_in": SEEN_INCARNATION},
    "PROCESSING": lambda rows: {
        "token": TOKEN,
        "holder": "the old worker",
        "attempt": 1,
        "lease_until": rows.at(30),
        "waiting_since": rows.at(-60),
        "started_at": rows.at(-5),
    },
    "COMPLETED": lambda rows: {"attempt": 1, "result": "{}", "ended_at": rows.at(-1)},
    "FAILED": lambda rows: {"attempt": 1, "failures": 1, "error": "it broke", "ended_at": rows.at(-1)},
    "CANCELLED": lambda rows: {"ended_at": rows.at(-1)},
    "QUARANTINED": lambda rows: {"error": "not a task"},
}
