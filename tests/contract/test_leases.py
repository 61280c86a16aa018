"""Leases from a worker's side: nothing starts on the strength of a renewal that met a lost claim.

A worker that was frozen, or cut off from its database, for longer than its lease wakes up in the middle of
a batch whose rest was reclaimed meanwhile, run by others, or cancelled. Its renewal then changes fewer rows
than it names, and must not move the deadline that a start obeys.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from app.system import System, build_system
from app.tasks.model import Claim, Completed, OnLost
from app.tasks.runner import LiveTask, Runner, boot_clock
from config import Config
from tests.contract.parts import refuse_the_result
from tests.contract.rows import Rows
from workers.batch import Batch
from workers.heartbeat import Heartbeat
from workers.keeper import Keeper
from workers.life import LifeFile
from workers.page import Page

LEASE = 30.0
FAR = 3600.0


@pytest.fixture
def system(sqlite_rows: Rows, tmp_path: Path) -> Iterator[System]:
    config = Config.for_tests(DATABASE_URL=sqlite_rows.url, VAR_DIR=str(tmp_path), RQ_ENABLED=False)
    made = build_system(config)
    made.store.routing.ensure(redis_percent=0)
    yield made
    made.close()


def take(system: System, rows: Rows, count: int) -> list[Claim]:
    for _ in range(count):
        rows.put("QUEUED")
    return system.store.claims.queued(holder="host:1:a", limit=count, lease_seconds=LEASE)


def loses(system: System, claim: Claim) -> None:
    """Its lease ran out while it was frozen, and the sweeper took the task back."""
    reason = "the lease expired"
    moved = system.store.moves.reclaim(
        claim.task_id, claim.token, on_lost=OnLost.RETRY, max_retries=3, reason=reason
    )
    assert moved is not None


def batch_of(system: System, claims: list[Claim]) -> Batch:
    """A batch in which the first task runs, and whose own deadline is over."""
    lives = [LiveTask(claim, system.store, lease_ends=FAR) for claim in claims]
    batch = Batch(lives, page=Page.anonymous(), lease_ends=boot_clock() + FAR)
    assert batch.start_next() is not None
    batch.lease_ends = boot_clock() - 1
    return batch


def heartbeat_of(system: System, batch: Batch) -> Heartbeat:
    runner = Runner(system.store, system.handlers, system.settings)
    none = cast(Any, None)
    page = batch.page
    return Heartbeat(system, "host:1:a", runner, page=page, record=lambda *_: None, time_limit=none)


def renew(system: System, batch: Batch) -> None:
    heartbeat_of(system, batch)._renew(batch, boot_clock())


def test_a_worker_that_wakes_up_does_not_start_what_was_reclaimed(system: System, sqlite_rows: Rows) -> None:
    claims = take(system, sqlite_rows, 2)
    batch = batch_of(system, claims)
    loses(system, claims[1])
    system.store.moves.cancel(claims[1].task_id)
    renew(system, batch)
    batch.add(Completed(claims[0], "1"))
    assert batch.start_next() is None
    assert [outcome.claim.task_id for outcome in batch.cut()] == [claim.task_id for claim in claims]


def test_a_renewal_in_time_lets_the_rest_of_the_batch_start(system: System, sqlite_rows: Rows) -> None:
    claims = take(system, sqlite_rows, 3)
    batch = batch_of(system, claims)
    batch.add(Completed(claims[0], "1"))
    system.store.settlements.settle([Completed(claims[0], "1")])  # as a cut does it; its row is no loss
    renew(system, batch)
    live = batch.start_next()
    assert live is not None
    assert live.claim == claims[1]


def test_a_result_that_the_database_refuses_does_not_hold_up_what_was_cut_with_it(
    system: System, sqlite_rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The heartbeat settles beside a long task: it cannot leave that to the end of the batch."""
    claims = take(system, sqlite_rows, 4)
    batch = batch_of(system, claims)
    batch.lease_ends = boot_clock() + FAR
    for claim, result in zip(claims, ("1", '"refused"'), strict=False):
        batch.add(Completed(claim, result))
        assert batch.start_next() is not None
    refuse_the_result(monkeypatch, '"refused"')
    heartbeat = heartbeat_of(system, batch)
    with heartbeat.carrying(batch):
        batch.began -= 1
        heartbeat._tend(batch, boot_clock())
    heartbeat._settle_cut()
    assert heartbeat.hand_back() == []
    statuses = [sqlite_rows.status(claim.task_id) for claim in claims]
    assert statuses == ["COMPLETED", "FAILED", "PROCESSING", "QUEUED"]


@pytest.fixture
def life(system: System) -> Iterator[LifeFile]:
    made = LifeFile(system.config.VAR_DIR / "locks", "host:1:a", supervisor=os.getpid())
    yield made
    made.release()


@pytest.mark.parametrize("lost", [0, 1])
def test_the_keeper_extends_a_deadline_only_if_every_unstarted_claim_is_still_there(
    lost: int, system: System, sqlite_rows: Rows, life: LifeFile
) -> None:
    claims = take(system, sqlite_rows, 2)
    life.page.begin(claims, boot_clock() - LEASE)
    assert life.page.start(0, boot_clock(), FAR)
    loses(system, claims[lost])
    Keeper(system, supervisor=os.getpid()).step()
    extended = life.page.renewed_until(claims[0].token) > boot_clock()
    assert extended == (lost == 0)  # the one that runs is nothing that starts
    other = sqlite_rows.row(claims[1 - lost].task_id)
    assert sqlite_rows.seconds_from_now(other["lease_until"]) > LEASE / 2
