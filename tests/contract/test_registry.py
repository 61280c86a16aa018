"""Workers' own rows, named locks, and what the system remembers of itself."""

from __future__ import annotations

import pytest

from app.tasks.store import Store
from tests.contract.parts import InBackground, MakeStore, at_once
from tests.contract.rows import Rows


def arrive(store: Store, worker_id: str, **columns: object) -> None:
    store.registry.arrive(worker_id, host="here", pid=4711, track="redis", queues=["urgent", "low"])


# --- workers --------------------------------------------------------------------------------------


def test_a_worker_is_listed_from_its_arrival_to_its_leave(store: Store, rows: Rows) -> None:
    arrive(store, "w1")
    (worker,) = store.registry.workers()
    assert (worker.worker_id, worker.host, worker.pid) == ("w1", "here", 4711)
    assert (worker.track, worker.queues, worker.state, worker.done) == ("redis", "urgent,low", "idle", 0)
    assert worker.idle_seconds < 5
    store.registry.seen("w1", state="busy", done=17)
    (worker,) = store.registry.workers()
    assert (worker.state, worker.done) == ("busy", 17)
    store.registry.leave("w1")
    assert store.registry.workers() == []


def test_a_silent_worker_is_not_listed_and_in_time_forgotten(store: Store, rows: Rows) -> None:
    arrive(store, "silent")
    arrive(store, "alive")
    rows.execute("UPDATE workers SET seen_at = :at WHERE id = 'silent'", at=rows.at(-120))
    assert [worker.worker_id for worker in store.registry.workers(silent_seconds=90)] == ["alive"]
    listed = {worker.worker_id: worker for worker in store.registry.workers(silent_seconds=600)}
    assert listed["silent"].idle_seconds == pytest.approx(120, abs=5)
    assert store.registry.forget_silent(silent_seconds=300) == 0
    assert store.registry.forget_silent(silent_seconds=60) == 1
    assert rows.scalar("SELECT COUNT(*) FROM workers") == 1


# --- locks ----------------------------------------------------------------------------------------


def test_a_lock_has_one_holder_who_may_keep_it(store: Store, rows: Rows) -> None:
    registry = store.registry
    assert registry.try_lock("sweeper", "one", seconds=30)
    assert not registry.try_lock("sweeper", "two", seconds=30)
    assert registry.try_lock("sweeper", "one", seconds=60)
    assert rows.seconds_from_now(rows.scalar("SELECT until_at FROM locks")) == pytest.approx(60, abs=5)
    assert registry.try_lock("another", "two", seconds=30)


def test_a_lock_is_free_when_its_time_is_over_by_the_databases_clock(store: Store, rows: Rows) -> None:
    store.registry.try_lock("sweeper", "one", seconds=30)
    rows.execute("UPDATE locks SET until_at = :at", at=rows.at(-1))
    assert store.registry.try_lock("sweeper", "two", seconds=30)
    assert not store.registry.try_lock("sweeper", "one", seconds=30)


def test_a_lock_that_was_given_up_is_free_at_once(store: Store, rows: Rows) -> None:
    store.registry.try_lock("sweeper", "one", seconds=30)
    store.registry.unlock("sweeper", "two")
    assert not store.registry.try_lock("sweeper", "two", seconds=30)
    store.registry.unlock("sweeper", "one")
    assert store.registry.try_lock("sweeper", "two", seconds=30)


@pytest.mark.parametrize("left_over", [False, True], ids=["new", "expired"])
def test_of_eight_that_reach_for_a_lock_at_once_one_gets_it(
    left_over: bool, store: Store, rows: Rows
) -> None:
    if left_over:
        store.registry.try_lock("sweeper", "somebody long dead", seconds=-1)
    answers = at_once(
        [lambda n=n: store.registry.try_lock("sweeper", f"w{n}", seconds=30) for n in range(8)]  # type: ignore[misc]
    )
    assert sorted(answers, key=bool) == [False] * 7 + [True]
    assert rows.scalar("SELECT holder FROM locks") == f"w{answers.index(True)}"


# --- memory ---------------------------------------------------------------------------------------


def test_what_was_remembered_last_is_recalled(store: Store, rows: Rows) -> None:
    assert store.registry.recall("mode") is None
    store.registry.remember("mode", "hybrid:50")
    store.registry.remember("mode", "redis:100")
    store.registry.remember("other", "x")
    assert store.registry.recall("mode") == "redis:100"


def test_processes_that_remember_at_the_same_moment_leave_one_value(
    rows: Rows, make_store: MakeStore
) -> None:
    registries = [make_store(rows).registry for _ in range(6)]
    for n in range(5):
        name = f"mode {n}"
        answers = at_once([lambda r=r, name=name: r.remember(name, "redis:100") for r in registries])  # type: ignore[misc]
        assert answers == [None] * 6
        assert registries[0].recall(name) == "redis:100"


def test_remembering_what_another_process_is_just_writing_waits_and_wins(store: Store, rows: Rows) -> None:
    with rows.holding("INSERT INTO memory (name, value) VALUES ('mode', 'theirs')"):
        ours = InBackground(lambda: store.registry.remember("mode", "ours"))
        ours.must_wait(rows)
    ours.answer()
    assert store.registry.recall("mode") == "ours"
