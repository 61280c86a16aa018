"""A share of the soak in every test run: each crash point once, and a Redis that forgets."""

from __future__ import annotations

import pytest

from tests.soak.chapters import Options, run_kills, run_redis, run_rollbacks, run_transfer
from tests.soak.points import NAMES
from tests.soak.progress import Progress


@pytest.mark.slow
@pytest.mark.redis
@pytest.mark.mariadb
@pytest.mark.postgresql
@pytest.mark.timeout(240)
def test_a_sigkill_at_any_named_step_loses_and_doubles_nothing() -> None:
    progress = Progress(minutes=None, quiet=True)
    chapter = run_kills(Options(rounds=len(NAMES)), progress)
    print(f"{len(NAMES)} kills in {progress.seconds:.0f} s")
    assert chapter.problems == []
    assert {name for name, tally in chapter.tallies.items() if tally.hits} == set(NAMES)


@pytest.mark.slow
@pytest.mark.redis
@pytest.mark.sqlite
def test_an_older_snapshot_of_redis_under_load_loses_and_doubles_nothing() -> None:
    options = Options(faults=1, databases=("sqlite",), redis_faults=("restore of an older snapshot",))
    chapter = run_redis(options, Progress(minutes=None, quiet=True))
    assert chapter.problems == []
    assert all(tally.hits for tally in chapter.tallies.values())


@pytest.mark.slow
@pytest.mark.redis
@pytest.mark.mariadb
@pytest.mark.timeout(600)
def test_a_mover_and_both_servers_killed_at_the_flip_lose_and_double_nothing() -> None:
    options = Options(rounds=3, databases=("mariadb",), points=("flip.committed",))
    chapter = run_transfer(options, Progress(minutes=None, quiet=True))
    assert chapter.problems == []
    assert len([tally for tally in chapter.tallies.values() if tally.hits]) == 3


@pytest.mark.slow
@pytest.mark.redis
@pytest.mark.sqlite
@pytest.mark.timeout(600)
def test_a_rollback_amid_a_move_brings_every_row_back_to_pollers_as_it_was() -> None:
    options = Options(rounds=1, databases=("sqlite",))
    chapter = run_rollbacks(options, Progress(minutes=None, quiet=True), must_hit=False)
    assert chapter.problems == []
