"""What the contract tests build again and again: queues, handlers, requests, threads."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import pytest
from pydantic import TypeAdapter
from sqlalchemy import event

from app.tasks.database import Database
from app.tasks.errors import DatabaseUnavailable, StatementRefused
from app.tasks.handlers import Handler, HandlerRegistry
from app.tasks.model import Completed, OnLost, Outcome
from app.tasks.queue import TaskQueue
from app.tasks.settings import CoreSettings
from app.tasks.store import Store
from app.tasks.store.settling import Settled, Settlements
from app.tasks.submission import TaskRequest
from app.tasks.tickets import RQQueueManager
from tests.contract.rows import Rows
from tests.waiting import wait_until

T = TypeVar("T")


class MakeStore(Protocol):
    def __call__(self, rows: Rows, *, redis_percent: int = 100) -> Store: ...


class MakeQueue(Protocol):
    def __call__(self, tickets: RQQueueManager | None = None, **settings: Any) -> TaskQueue: ...


def nothing(payload: Any) -> None:
    """A handler that does nothing."""


def handler(name: str, function: Callable[..., Any] = nothing, **rules: Any) -> Handler:
    takes_context = function.__code__.co_argcount > 1
    return Handler(name, function, TypeAdapter(Any), takes_context=takes_context, **rules)


HANDLERS = HandlerRegistry(
    [handler("test.noop"), handler("test.other"), handler("test.park", on_lost=OnLost.PARK)]
)


def make_queue_over(store: Store) -> MakeQueue:
    def make(tickets: RQQueueManager | None = None, **settings: Any) -> TaskQueue:
        return TaskQueue(store, HANDLERS, tickets, CoreSettings(**settings))

    return make


def request(**columns: Any) -> TaskRequest:
    return TaskRequest(**({"name": "test.noop", "payload": {}} | columns))


def at_once(work: Sequence[Callable[[], T]]) -> list[T | BaseException]:
    """Run all at the same moment, each in a thread; the answers or exceptions, in order."""
    together = threading.Barrier(len(work))

    def run(one: Callable[[], T]) -> T | BaseException:
        together.wait(timeout=60)
        try:
            return one()
        except Exception as error:  # noqa: BLE001 - the exception is the answer that the test judges
            return error

    with ThreadPoolExecutor(len(work)) as pool:
        return list(pool.map(run, work))


class InBackground:
    """A call in a thread of its own, to prove that it waits for a lock, and what it then answers."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._future = self._pool.submit(work)

    def must_wait(self, rows: Rows) -> None:
        """Return once the database itself says that a statement waits for a lock."""
        if rows.kind != "sqlite":  # there every writer waits for the one write lock, and nothing tells
            wait_until(
                lambda: rows.waiters() or self._future.done(),
                deadline_seconds=60,
                what="the call waits for a lock",
            )
        assert not self._future.done(), f"it did not wait: {self._future.result()!r}"

    def answer(self, *, seconds: float = 60) -> Any:
        try:
            return self._future.result(timeout=seconds)
        finally:
            self._pool.shutdown()


@contextmanager
def _heard(database: Database, **listeners: Callable[..., None]) -> Iterator[None]:
    """Call these by the names of events of the two pools that SQLAlchemy sees, inside the block."""
    engines = (database.engine, database._auto)
    for engine in engines:
        for name, listener in listeners.items():
            event.listen(engine, name, listener)
    try:
        yield
    finally:
        for engine in engines:
            for name, listener in listeners.items():
                event.remove(engine, name, listener)


@contextmanager
def counted(database: Database) -> Iterator[Counter[str]]:
    """What a database is asked inside the block: statements and commits of the two pools that SQLAlchemy
    sees, and trips of the driver's own, each of which is one transaction."""
    seen: Counter[str] = Counter()
    direct = database.direct

    def statement(*_: Any) -> None:
        seen["statements"] += 1

    def commit(*_: Any) -> None:
        seen["commits"] += 1

    def trip(work: Any) -> Any:
        seen["trips"] += 1
        return direct(work)

    database.direct = trip  # type: ignore[method-assign]
    try:
        with _heard(database, before_cursor_execute=statement, commit=commit):
            yield seen
    finally:
        del database.direct


@contextmanager
def statements_of(database: Database) -> Iterator[list[str]]:
    """The text of each statement that a database's two pools see inside the block."""
    seen: list[str] = []

    def statement(_on: Any, _cursor: Any, text: str, *_: Any) -> None:
        seen.append(text)

    with _heard(database, before_cursor_execute=statement):
        yield seen


@contextmanager
def failing_at(database: Database, number: int) -> Iterator[Counter[str]]:
    """Have the statement of this number fail, as in an outage; gives how many were tried."""
    seen: Counter[str] = Counter()

    def fail(*_: Any) -> None:
        seen["statements"] += 1
        if seen["statements"] == number:
            raise DatabaseUnavailable("injected")

    with _heard(database, before_cursor_execute=fail):
        yield seen


def refuse_the_result(monkeypatch: pytest.MonkeyPatch, result: str) -> None:
    """Have the database refuse every settle that would store this result."""
    settle = Settlements.settle

    def picky(self: Settlements, outcomes: Sequence[Outcome], connection: Any = None) -> Settled:
        if any(isinstance(outcome, Completed) and outcome.result == result for outcome in outcomes):
            raise StatementRefused("too long")
        return settle(self, outcomes, connection)

    monkeypatch.setattr(Settlements, "settle", picky)
