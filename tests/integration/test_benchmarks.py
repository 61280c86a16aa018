"""The benchmark counts what it measures, and nothing else. Its rates are no test's: they need quiet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.tasks.submission import TaskRequest
from benchmarks import ours, window
from benchmarks.arena import Arena
from benchmarks.peers import PAYLOAD
from tests.servers import MariaDbServer, RedisServer


@pytest.fixture(scope="module")
def arena(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    with Arena(Path(tmp_path_factory.mktemp("arena"))) as servers:
        yield servers


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("MariaDB", marks=pytest.mark.mariadb),
        pytest.param("counting", marks=pytest.mark.postgresql, id="PostgreSQL"),
    ],
)
@pytest.mark.redis
def test_what_the_counting_asks_itself_does_not_count(arena: Arena, kind: str) -> None:
    site = arena.site(kind)
    server = arena.database(kind)
    assert server is not None
    before = arena.statements(site)
    assert before is not None
    server.execute("SELECT 1")
    asked = (arena.statements(site) or 0) - before
    assert asked > 0
    assert [(arena.statements(site) or 0) - before for _ in range(3)] == [asked] * 3


@pytest.mark.redis
@pytest.mark.slow
def test_latency_and_idle_cost_are_taken_of_pollers_beside_redis_too(
    arena: Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ours, "IDLE_SETTLE_SECONDS", 0.5)
    with ours.installation(arena, "SQLite", track="beside") as on:
        assert ours.processes_of(on.system, 1) == 2
        latency = ours.latency(on, 3, workers=1)
        assert 0 < latency["p50"] <= latency["p99"]
        idle = ours.idle(on, 1.0, workers=1)
        assert set(idle) == {"idle_cpu", "idle_redis_commands"}  # nobody counts SQLite's statements


@pytest.mark.slow
def test_a_backlog_beyond_the_window_is_loaded_filled_in_and_drained_in_order(
    mariadb_server: MariaDbServer, redis_server: RedisServer, redis_url: str, tmp_path: Path
) -> None:
    side = window._side("large", tmp_path, mariadb_server, redis_server, window=100)
    try:
        window._load(side.system, 600)
        window._fill(side, 100)
        assert 90 <= side.queue_length <= 100
        newest = side.system.queue.submit(TaskRequest("test.noop", PAYLOAD)).task_id
        window._drain(side, 300, 1)
        assert side.rates[0] > 0
        assert side.costs[0] > 0
        assert window._overtaken(side.system, newest) == 0
    finally:
        side.system.close()
