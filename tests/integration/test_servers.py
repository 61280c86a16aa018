"""The private servers do what the other tests believe of them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil
import pytest
import redis
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.pool import NullPool

from tests import server_process
from tests.server_process import Server, ServerMissingError, ServerStartError, alive, free_port, program
from tests.servers import DatabaseServer, MariaDbServer, PostgresServer, RedisServer
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]

every_server = pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: RedisServer(persistence=True), id="redis", marks=pytest.mark.redis),
        pytest.param(MariaDbServer, id="mariadb", marks=pytest.mark.mariadb),
        pytest.param(PostgresServer, id="postgresql", marks=pytest.mark.postgresql),
    ],
)


def run_sql(url: str, *statements: str) -> list[tuple[object, ...]]:
    engine = create_engine(url, poolclass=NullPool)
    with engine.begin() as connection:
        results = [connection.execute(text(statement)) for statement in statements]
        return [tuple(row) for row in results[-1]] if results[-1].returns_rows else []


@every_server
def test_server_survives_kill_freeze_and_restart_and_leaves_nothing(make: Callable[[], Server]) -> None:
    with make() as server:
        first = server.pid
        family = server.processes()
        server.kill9()
        assert not server.running
        server.start()
        assert server.pid != first

        server.freeze()
        assert {process.status() for process in server.processes()} == {psutil.STATUS_STOPPED}
        server.thaw()
        wait_until(server.answers, deadline_seconds=60, what="the thawed server answers")

        server.stop()
        assert not server.running
        family += server.start().processes()
    assert not server.folder.exists()
    assert not any(map(alive, family))


@every_server
def test_frozen_server_can_be_closed(make: Callable[[], Server]) -> None:
    with make() as server:
        server.freeze()
        family = server.processes()
    assert not any(map(alive, family))


@every_server
def test_server_dies_with_the_tests(make: Callable[[], Server]) -> None:
    kind = {"<lambda>": "RedisServer"}.get(make.__name__, make.__name__)
    code = (
        f"import sys; from tests.servers import {kind}; s = {kind}().start();"
        "print(s.pid, s.folder, *getattr(s, '_made', {}).values(), flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        pid, *folders = owner.stdout.readline().split()
        leader = psutil.Process(int(pid))
        family = [leader, *leader.children(recursive=True)]
        owner.kill()
        owner.wait()
    wait_until(
        lambda: not any(map(alive, family)),
        deadline_seconds=60,
        what="the server and its children die after their owner",
    )
    for folder in folders:
        shutil.rmtree(folder)


def test_persistent_redis_keeps_its_data_over_a_kill(private_redis: RedisServer) -> None:
    private_redis.client().set("key", "value")
    private_redis.kill9()
    private_redis.start()
    assert private_redis.client().get("key") == b"value"


def test_redis_without_persistence_starts_empty() -> None:
    with RedisServer() as server:
        server.client().set("key", "value")
        server.kill9()
        assert server.start().client().dbsize() == 0


def test_redis_refuses_writes_beyond_its_memory_limit() -> None:
    with RedisServer(maxmemory="2mb") as server, pytest.raises(redis.OutOfMemoryError):
        server.client().set("large", "x" * 3_000_000)


def test_redis_url_is_empty_for_each_test(redis_server: RedisServer, request: pytest.FixtureRequest) -> None:
    redis_server.client().set("left", "over")
    request.getfixturevalue("redis_url")
    assert redis_server.client().dbsize() == 0


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(MariaDbServer, marks=pytest.mark.mariadb),
        pytest.param(PostgresServer, marks=pytest.mark.postgresql),
    ],
)
def test_database_server_keeps_commits_over_a_kill(kind: type[DatabaseServer], durable: bool) -> None:
    with kind(durable=durable) as server, server.database() as url:
        run_sql(url, "CREATE TABLE kept (id INTEGER)", "INSERT INTO kept VALUES (7)")
        server.kill9()
        server.start()
        assert run_sql(url, "SELECT id FROM kept") == [(7,)]


def test_durable_mariadb_flushes_every_commit() -> None:
    with MariaDbServer(durable=True) as server:
        assert server.execute("SELECT @@innodb_flush_log_at_trx_commit") == [(1,)]


def test_mariadb_removes_no_other_servers_temporary_tables(mariadb_server: MariaDbServer) -> None:
    assert mariadb_server.execute("SELECT @@tmpdir") == [(str(mariadb_server.folder),)]


def test_every_test_gets_an_empty_database(database_url: str) -> None:
    run_sql(database_url, "CREATE TABLE only_here (id INTEGER)")
    assert run_sql(database_url, "SELECT COUNT(*) FROM only_here") == [(0,)]


def test_database_with_an_open_transaction_can_be_dropped(
    mariadb_server: MariaDbServer, postgres_server: PostgresServer
) -> None:
    for server in (mariadb_server, postgres_server):
        url = server.create_database()
        run_sql(url, "CREATE TABLE held (id INTEGER)")
        engine = create_engine(url, poolclass=NullPool)
        connection = engine.connect()
        connection.execute(text("SELECT * FROM held"))
        server.drop_database(url)
        connection.invalidate()
        connection.close()


def test_a_database_is_dropped_under_a_client_that_comes_back_at_once(
    mariadb_server: MariaDbServer, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def come_back(disconnect: Callable[[str], None], name: str) -> None:
        disconnect(name)
        back.append(engine.connect())

    for server in (mariadb_server, postgres_server):
        back: list[Connection] = []
        engine = create_engine(url := server.create_database(), poolclass=NullPool)
        monkeypatch.setattr(server, "disconnect_all", partial(come_back, server.disconnect_all))
        server.drop_database(url)
        back[0].invalidate()
        back[0].close()


def test_a_port_is_given_to_one_of_the_runs_that_are_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_process, "PORTS", range(port := free_port(), port + 1))
    code = (
        "import sys; from tests import server_process as given; given.PORTS = range(int(sys.argv[1]), 65536);"
        "given.random.sample = lambda ports, _: ports; print(given.free_port(), flush=True); sys.stdin.read()"
    )
    with pytest.raises(ServerStartError, match="No free port"):
        free_port()
    with subprocess.Popen(
        [sys.executable, "-c", code, str(port)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        theirs = int(other.stdout.readline())
        assert theirs > port
        monkeypatch.setattr(server_process, "PORTS", range(theirs, theirs + 1))
        with pytest.raises(ServerStartError, match="No free port"):
            free_port()
        other.communicate()
    assert free_port() == theirs


def test_missing_program_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ServerMissingError, match="no-such-server is not installed: run `make test`"):
        program("no-such-server")


def test_wait_until_names_what_did_not_happen() -> None:
    with pytest.raises(AssertionError, match=r"Not within 0\.05 s: pigs fly"):
        wait_until(lambda: False, deadline_seconds=0.05, what="pigs fly")
