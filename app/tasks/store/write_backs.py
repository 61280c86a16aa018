"""The legacy rows of imported tasks: whether one is ours before a start, and what it is told at the end.

A row says `moved` from its import to the end of its task, whatever happens in between. In our own database it
is written in the transaction that ends the task; in another one by `deliver`, from what that transaction has
left in `ends`. Tasks that were not imported cost nothing here: their keys say so.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog
from sqlalchemy import select
from sqlalchemy.engine import Connection

from app.tasks.database import Database
from app.tasks.errors import DatabaseUnavailable, SourceUnavailable, StatementRefused
from app.tasks.model import ENDED, Claim, Completed, Outcome, Status
from app.tasks.schema import tasks
from app.tasks.sources import Source, SourceKey, is_imported
from app.tasks.store import events
from app.tasks.store.ends import Ends
from app.tasks.store.events import Happened
from app.tasks.store.imports import Imports
from app.tasks.store.legacy_rows import End, LegacyRows
from app.tasks.store.source_databases import SourceDatabases
from app.tasks.store.stages import Stages

TAKEN = "taken elsewhere: its legacy row is no longer marked as moved"
TOLD_AT_A_TIME = 200
TRIES = 5

log = structlog.get_logger(__name__)


class EndUnwritten(Exception):
    """The row of a task is not to be marked again before its end is written down anew: should the retry die
    half-way, somebody has to tell it."""


@dataclass(slots=True)
class Looked:
    """Claims that must not start: somebody else has `taken` their rows, or their source is away, and they are
    `put_off` for so many seconds."""

    taken: list[Claim] = field(default_factory=list)
    put_off: list[tuple[Claim, float]] = field(default_factory=list)


class WriteBacks:
    def __init__(
        self, database: Database, imports: Imports, stages: Stages, databases: SourceDatabases
    ) -> None:
        self._database = database
        self._imports = imports
        self._stages = stages
        self.ends = Ends(database)
        self.databases = databases
        self._own = LegacyRows(database)
        self._some_left = False  # this process has written an end that it has not delivered

    # --- before a start -------------------------------------------------------------------------------

    def look(self, claims: Sequence[Claim]) -> Looked:
        """Which claims must not start. Asks a database only for imported tasks. Raises `DatabaseUnavailable`
        if ours is away."""
        by_source: dict[str, dict[str, Claim]] = defaultdict(dict)
        for claim in claims:
            if (key := SourceKey.of_key(claim.idempotency_key)) is not None:
                by_source[key.source][key.key] = claim
        looked = Looked()
        for name, rows in by_source.items():
            source = self._imports.source(name)
            try:
                ours = self._ours(source, list(rows)) if source else set()
            except (SourceUnavailable, StatementRefused) as error:
                if source is None or source.database is None:
                    raise
                log.info("source.tasks_put_off", source=name, tasks=len(rows), reason=str(error))
                seconds = self.databases.put_off_seconds(source.database)
                looked.put_off += [(claim, seconds) for claim in rows.values()]
                continue
            looked.taken += [claim for key, claim in rows.items() if key not in ours]
        return looked

    def _ours(self, source: Source, keys: Sequence[str]) -> set[str]:
        if source.database is None:
            return self._database.read(lambda on: self._own.ours(on, source, keys))
        there = LegacyRows(self.databases.known(source.database))
        return self.databases.read(source.database, lambda on: there.ours(on, source, keys))

    # --- at the end -----------------------------------------------------------------------------------

    def of_outcomes(
        self, on: Connection, outcomes: Sequence[Outcome], recorded: Mapping[int, Status]
    ) -> None:
        """Write back what these outcomes have ended, in the transaction that records them.

        Raises `StatementRefused` if a table in our database does not take a completion; what failed or was
        cancelled is then told by its status alone, or by an event if even that is refused.
        """
        ends = []
        for outcome in outcomes:
            claim = outcome.claim
            status = recorded.get(claim.task_id)
            if status in ENDED and (key := SourceKey.of_key(claim.idempotency_key)) is not None:
                result = outcome.result if isinstance(outcome, Completed) else None
                error = getattr(outcome, "error", None)
                ends.append(End(claim.task_id, key, status, result, error, claim.attempt))
        self.write(on, ends)

    def of_row(self, on: Connection, row: Any, status: Status, error: str | None = None) -> None:
        """Write back one task that a verb has ended. `row` has its id and idempotency key."""
        if (key := SourceKey.of_key(row.idempotency_key)) is not None:
            self.write(on, [End(row.id, key, status, error=error)])

    def of_rows(self, on: Connection, rows: Sequence[Any], status: Status, error: str | None = None) -> None:
        """As `of_row`, of many."""
        found = [(row.id, SourceKey.of_key(row.idempotency_key)) for row in rows]
        self.write(on, [End(task_id, key, status, error=error) for task_id, key in found if key is not None])

    def write(self, on: Connection, ends: Sequence[End]) -> None:
        groups: dict[tuple[str, Status], list[End]] = defaultdict(list)
        for end in ends:
            groups[end.key.source, end.status].append(end)
        for (name, status), group in groups.items():
            source = self._imports.source(name, on)
            if source is None:
                continue
            if source.database is not None:
                self.ends.add(on, group)
                self._some_left = True
                continue
            group.sort(key=lambda end: end.key)
            told = self._own.complete if status is Status.COMPLETED else self._own.tell
            events.record_all(on, told(on, source, group))

    # --- to another database ----------------------------------------------------------------------------

    def deliver_own(self) -> None:
        """As `deliver`, of what this process has just written: nothing else costs anything. Never raises: the
        sweeper delivers what is left."""
        if not self._some_left:
            return
        self._some_left = False
        try:
            self.deliver()
        except DatabaseUnavailable as error:
            log.info("source.not_told", reason=str(error))

    def deliver(self) -> int:
        """Tell rows in other databases what has become of their tasks. Returns how many ends are off our
        hands; those whose database is away are left. Raises `DatabaseUnavailable` if ours is."""
        delivered = 0
        for name in self.ends.sources():
            source = self._imports.source(name)
            if source is None or source.database is None:
                continue
            try:
                count = TOLD_AT_A_TIME
                while count == TOLD_AT_A_TIME:
                    count = self._deliver_of(source, source.database)
                    delivered += count
            except (SourceUnavailable, StatementRefused) as error:
                log.info("source.not_told", source=name, reason=str(error))
        return delivered

    def _deliver_of(self, source: Source, database: str) -> int:
        """A batch: locked here until it was committed there, and deleted."""
        there = LegacyRows(self.databases.known(database))

        def work(on: Connection) -> int:
            ends = self.ends.next(on, source.name, limit=TOLD_AT_A_TIME)
            if ends:
                happened = self.databases.run(database, lambda to: _tell_all(there, to, source, ends))
                self.ends.delete(on, ends)
                events.record_all(on, happened)
            return len(ends)

        return self._database.run(work)

    # --- the way back -----------------------------------------------------------------------------------

    def give_back(self, name: str, *, limit: int) -> list[int]:
        """Queue the rows of tasks that never started anew, and cancel these tasks, both or neither; rows in
        another database are queued by `deliver`.

        Returns the tasks' ids; repeat until there are none. What others have locked is left for a later
        call. Raises `DatabaseUnavailable`.
        """
        source = self._imports.source(name)
        if source is None:
            return []
        return self._database.run(lambda on: self._give_back(on, source, limit))

    def _give_back(self, on: Connection, source: Source, limit: int) -> list[int]:
        rows = self._imports.never_started(on, source.name, limit)
        if not rows:
            return []
        keys = {row.id: key for row in rows if (key := SourceKey.of_key(row.idempotency_key)) is not None}
        if source.database is None:
            self._own.queue(on, source, [key.key for key in keys.values()])
        else:
            self.ends.add(on, [End(task_id, key, Status.QUEUED) for task_id, key in keys.items()])
        self._imports.close_given_back(on, [row.id for row in rows])
        return list(keys)

    def queue_staged(self, name: str, *, limit: int) -> int:
        """Queue rows anew that an import in another database has marked, or may have, and that no task came
        of. Returns how many stages are gone; repeat until 0. Raises `SourceUnavailable`."""
        source, staged = self._imports.source(name), self._stages.next(name, limit=limit)
        if source is None or source.database is None or not staged:
            return 0
        database, there = source.database, LegacyRows(self.databases.known(source.database))

        def work(on: Connection) -> None:
            known = self._imports.known(on, [str(SourceKey(name, one.key)) for one in staged])
            lives = {task_id for task_id, status in known.values() if status not in ENDED}
            ours = lives | self.ends.lock(on, [task_id for task_id, _ in known.values()])
            keys = [
                one.key
                for one in staged
                if known.get(str(SourceKey(name, one.key)), (None, None))[0] not in ours
            ]
            if keys:
                self.databases.run(database, lambda to: there.queue(to, source, keys))
            self._stages.delete(on, staged)

        self._database.run(work)
        return len(staged)

    # --- an operator's retry ----------------------------------------------------------------------------

    def reopen(self, on: Connection, row: Any) -> bool:
        """Mark the row of a task that is to run again as moved. False: it lives on without us.

        A row in another database is marked before the caller commits. Raises `EndUnwritten` unless its end is
        written down, which this transaction deletes: call `write_anew`, and begin again. Raises
        `SourceUnavailable`.
        """
        key = SourceKey.of_key(row.idempotency_key)
        source = self._imports.source(key.source, on) if key is not None else None
        if key is None or source is None:
            return not is_imported(row.idempotency_key)
        if source.database is None:
            return self._own.mark_again(on, source, key.key)
        if not self.ends.void(on, [row.id]) and row.status in ENDED:
            raise EndUnwritten
        there = LegacyRows(self.databases.known(source.database))
        return self.databases.run(source.database, lambda to: there.mark_again(to, source, key.key))

    def write_anew(self, task_id: int) -> None:
        """Write down the end of a task that has ended, for its row to be told once more."""
        columns = (tasks.c.status, tasks.c.idempotency_key, tasks.c.result, tasks.c.error, tasks.c.attempt)
        query = select(*columns).where(tasks.c.id == task_id).with_for_update()

        def work(on: Connection) -> None:
            row = on.execute(query).first()
            key = SourceKey.of_key(row.idempotency_key) if row is not None else None
            if row is not None and key is not None and row.status in ENDED:
                self.ends.void(on, [task_id])
                self.ends.add(on, [End(task_id, key, row.status, row.result, row.error, row.attempt)])

        self._database.run(work)


def _tell_all(there: LegacyRows, to: Connection, source: Source, ends: Sequence[End]) -> list[Happened]:
    groups: dict[Status, list[End]] = defaultdict(list)
    for end in ends:
        groups[end.status].append(end)
    happened: list[Happened] = []
    for group in groups.values():
        happened += there.tell(to, source, sorted(group, key=lambda end: end.key))
    return happened
