"""One database of each kind for the whole suite, emptied before each test, and parts over it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis

from app.tasks.database import Database
from app.tasks.migrate import migrate
from app.tasks.queue import TaskQueue
from app.tasks.store import Store
from app.tasks.tickets import RQQueueManager, connect
from app.transfer.records import TransferRecords
from tests.contract.parts import MakeQueue, MakeStore, make_queue_over
from tests.contract.rows import EFFECTS, Rows
from tests.servers import MariaDbServer, PostgresServer

KINDS = [
    pytest.param("sqlite", marks=pytest.mark.sqlite),
    pytest.param("mariadb", marks=pytest.mark.mariadb),
    pytest.param("postgresql", marks=pytest.mark.postgresql),
]
CONNECTIONS = 25  # more than any test has threads


@pytest.fixture(scope="session")
def prepared_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rows]:
    yield from _prepared(f"sqlite:///{tmp_path_factory.mktemp('contract') / 'test.db'}")


@pytest.fixture(scope="session")
def prepared_mariadb(mariadb_server: MariaDbServer) -> Iterator[Rows]:
    with mariadb_server.database() as url:
        yield from _prepared(url)


@pytest.fixture(scope="session")
def prepared_postgresql(postgres_server: PostgresServer) -> Iterator[Rows]:
    with postgres_server.database() as url:
        yield from _prepared(url)


def _prepared(url: str) -> Iterator[Rows]:
    database = Database(url, pool_size=CONNECTIONS)
    migrate(database)
    rows = Rows(url, database)
    rows.execute(EFFECTS)
    yield rows
    rows.close()
    database.dispose()


@pytest.fixture(params=KINDS)
def rows(request: pytest.FixtureRequest) -> Rows:
    """The empty tables of each kind of database, through plain SQL."""
    found: Rows = request.getfixturevalue(f"prepared_{request.param}")
    found.empty()
    return found


@pytest.fixture(params=KINDS[1:])
def server_rows(request: pytest.FixtureRequest) -> Rows:
    """As `rows`, on the databases that lock rows one by one."""
    found: Rows = request.getfixturevalue(f"prepared_{request.param}")
    found.empty()
    return found


@pytest.fixture
def sqlite_rows(prepared_sqlite: Rows) -> Rows:
    """As `rows`, on SQLite alone: for what does not depend on the database."""
    prepared_sqlite.empty()
    return prepared_sqlite


@pytest.fixture
def make_store() -> MakeStore:
    """Stores with a memory of their own: one per process that a test stands for."""

    def make(rows: Rows, *, redis_percent: int = 100) -> Store:
        made = Store.over(rows.database)
        made.routing.ensure(redis_percent=redis_percent)
        return made

    return make


@pytest.fixture
def store(rows: Rows, make_store: MakeStore) -> Store:
    """The store over `rows`; everything goes by Redis until a test says otherwise."""
    return make_store(rows)


@pytest.fixture
def sqlite_store(sqlite_rows: Rows, make_store: MakeStore) -> Store:
    return make_store(sqlite_rows)


@pytest.fixture
def make_queue(store: Store) -> MakeQueue:
    """Task queues over `store`; without `tickets` in database mode."""
    return make_queue_over(store)


@pytest.fixture
def tickets(redis_url: str) -> Iterator[RQQueueManager]:
    """The queues of the session's Redis, empty."""
    client = connect(redis_url)
    yield RQQueueManager(client)
    client.close()


@pytest.fixture
def queue(make_queue: MakeQueue, tickets: RQQueueManager) -> TaskQueue:
    """The task queue over `store`, with the queues of Redis."""
    return make_queue(tickets)


@pytest.fixture
def records(store: Store) -> TransferRecords:
    return TransferRecords(store.database)


@pytest.fixture
def raw(redis_url: str) -> Iterator[Any]:
    """A plain client beside the product's."""
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client
