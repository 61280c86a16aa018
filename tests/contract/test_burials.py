"""Burials: what a dead worker's page says is recorded once, and costs nobody but the culprit anything."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.tasks.errors import DatabaseUnavailable
from app.tasks.healing import LOCK
from app.tasks.model import Cancelled, Completed, RetryLater
from app.tasks.runner import boot_clock
from app.tasks.store.notices import Topic
from app.tasks.store.settling import Settlements
from tests.contract.graveyard import FAR, SEGFAULT, Graveyard, make_yard, run
from tests.contract.parts import refuse_the_result
from tests.contract.rows import Rows
from workers.burials import UNKNOWN
from workers.causes import Cause, CauseOfDeath
from workers.life import life_files
from workers.page import PAGE_BYTES


@pytest.fixture
def yard(sqlite_rows: Rows, tmp_path: Path) -> Iterator[Graveyard]:
    made = make_yard(sqlite_rows, tmp_path)
    yield made
    made.system.close()


@pytest.fixture
def each_yard(rows: Rows, tmp_path: Path) -> Iterator[Graveyard]:
    """As `yard`, on each database."""
    made = make_yard(rows, tmp_path)
    yield made
    made.system.close()


def test_what_came_out_is_recorded_the_culprit_pays_once_and_the_rest_goes_back(
    each_yard: Graveyard, rows: Rows
) -> None:
    yard = each_yard
    ids = [rows.put("QUEUED") for _ in range(6)]
    life = yard.worker()
    claims = yard.take(life, 6)
    run(life, 0, Completed(claims[0], '{"done":"ä"}'))
    run(life, 1, RetryLater(claims[1], "no", 60))
    run(life, 2, Cancelled(claims[2]))
    assert life.page.start(3, boot_clock(), FAR)
    yard.dies(life, SEGFAULT)
    assert yard.burials.bury_all() == 1
    after = [rows.row(task_id) for task_id in ids]
    assert [row["status"] for row in after] == [
        *("COMPLETED", "SCHEDULED", "CANCELLED", "SCHEDULED", "QUEUED", "QUEUED")
    ]
    assert [row["failures"] for row in after] == [0, 1, 0, 1, 0, 0]
    assert after[0]["result"] == '{"done":"ä"}'
    assert after[3]["error"] == "its worker was killed by SIGSEGV"
    assert all(row["token"] is None for row in after)
    assert life_files(yard.folder) == []


def test_two_burials_of_one_worker_change_nothing_twice(yard: Graveyard, sqlite_rows: Rows) -> None:
    ids = [sqlite_rows.put("QUEUED") for _ in range(3)]
    life = yard.worker()
    claims = yard.take(life, 3)
    run(life, 0, Completed(claims[0], "1"))
    assert life.page.start(1, boot_clock(), FAR)
    (path,) = life_files(yard.folder)
    yard.dies(life, SEGFAULT)
    page = path.read_bytes()
    yard.burials.bury_all()
    before = {task_id: sqlite_rows.row(task_id) for task_id in ids}
    path.write_bytes(page)
    assert yard.burials.bury_all() == 1
    assert {task_id: sqlite_rows.row(task_id) for task_id in ids} == before


def test_a_living_worker_is_not_buried(yard: Graveyard, sqlite_rows: Rows) -> None:
    task_id = sqlite_rows.put("QUEUED")
    life = yard.worker()
    yard.take(life, 1)
    assert yard.burials.bury_all() == 0
    assert sqlite_rows.status(task_id) == "PROCESSING"
    assert len(life_files(yard.folder)) == 1
    life.release()


def test_an_outage_leaves_the_page_for_the_next_try(
    yard: Graveyard, sqlite_rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    task_id = sqlite_rows.put("QUEUED")
    life = yard.worker()
    (claim,) = yard.take(life, 1)
    run(life, 0, Completed(claim, "1"))
    yard.dies(life)

    def away(*_: Any, **__: Any) -> Any:
        raise DatabaseUnavailable("away")

    with monkeypatch.context() as patched:
        patched.setattr(Settlements, "settle", away)
        with pytest.raises(DatabaseUnavailable):
            yard.burials.bury_all()
    assert sqlite_rows.status(task_id) == "PROCESSING"
    assert yard.burials.bury_all() == 1
    assert sqlite_rows.status(task_id) == "COMPLETED"


def test_a_result_that_the_database_refuses_holds_up_nobody_else(
    yard: Graveyard, sqlite_rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [sqlite_rows.put("QUEUED") for _ in range(3)]
    life = yard.worker()
    claims = yard.take(life, 3)
    run(life, 0, Completed(claims[0], "1"))
    run(life, 1, Completed(claims[1], '"refused"'))
    yard.dies(life)
    refuse_the_result(monkeypatch, '"refused"')
    assert yard.burials.bury_all() == 1
    assert [sqlite_rows.status(task_id) for task_id in ids] == ["COMPLETED", "FAILED", "QUEUED"]


@pytest.mark.parametrize(
    ("cause", "waits"),
    [
        *((None, False), (CauseOfDeath(Cause.SIGNAL, 9), False), (CauseOfDeath(Cause.STOP, 30), False)),
        *((SEGFAULT, True), (CauseOfDeath(Cause.EXIT, 3), True), (CauseOfDeath(Cause.MEMORY, 96), True)),
        (CauseOfDeath(Cause.TIME_LIMIT, 5), True),
    ],
)
def test_a_task_that_kills_its_worker_waits_before_its_retry_and_one_that_was_interrupted_does_not(
    cause: CauseOfDeath | None, waits: bool, yard: Graveyard, sqlite_rows: Rows
) -> None:
    task_id = sqlite_rows.put("QUEUED")
    life = yard.worker()
    yard.take(life, 1)
    assert life.page.start(0, boot_clock(), FAR)
    yard.dies(life, cause)
    yard.burials.bury_all()
    row = sqlite_rows.row(task_id)
    assert (row["status"], row["failures"]) == ("SCHEDULED" if waits else "QUEUED", 1)
    assert row["error"] == (cause.sentence() if cause else UNKNOWN)


@pytest.mark.parametrize("cause", [None, SEGFAULT, CauseOfDeath(Cause.TIME_LIMIT, 5)])
def test_a_task_that_must_not_repeat_is_parked_only_if_it_was_running(
    cause: CauseOfDeath | None, yard: Graveyard, sqlite_rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, culprit, rest = (sqlite_rows.put("QUEUED", name="test.park") for _ in range(3))
    life = yard.worker()
    claims = yard.take(life, 3)
    run(life, 0, Completed(claims[0], "1"))
    assert life.page.start(1, boot_clock(), FAR)
    yard.dies(life, cause)
    yard.burials.bury_all()
    assert [sqlite_rows.status(task_id) for task_id in (done, culprit, rest)] == [
        "COMPLETED",
        "FAILED",
        "QUEUED",
    ]
    assert sqlite_rows.row(culprit)["failures"] == 1
    assert str(sqlite_rows.row(culprit)["error"]).endswith("; parked: its handler must not repeat")


def test_a_worker_killed_for_a_cancel_leaves_its_task_cancelled(yard: Graveyard, sqlite_rows: Rows) -> None:
    task_id = sqlite_rows.put("QUEUED")
    life = yard.worker()
    yard.take(life, 1)
    assert life.page.start(0, boot_clock(), FAR)
    yard.system.store.moves.cancel(task_id)
    yard.dies(life, CauseOfDeath(Cause.CANCEL))
    yard.burials.bury_all()
    row = sqlite_rows.row(task_id)
    assert (row["status"], row["error"]) == (
        "CANCELLED",
        "cancelled; it did not stop by itself and was killed",
    )


def test_the_last_retry_of_a_task_that_kills_its_worker_ends_it(yard: Graveyard, sqlite_rows: Rows) -> None:
    task_id = sqlite_rows.put("QUEUED", failures=3)
    life = yard.worker()
    yard.take(life, 1)
    assert life.page.start(0, boot_clock(), FAR)
    yard.dies(life, SEGFAULT)
    yard.burials.bury_all()
    row = sqlite_rows.row(task_id)
    assert (row["status"], row["failures"]) == ("FAILED", 4)
    assert row["error"] == "its worker was killed by SIGSEGV; no retry is left"


def test_claims_that_the_page_does_not_know_were_not_started(yard: Graveyard, sqlite_rows: Rows) -> None:
    """Killed between the commit of a claim and the first word about it."""
    ids = [sqlite_rows.put("QUEUED", name="test.park") for _ in range(2)]
    life = yard.worker()
    yard.system.store.claims.queued(holder=life.page.worker_id, limit=2, lease_seconds=FAR)
    yard.dies(life)
    yard.burials.bury_all()
    assert [(sqlite_rows.status(i), sqlite_rows.row(i)["failures"]) for i in ids] == [("QUEUED", 0)] * 2


def test_the_last_batch_on_the_page_says_nothing_about_the_claims_after_it(
    yard: Graveyard, sqlite_rows: Rows
) -> None:
    life = yard.worker()
    first = sqlite_rows.put("QUEUED")
    (claim,) = yard.take(life, 1)
    run(life, 0, Completed(claim, "1"))
    yard.system.store.settlements.settle([Completed(claim, "1")])
    second = sqlite_rows.put("QUEUED")
    yard.system.store.claims.queued(holder=life.page.worker_id, limit=1, lease_seconds=FAR)
    yard.dies(life, SEGFAULT)
    yard.burials.bury_all()
    assert [(sqlite_rows.status(i), sqlite_rows.row(i)["failures"]) for i in (first, second)] == [
        ("COMPLETED", 0),
        ("QUEUED", 0),
    ]


def test_a_start_of_an_earlier_claim_is_not_charged_to_the_next_one_of_the_same_task(
    yard: Graveyard, sqlite_rows: Rows
) -> None:
    """Its retry was cut out of the batch and settled, and came back to the same worker, which was killed
    before it could say so."""
    life = yard.worker()
    task_id = sqlite_rows.put("QUEUED", name="test.park")
    (claim,) = yard.take(life, 1)
    run(life, 0, RetryLater(claim, "no", 0))
    yard.system.store.settlements.settle([RetryLater(claim, "no", 0)])
    yard.system.store.claims.queued(holder=life.page.worker_id, limit=1, lease_seconds=FAR)
    yard.dies(life, SEGFAULT)
    yard.burials.bury_all()
    assert (sqlite_rows.status(task_id), sqlite_rows.row(task_id)["failures"]) == ("QUEUED", 1)


def _other_boot(path: Path) -> None:
    page = bytearray(path.read_bytes())
    page[8] ^= 1
    path.write_bytes(page)


@pytest.mark.parametrize(
    "damage",
    [_other_boot, lambda path: path.write_bytes(b""), lambda path: path.write_bytes(bytes(PAGE_BYTES))],
    ids=["another boot", "cut off", "blank"],
)
def test_of_a_page_that_proves_nothing_all_that_was_held_counts_as_lost(
    damage: Callable[[Path], None], yard: Graveyard, sqlite_rows: Rows
) -> None:
    ids = [sqlite_rows.put("QUEUED") for _ in range(2)]
    life = yard.worker()
    claims = yard.take(life, 2)
    run(life, 0, Completed(claims[0], "1"))
    (path,) = life_files(yard.folder)
    yard.dies(life, SEGFAULT)
    damage(path)
    assert yard.burials.bury_all() == 1
    assert [(sqlite_rows.status(i), sqlite_rows.row(i)["failures"]) for i in ids] == [("QUEUED", 1)] * 2


def test_a_living_parent_gets_the_time_to_say_the_cause(yard: Graveyard, sqlite_rows: Rows) -> None:
    task_id = sqlite_rows.put("QUEUED")
    life = yard.worker(supervisor=os.getpid())
    yard.take(life, 1)
    assert life.page.start(0, boot_clock(), FAR)
    yard.dies(life)
    assert yard.burials.bury_all() == 0
    assert sqlite_rows.status(task_id) == "PROCESSING"
    yard.burials._found_dead = {path: boot_clock() - 2 for path in life_files(yard.folder)}
    assert yard.burials.bury_all() == 1
    assert sqlite_rows.row(task_id)["error"] == UNKNOWN


def test_a_burial_wakes_the_sweeper(yard: Graveyard) -> None:
    """The dead one may have heard a ring, or owed one: what waits is rung for by the sweeper."""
    sweeper = yard.system.store.notices.listen(Topic.DUE)
    life = yard.worker()
    assert yard.burials.bury_all() == 0
    assert not sweeper.wait(0)
    yard.dies(life)
    assert yard.burials.bury_all() == 1
    assert sweeper.wait(0)
    sweeper.close()


def test_the_lock_of_a_buried_sweeper_is_free_for_the_next(yard: Graveyard) -> None:
    life = yard.worker()
    registry = yard.system.store.registry
    assert registry.try_lock(LOCK, life.page.worker_id, seconds=FAR)
    yard.dies(life)
    assert yard.burials.bury_all() == 1
    assert registry.try_lock(LOCK, "the next", seconds=FAR)
