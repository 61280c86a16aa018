"""How a row is born: one guarded INSERT … SELECT for one task, a plain bulk insert for many."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any, NamedTuple

from sqlalchemy import Column, Select, bindparam, case, insert, literal_column, select
from sqlalchemy.dialects.postgresql import insert as insert_postgresql
from sqlalchemy.dialects.sqlite import insert as insert_sqlite
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from app.tasks.database import CommitUnknown, Database
from app.tasks.model import WAITING, NewTask, Priority, Status
from app.tasks.schema import AnyRow, database_now, routing, tasks
from app.tasks.store.bulk_insert import BulkInsert, Kind, NewRow
from app.tasks.store.driver_sql import DriverSql
from app.tasks.store.lanes import in_a_queue
from app.tasks.store.routing import hold_routing

_GIVEN = (
    *("id", "name", "status", "priority", "payload", "user_id", "active_key"),
    *("idempotency_key", "max_retries", "timeout_seconds", "run_at", "held"),
)


KEYS_AT_A_TIME = 5000  # every database takes more parameters than that


class Refusal(Enum):
    """Why a guarded insert made no row."""

    ROUTING_CHANGED = "routing changed"
    KEY_EXISTS = "idempotency key exists"
    USER_ACTIVE = "active key exists"
    ID_EXISTS = "id exists"


class Placement(NamedTuple):
    """Where the rules put a new task, and the version of the rules that said so."""

    status: Status
    routing_version: int
    held: bool = False
    active_key: str | None = None


@dataclass(frozen=True, slots=True)
class Present:
    """The row that already has an idempotency key."""

    task_id: int
    name: str
    payload: str
    user_id: str | None
    status: Status
    priority: Priority


class Submissions:
    def __init__(self, database: Database) -> None:
        self._database = database
        compiled: Any = _guarded_insert(database.kind).compile(dialect=database.engine.dialect)
        self._guarded, self._order = str(compiled), compiled.positiontup
        self._bulk = BulkInsert(database)
        self._sql = DriverSql(database)

    def insert(
        self, new: NewTask, placement: Placement, connection: Connection | None = None
    ) -> Refusal | None:
        """Insert the row if the routing still has the placement's version; None means it is in.

        On the caller's connection the row lives and dies with the caller's transaction, and a refusal
        leaves that transaction usable. Without one, the statement commits by itself.
        """
        values: Any = self._values(new, placement)
        if self._order is not None:  # SQLite takes them by position
            values = tuple(values[name] for name in self._order)

        def alone(cursor: Any) -> int:
            cursor.execute(self._guarded, values)
            return int(cursor.rowcount)

        try:
            if connection is None:
                rows = self._database.direct(alone)
            else:
                rows = connection.exec_driver_sql(self._guarded, values).rowcount
        except IntegrityError:
            rows = 0  # MySQL: a duplicate key undoes this statement only
        if rows == 1:
            return None
        if connection is not None:
            return self._why(connection, new, placement)
        return self._database.run(lambda on: self._why(on, new, placement))

    def insert_many(
        self, batch: Sequence[tuple[NewTask, Placement]], connection: Connection, now: datetime
    ) -> None:
        """Insert rows whose routing the transaction already holds. Raises `IntegrityError` on a duplicate."""
        groups: dict[Kind, list[NewRow]] = defaultdict(list)
        for new, place in batch:
            groups[place.status, place.held, new.rank].append((new, place.active_key))
        self._bulk.insert(groups, connection, now)

    def insert_alike(self, placement: Placement, news: Sequence[NewTask]) -> bool:
        """Insert rows of one priority that need nothing but the placement, all or none, by one statement that
        commits by itself. False: the routing has changed, or an id exists.

        Raises `CommitUnknown` if the connection was lost and they are not there.
        """
        kind = (placement.status, placement.held, news[0].priority.rank)
        rows = [(new, None) for new in news]
        version = placement.routing_version
        try:
            return self._database.direct(lambda at: self._bulk.insert_guarded(kind, rows, at, version))
        except IntegrityError:
            return False
        except CommitUnknown:
            if self.stored([news[0].task_id]):
                return True
            raise

    def hold_routing(
        self, connection: Connection, priorities: Iterable[Priority]
    ) -> tuple[Mapping[Priority, Any], datetime]:
        return hold_routing(connection, priorities)

    def stored(self, task_ids: Iterable[int]) -> dict[int, Status]:
        """Which of these ids exist: the read-back after a lost answer to COMMIT."""
        wanted = list(task_ids)
        query = select(tasks.c.id, tasks.c.status).where(tasks.c.id.in_(wanted))
        return self._database.read(lambda on: {row.id: row.status for row in on.execute(query)})

    def with_keys(self, keys: Iterable[str], connection: Connection | None = None) -> dict[str, Present]:
        """The rows that hold these idempotency keys."""
        present = ("id", "name", "payload", "user_id", "status", "priority")
        query = select(tasks.c.idempotency_key, *(tasks.c[name] for name in present))
        rows = self._where_in(query, tasks.c.idempotency_key, keys, connection)
        return {row[0]: Present(*row[1:]) for row in rows}

    def active_of(self, keys: Iterable[str], connection: Connection | None = None) -> dict[str, int]:
        """Which of these active keys are taken, and by which task."""
        query = select(tasks.c.active_key, tasks.c.id)
        return {row.active_key: row.id for row in self._where_in(query, tasks.c.active_key, keys, connection)}

    def _where_in(
        self, query: Select[Any], column: Column[Any], keys: Iterable[str], connection: Connection | None
    ) -> list[AnyRow]:
        """The rows of all keys, some thousands at a time; on a connection, past the snapshot of a REPEATABLE
        READ transaction."""
        wanted = sorted(keys)
        rows: list[AnyRow] = []
        for at in range(0, len(wanted), KEYS_AT_A_TIME):
            part = query.where(column.in_(wanted[at : at + KEYS_AT_A_TIME]))
            if connection is None:
                rows += self._database.read(lambda on, part=part: on.execute(part).all())  # type: ignore[misc]
            else:
                rows += connection.execute(part.with_for_update(read=True)).all()
        return rows

    def at_least_waiting(self, limit: int) -> bool:
        """True if `limit` or more tasks wait. Reads at most `limit` index entries."""
        last = select(tasks.c.id).where(tasks.c.status.in_(WAITING), in_a_queue()).limit(1).offset(limit - 1)
        return self._database.read(lambda on: on.execute(last).first()) is not None

    def _values(self, new: NewTask, placement: Placement) -> dict[str, Any]:
        """As the driver takes them."""
        run_at = new.run_at and self._sql.moment(new.run_at)
        return {
            "new_id": new.task_id,
            "new_name": new.name,
            "new_status": placement.status.value,
            "new_priority": new.rank,
            "new_payload": new.payload,
            "new_user_id": new.user_id,
            "new_active_key": placement.active_key,
            "new_idempotency_key": new.idempotency_key,
            "new_max_retries": new.max_retries,
            "new_timeout_seconds": new.timeout_seconds,
            "new_run_at": run_at,
            "new_held": placement.held,
            "ruled_by": new.priority.rank,
            "version": placement.routing_version,
        }

    def _why(self, on: Connection, new: NewTask, placement: Placement) -> Refusal:
        if on.execute(select(tasks.c.id).where(tasks.c.id == new.task_id)).first():
            return Refusal.ID_EXISTS
        if new.idempotency_key is not None and self.with_keys([new.idempotency_key], on):
            return Refusal.KEY_EXISTS
        if placement.active_key is not None and self.active_of([placement.active_key], on):
            return Refusal.USER_ACTIVE
        # What is left: the version differs, or the row that was in the way has just gone. Both: decide anew.
        return Refusal.ROUTING_CHANGED


def _guarded_insert(kind: str) -> Any:
    """INSERT … SELECT <values> FROM routing WHERE version is the known one, under a shared lock."""
    given = [bindparam(f"new_{name}", type_=tasks.c[name].type).label(name) for name in _GIVEN]
    waits = bindparam("new_status", type_=tasks.c.status.type) != literal_column(f"'{Status.SCHEDULED}'")
    since = case((waits, database_now())).label("waiting_since")
    source = (
        select(*given, database_now().label("created_at"), since)
        .where(
            routing.c.priority == bindparam("ruled_by", type_=tasks.c.priority.type),
            routing.c.version == bindparam("version"),
        )
        .with_for_update(read=True)
    )
    columns = [*_GIVEN, "created_at", "waiting_since"]
    statement: Any = insert(tasks)
    if kind == "postgresql":
        statement = insert_postgresql(tasks)
    elif kind == "sqlite":
        statement = insert_sqlite(tasks)
    statement = statement.from_select(columns, source, include_defaults=False)
    if kind != "mysql":  # there a duplicate key is an error that undoes this statement only
        statement = statement.on_conflict_do_nothing()
    return statement.execution_options(preserve_rowcount=True)
