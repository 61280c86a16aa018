"""Many waiting rows at once: what a transfer picks, marks, confirms, counts, and puts into quarantine.

Each function works in a transaction of the caller's, which holds the routing for it. A pick names rows and
locks them; rows that others have locked are left for a later pass. Where tickets are concerned the caller
pushes them after its commit.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import update
from sqlalchemy.engine import Connection

from app.tasks.database import Database
from app.tasks.ids import BUCKET_FACTOR, BUCKET_PRIME, NODE_BITS
from app.tasks.model import Priority, Status, Ticket, Track
from app.tasks.routing import Route
from app.tasks.schema import tasks
from app.tasks.store import events
from app.tasks.store.driver_sql import DriverSql
from app.tasks.store.placing import OVER
from app.tasks.store.row_texts import rows_as_text

_SOURCE = {Track.REDIS: Status.QUEUED, Track.DATABASE: Status.DISPATCHED}


class Candidate(NamedTuple):
    """A locked waiting row. `looks_sound`: the database could read its payload as JSON within the limit;
    if not, whoever judges reads the payload itself."""

    task_id: int
    epoch: int
    timeout_seconds: int | None
    looks_sound: bool
    name: str


@dataclass(frozen=True, slots=True)
class Aim:
    """Which waiting rows of a priority belong on another track: those of `route` that it sends to `track`."""

    route: Route
    track: Track

    @property
    def source(self) -> Status:
        """The status that such rows have before the move."""
        return _SOURCE[self.track]


class TransferRows:
    """`payload_limit_bytes` bounds what the database itself calls sound."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sql = DriverSql(database)
        self._forced = " FORCE INDEX (ix_tasks_waiting)" if self._sql.kind == "mysql" else ""
        self._lock = "" if self._sql.kind == "sqlite" else " FOR UPDATE SKIP LOCKED"

    # --- reading ------------------------------------------------------------------------------------

    def pick(
        self,
        on: Connection,
        aim: Aim,
        *,
        after_id: int,
        limit: int,
        confirmed_in: int = 0,
        payload_limit_bytes: int,
    ) -> list[Candidate]:
        """Lock and describe the next rows behind `after_id`, ascending."""
        sound = self._sound(payload_limit_bytes)
        where, values = self._where(aim)
        rest = (
            f"FROM tasks{self._forced} WHERE {where} AND confirmed_in = {int(confirmed_in)}"
            f" AND id > {int(after_id)} ORDER BY id LIMIT {int(limit)}{self._lock}"
        )
        if self._sql.kind == "mysql":
            lines = rows_as_text(on, ("id", "epoch", "timeout_seconds", sound, "name"), rest, values)
            if lines is not None:
                return [
                    Candidate(int(i), int(epoch), int(timeout) if timeout else None, fine == "1", name)
                    for i, epoch, timeout, fine, name in lines
                ]
        query = f"SELECT id, epoch, timeout_seconds, {sound}, name {rest}"
        rows = on.exec_driver_sql(query, tuple(values)).cursor.fetchall()
        return [Candidate(i, epoch, timeout, bool(fine), name) for i, epoch, timeout, fine, name in rows]

    def payloads(self, on: Connection, task_ids: Sequence[int]) -> dict[int, str]:
        """The payload texts of these rows, as they are."""
        if not task_ids:
            return {}
        query = f"SELECT id, payload FROM tasks WHERE id IN ({_listed(task_ids)})"  # noqa: S608
        return {row[0]: row[1] for row in on.exec_driver_sql(query).cursor.fetchall()}

    def next_confirmed(self, aim: Aim, *, after: int) -> int | None:
        """The lowest `confirmed_in` above `after` of rows with the aim's source status."""
        query = (
            f"SELECT MIN(confirmed_in) FROM tasks WHERE status = '{aim.source.value}'"  # noqa: S608
            f" AND priority = {aim.route.priority.rank} AND confirmed_in > {int(after)}"
        )
        found = self._database.read(lambda on: on.exec_driver_sql(query).scalar())
        return None if found is None else int(found)

    def count(self, aim: Aim) -> int:
        """How many rows are still where `aim` does not want them: a plain count, locked rows included."""
        where, values = self._where(aim)
        query = f"SELECT COUNT(*) FROM tasks WHERE {where}"  # noqa: S608
        return self._database.read(lambda on: int(on.exec_driver_sql(query, tuple(values)).scalar_one()))

    def dispatched_between(
        self, priority: Priority, first_id: int, last_id: int, *, limit: int
    ) -> list[Ticket]:
        """The tickets of the first DISPATCHED rows between these ids, whatever was seen of them."""
        query = (
            "SELECT id, epoch, name, timeout_seconds FROM tasks"  # noqa: S608
            f" WHERE id BETWEEN {int(first_id)} AND {int(last_id)}"
            f" AND {self._sql.status_is(Status.DISPATCHED)} AND priority = {priority.rank}"
            f" ORDER BY id LIMIT {int(limit)}"
        )
        rows = self._database.read(lambda on: on.exec_driver_sql(query).cursor.fetchall())
        return [Ticket(task_id, epoch, priority, name, timeout) for task_id, epoch, name, timeout in rows]

    # --- writing ------------------------------------------------------------------------------------

    def mark(self, on: Connection, task_ids: Sequence[int], track: Track, *, confirmed_in: int = 0) -> None:
        """Bring rows that this transaction has locked to the track, with a new epoch. `confirmed_in`: the
        incarnation of Redis in which their tickets are about to be pushed and read back; what is not found
        there must be unconfirmed."""
        if not task_ids:
            return
        statement = (
            f"UPDATE tasks SET status = '{track.waiting_status.value}', epoch = epoch + 1,"  # noqa: S608
            f" confirmed_in = {int(confirmed_in)}, waiting_since = {self._sql.now}"
            f" WHERE id IN ({_listed(task_ids)})"
        )
        on.exec_driver_sql(statement)

    def quarantine(self, on: Connection, reasons: Mapping[int, str], *, transfer_id: int) -> None:
        """Close locked waiting rows that cannot become tasks. Nothing but their state changes: the payload
        stays as it is, byte by byte, until an operator decides."""
        groups: dict[str, list[int]] = defaultdict(list)
        for task_id, reason in reasons.items():
            groups[reason].append(task_id)
        for reason, ids in groups.items():
            values = OVER | {"status": Status.QUARANTINED, "epoch": tasks.c.epoch + 1, "error": reason}
            on.execute(update(tasks).where(tasks.c.id.in_(sorted(ids))).values(values))
            events.record(on, "quarantined", sorted(ids), reason=reason, transfer=transfer_id)

    def confirm(self, pairs: Mapping[int, Sequence[int]], *, incarnation: int) -> int:
        """As `DispatchedRows.confirm`, for many rows: ids by epoch. Returns how many still had the epoch."""
        return sum(self._write_confirmed(ids, epoch, incarnation) for epoch, ids in pairs.items() if ids)

    def _write_confirmed(self, task_ids: Sequence[int], epoch: int, incarnation: int) -> int:
        statement = (
            f"UPDATE tasks SET confirmed_in = {int(incarnation)} WHERE id IN ({_listed(task_ids)})"  # noqa: S608
            f" AND epoch = {int(epoch)} AND {self._sql.status_is(Status.DISPATCHED)}"
        )
        return self._database.run(lambda on: on.exec_driver_sql(statement).rowcount)

    # --- parts of statements ------------------------------------------------------------------------

    def _where(self, aim: Aim) -> tuple[str, list[Any]]:
        route = aim.route
        where = f"status = '{aim.source.value}' AND priority = {route.priority.rank}"
        if route.whole_track is aim.track:
            return where, []
        share, values = self._redis_share(route)
        return f"{where} AND {self._bucket} {'<' if aim.track is Track.REDIS else '>='} {share}", values

    @property
    def _bucket(self) -> str:
        """`ids.bucket_of` in SQL."""
        shifted = f"(id >> {NODE_BITS}) * {BUCKET_FACTOR}"
        if self._sql.kind == "sqlite":
            return f"({shifted}) % {BUCKET_PRIME} % 100"
        return f"MOD(MOD({shifted}, {BUCKET_PRIME}), 100)"

    def _redis_share(self, route: Route) -> tuple[str, list[Any]]:
        """`Route.percent_of` in SQL."""
        if not route.name_percents:
            return str(route.redis_percent), []
        whens = " ".join(f"WHEN {self._sql.mark} THEN {percent}" for percent in route.name_percents.values())
        return f"CASE name {whens} ELSE {route.redis_percent} END", list(route.name_percents)

    def _sound(self, limit_bytes: int) -> str:
        if self._sql.kind == "mysql":
            return f"JSON_VALID(payload) AND LENGTH(payload) <= {int(limit_bytes)}"
        if self._sql.kind == "sqlite":
            return f"json_valid(payload) AND length(CAST(payload AS BLOB)) <= {int(limit_bytes)}"
        return "false"  # PostgreSQL before 16 cannot tell without an error


def _listed(task_ids: Sequence[int]) -> str:
    """Numbers as text: as parameters they would cost more than the search for the rows."""
    return ",".join(map(str, task_ids))
