"""A legacy queue in another database than ours, and the deaths that an import from it must survive."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

from sqlalchemy import Connection, event

from app.tasks.database import Database
from app.tasks.errors import DatabaseUnavailable
from app.tasks.queue import TaskQueue
from app.tasks.store import Store
from app.tasks.store.source_databases import SourceDatabases
from app.transfer.legacy.beginning import checked, needed_statements
from app.transfer.legacy.guard import prepare_passes
from tests.contract.legacy.parts import CAPTIONS, queue_over
from tests.contract.rows import Rows
from tests.legacy_tables import CaptionQueue

NAME = "captions"
ELSEWHERE = CAPTIONS.model_copy(update={"database": NAME})


class Killed(BaseException):
    """Nothing more of what was under way happens."""


class Elsewhere:
    """Our tables, a legacy queue in another database, and processes over both."""

    def __init__(self, rows: Rows, there: Rows) -> None:
        """`there`: plain SQL on the other database."""
        self.rows = rows
        self.there = there
        self.legacy = CaptionQueue(there.engine)
        self.seconds = 0.0
        self.stores: list[Store] = []
        self.store = self.process()
        self.store.routing.ensure(redis_percent=0)
        self.queue: TaskQueue = queue_over(self.store)
        for statement in needed_statements(checked(self.queue, ELSEWHERE)):
            self.there.execute(statement)

    def process(self) -> Store:
        """The store of a process of its own."""
        databases = SourceDatabases(lambda name: Database(self.there.url).url, clock=lambda: self.seconds)
        store = Store.over(self.rows.database, source_databases=databases)
        self.stores.append(store)
        return store

    def close(self) -> None:
        self.legacy.drop()
        self.there.execute("DROP TABLE IF EXISTS legacy_sources")
        for store in self.stores:
            store.source_databases.dispose()

    @property
    def databases(self) -> list[Database]:
        """Ours, and the other one as imports and as workers reach it."""
        found = self.store.source_databases
        return [self.rows.database, found.database(NAME), found.known(NAME)]

    def anew(self, numbers: Iterable[int], *, broken: int | None = None) -> list[str]:
        """Nothing but queued rows of these numbers, and one that is broken. Returns their keys."""
        self.rows.empty()
        self.store.routing.ensure(redis_percent=0)
        self.store.imports.remember(checked(self.queue, ELSEWHERE).source())
        prepare_passes(self.databases[1], ELSEWHERE)
        self.legacy.execute(f"DELETE FROM {self.legacy.table}")
        made = [self.legacy.row(number) for number in numbers]
        if broken is not None:
            made.append(self.legacy.row(broken, settings_json="{"))
        return self.legacy.put(made) if made else []

    def count(self, table: str) -> int:
        return int(self.rows.scalar(f"SELECT COUNT(*) FROM {table}"))

    @contextmanager
    def away(self) -> Iterator[None]:
        """The other database does not answer."""
        with killed_at(1, *self.databases[1:], by=DatabaseUnavailable):
            yield


@contextmanager
def killed_at(number: int, *databases: Database, by: type[BaseException] = Killed) -> Iterator[list[int]]:
    """Kill whoever comes to the statement or commit of this number, or a later one. Gives how many came."""
    seen, lock = [0], threading.Lock()

    def step(*_: object) -> None:
        with lock:
            seen[0] += 1
            if seen[0] >= number:
                raise by

    def commit(on: Connection) -> None:
        try:
            step()
        except BaseException:
            on.connection.rollback()  # as a server does for whoever is gone
            raise

    with ExitStack() as listening:
        for database in databases:
            for engine in (database.engine, database._auto):
                for name, listener in (("before_cursor_execute", step), ("commit", commit)):
                    event.listen(engine, name, listener)
                    listening.callback(event.remove, engine, name, listener)
        yield seen
