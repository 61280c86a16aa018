"""Fixtures for every test: private servers and fresh databases. Nothing starts before a test asks."""

from __future__ import annotations

import gc
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

from tests.servers import MariaDbServer, PostgresServer, RedisServer

SERVER_FIXTURES = {
    "redis": {"redis_server", "redis_url", "private_redis"},
    "mariadb": {"mariadb_server"},
    "postgresql": {"postgres_server"},
}
BROWSER = "tests/browser/"
BUSY = HealthCheck.too_slow


def pytest_configure() -> None:
    """What makes one run as good as another."""
    # A shell that runs the tests in the background has them ignore Ctrl+C, and so every program that they
    # start; the tests of Ctrl+C need it heard.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Of hypothesis: the same examples each time, and no failure because the machine was busy.
    settings.register_profile("steady", deadline=None, derandomize=True, suppress_health_check=[BUSY])
    settings.load_profile("steady")
    gc.disable()  # until all is collected: nothing of it goes away


def pytest_collection_finish() -> None:
    """The collector walks over the tests' own modules no more: that was a seventh of what a test of the API
    costs."""
    gc.freeze()
    gc.enable()


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    config.option.loadscopereorder = False
    return ByFile(config, log)


class ByFile(LoadScopeScheduling):  # type: ignore[misc]
    """Shares the tests out to the processes of `pytest -n` file by file, so that what a file's tests share is
    made once. The tests in a browser go together: they share a whole installation.

    In the order of the folders: whole installations first, they take longest. Most of that time they wait. So
    the last of three processes begins at the other end, with tests that compute.
    """

    def _assign_work_unit(self, node: WorkerController) -> None:
        if node.gateway.id == f"gw{self.numnodes - 1}" and self.numnodes > 2:
            self.workqueue.move_to_end(next(reversed(self.workqueue)), last=False)
        super()._assign_work_unit(node)

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return BROWSER if file.startswith(BROWSER) else file


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with the servers it asks for, so that `-m "not redis"` leaves them out."""
    for item in items:
        asked = set(getattr(item, "fixturenames", ()))
        for marker, fixtures in SERVER_FIXTURES.items():
            if asked & fixtures:
                item.add_marker(marker)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A Redis server for the session. Use `private_redis` to stop or kill one."""
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[MariaDbServer]:
    """A MariaDB server for the session."""
    with MariaDbServer() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A PostgreSQL server for the session."""
    with PostgresServer() as server:
        yield server


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """URL of the session's Redis server, emptied for this test."""
    redis_server.client().flushall()
    return redis_server.url


@pytest.fixture
def private_redis() -> Iterator[RedisServer]:
    """A Redis server, with persistence, that this test may kill, freeze and start again."""
    with RedisServer(persistence=True) as server:
        yield server


@pytest.fixture(
    params=[
        pytest.param("sqlite", marks=pytest.mark.sqlite),
        pytest.param("mariadb", marks=pytest.mark.mariadb),
        pytest.param("postgresql", marks=pytest.mark.postgresql),
    ]
)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of a fresh, empty database; the test runs once on each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'test.db'}"
        return
    fixture = {"mariadb": "mariadb_server", "postgresql": "postgres_server"}[request.param]
    with request.getfixturevalue(fixture).database() as url:
        yield url
