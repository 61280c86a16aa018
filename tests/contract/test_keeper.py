"""The keeper: what it renews, what it leaves alone, and what it cuts, from outside and without the worker."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.system import System, build_system
from app.tasks.model import Claim, Completed
from app.tasks.runner import boot_clock
from config import Config
from tests.contract.parts import counted
from tests.contract.rows import Rows
from tests.waiting import wait_until
from workers.keeper import Keeper
from workers.life import LifeFile

LEASE = 30.0
LIMIT = 3600.0


class Household:
    """Workers of one pool, which is this process, and their keeper."""

    def __init__(self, system: System, folder: Path) -> None:
        self.system = system
        self.keeper = Keeper(system, supervisor=os.getpid())
        self._folder = folder
        self.lives: list[LifeFile] = []

    def worker(self, *, supervisor: int | None = None) -> LifeFile:
        name = f"host:1:{len(self.lives)}"
        life = LifeFile(self._folder, name, supervisor=os.getpid() if supervisor is None else supervisor)
        self.lives.append(life)
        return life

    def take(self, life: LifeFile, count: int, *, began: float = 0.0) -> list[Claim]:
        """Claim rows for a worker, whose batch began `began` seconds ago."""
        store = self.system.store
        claims = store.claims.queued(holder=life.page.worker_id, limit=count, lease_seconds=LEASE)
        assert len(claims) == count
        life.page.begin(claims, boot_clock() - began)
        return claims


@pytest.fixture
def house(sqlite_rows: Rows, tmp_path: Path) -> Iterator[Household]:
    config = Config.for_tests(
        DATABASE_URL=sqlite_rows.url, VAR_DIR=str(tmp_path), RQ_ENABLED="false", RQ_LEASE_SECONDS=LEASE
    )
    system = build_system(config)
    system.store.routing.ensure(redis_percent=0)
    made = Household(system, tmp_path / "locks")
    yield made
    for life in made.lives:
        life.release()
    system.close()


def lease_left(rows: Rows, task_id: int) -> float:
    return rows.seconds_from_now(rows.row(task_id)["lease_until"])


def test_one_statement_renews_what_all_workers_of_the_pool_hold(house: Household, sqlite_rows: Rows) -> None:
    sqlite_rows.put("QUEUED", count=4)
    held = []
    for _ in range(2):
        life = house.worker()
        held += house.take(life, 2, began=LEASE / 2)
        assert life.page.start(0, boot_clock() - LEASE / 2, LIMIT)
    for claim in held:
        sqlite_rows.change(claim.task_id, lease_until=sqlite_rows.at(1))
    with counted(house.system.store.database) as seen:
        house.keeper._renew()
    assert all(lease_left(sqlite_rows, claim.task_id) > LEASE - 5 for claim in held)
    assert seen["statements"] <= 2, "one that renews, at most one that tells which were still there"
    for life, claim in zip(house.lives, held[::2], strict=True):
        assert life.page.renewed_until(claim.token) > boot_clock() + LEASE - 5


def test_batches_that_are_young_cost_no_statement(house: Household, sqlite_rows: Rows) -> None:
    sqlite_rows.put("QUEUED", count=2)
    life = house.worker()
    house.take(life, 2, began=1)
    assert life.page.start(0, boot_clock(), LIMIT)
    with counted(house.system.store.database) as seen:
        house.keeper._renew()
        house.keeper._cut_silent()
    assert seen["statements"] == 0


def test_what_a_batch_has_given_back_is_not_renewed(house: Household, sqlite_rows: Rows) -> None:
    sqlite_rows.put("QUEUED", count=3)
    life = house.worker()
    claims = house.take(life, 3, began=LEASE / 2)
    assert life.page.start(0, boot_clock(), LIMIT)
    life.page.cut()
    for claim in claims:
        sqlite_rows.change(claim.task_id, lease_until=sqlite_rows.at(1))
    house.keeper._renew()
    left = [lease_left(sqlite_rows, claim.task_id) > 5 for claim in claims]
    assert left == [True, False, False]


def test_the_workers_of_another_pool_are_left_to_it(house: Household, sqlite_rows: Rows) -> None:
    sqlite_rows.put("QUEUED")
    life = house.worker(supervisor=1)
    (claim,) = house.take(life, 1, began=LEASE / 2)
    assert life.page.start(0, boot_clock(), LIMIT)
    sqlite_rows.change(claim.task_id, lease_until=sqlite_rows.at(1))
    house.keeper._renew()
    assert lease_left(sqlite_rows, claim.task_id) < 5


def test_a_stopped_worker_is_not_renewed_until_it_goes_on(house: Household, sqlite_rows: Rows) -> None:
    sqlite_rows.put("QUEUED")
    life = house.worker()
    (claim,) = house.take(life, 1, began=LEASE / 2)
    assert life.page.start(0, boot_clock(), LIMIT)
    sqlite_rows.change(claim.task_id, lease_until=sqlite_rows.at(1))
    pid = os.fork()
    if pid == 0:
        signal.pause()
        os._exit(0)
    try:
        life.page._words[4] = pid  # the page is this process's; the worker is to be the stopped one
        assert life.page.pid == pid
        os.kill(pid, signal.SIGSTOP)
        os.waitpid(pid, os.WUNTRACED)
        house.keeper._renew()
        assert lease_left(sqlite_rows, claim.task_id) < 5
        os.kill(pid, signal.SIGCONT)
        wait_until(lambda: _renews(house, sqlite_rows, claim), deadline_seconds=60, what="a renewal")
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _renews(house: Household, rows: Rows, claim: Claim) -> bool:
    house.keeper._renew()
    return lease_left(rows, claim.task_id) > 5


def test_what_waits_behind_a_silent_worker_is_given_back(house: Household, sqlite_rows: Rows) -> None:
    ids = [sqlite_rows.put("QUEUED") for _ in range(4)]
    life = house.worker()
    claims = house.take(life, 4)
    assert life.page.start(0, boot_clock(), LIMIT)
    life.page.add(Completed(claims[0], "1"))
    assert life.page.start(1, boot_clock() - 5, LIMIT)
    life.page.beat(boot_clock() - 5)
    house.keeper._cut_silent()
    assert [sqlite_rows.status(task_id) for task_id in ids] == [
        "PROCESSING",
        "PROCESSING",
        "QUEUED",
        "QUEUED",
    ]
    assert [sqlite_rows.row(task_id)["failures"] for task_id in ids] == [0] * 4
    assert not life.page.start(2, boot_clock(), LIMIT), "the worker must not start what was given back"


def test_a_worker_whose_heart_beats_is_not_cut_from_outside(house: Household, sqlite_rows: Rows) -> None:
    ids = [sqlite_rows.put("QUEUED") for _ in range(2)]
    life = house.worker()
    house.take(life, 2)
    assert life.page.start(0, boot_clock() - 60, LIMIT)
    life.page.beat(boot_clock())
    house.keeper._cut_silent()
    assert [sqlite_rows.status(task_id) for task_id in ids] == ["PROCESSING", "PROCESSING"]


def test_the_cancel_of_a_silent_workers_task_is_seen_for_it(house: Household, sqlite_rows: Rows) -> None:
    task_id = sqlite_rows.put("QUEUED")
    life = house.worker()
    house.take(life, 1)
    assert life.page.start(0, boot_clock() - 5, LIMIT)
    running = life.page.running()
    assert running is not None
    house.keeper._cut_silent()
    assert life.page.kill_at(running) is None
    house.system.store.moves.cancel(task_id)
    house.keeper._cut_silent()
    at = life.page.kill_at(running)
    assert at is not None
    assert 0 < at - boot_clock() <= house.system.config.RQ_KILL_GRACE
