"""The benchmark counts what it measures, and nothing else. Its rates are no test's: they need quiet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import ours
from benchmarks.arena import Arena


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
def test_latency_and_idle_cost_are_taken_of_pollers_beside_redis_too(arena: Arena) -> None:
    with ours.installation(arena, "SQLite", track="beside") as on:
        assert ours.processes_of(on.system, 1) == 2
        latency = ours.latency(on, 3, workers=1)
        assert 0 < latency["p50"] <= latency["p99"]
        idle = ours.idle(on, 1.0, workers=1)
        assert set(idle) == {"idle_cpu", "idle_redis_commands"}  # nobody counts SQLite's statements
