"""A batch in work, by itself: what starts, what a cut gives back, and how many to take."""

from __future__ import annotations

from typing import Any, cast

from app.tasks.model import Claim, Completed, Priority, Released, Track
from app.tasks.runner import LiveTask, boot_clock
from app.tasks.store import Store
from workers.batch import Batch, BatchSize
from workers.page import Page

FAR = 3600.0


def live(task_id: int) -> LiveTask:
    claim = Claim(task_id, "test.noop", "{}", Priority.NORMAL, 7, 1, 1, 0, Track.REDIS)
    return LiveTask(claim, cast(Store, None), lease_ends=boot_clock() + FAR)


def batch_of(count: int, **options: Any) -> Batch:
    lives = [live(number) for number in range(count)]
    return Batch(lives, page=Page.anonymous(), lease_ends=options.pop("lease_ends", boot_clock() + FAR))


def test_a_start_is_published_before_the_task_is_handed_out() -> None:
    batch = batch_of(2)
    for number in range(2):
        started = batch.start_next()
        assert started is batch.running is batch.lives[number]
        running = batch.page.running()
        assert running is not None
        assert running.task_id == number
        batch.add(Completed(started.claim, "null"))
        assert batch.page.running() is None
    assert batch.start_next() is None


def test_a_cut_gives_back_the_unstarted_rest_and_what_came_out_but_not_what_runs() -> None:
    batch = batch_of(4)
    first = batch.start_next()
    assert first is not None
    batch.add(Completed(first.claim, "null"))
    running = batch.start_next()
    assert running is not None
    cut = batch.cut()
    assert [type(outcome) for outcome in cut] == [Completed, Released, Released]
    assert [outcome.claim.task_id for outcome in cut] == [0, 2, 3]
    assert batch.start_next() is None
    batch.add(Completed(running.claim, "null"))
    assert [outcome.claim.task_id for outcome in batch.cut()] == [1]
    assert batch.cut() == []


def test_nothing_starts_once_the_lease_is_over() -> None:
    batch = batch_of(3, lease_ends=boot_clock() - 0.001)
    assert batch.start_next() is None
    assert [type(outcome) for outcome in batch.cut()] == [Released] * 3


def test_renewals_name_exactly_what_is_still_held() -> None:
    batch = batch_of(3)
    first = batch.start_next()
    assert first is not None
    assert {claim.task_id for claim in batch.claims()} == {0, 1, 2}
    batch.add(Completed(first.claim, "null"))
    batch.cut()
    assert batch.claims() == []


def test_the_time_of_a_task_counts_from_its_own_start() -> None:
    batch = batch_of(1)
    before = boot_clock()
    started = batch.start_next()
    assert started is not None
    assert started.started >= before


def test_the_size_grows_to_about_20_ms_of_work_and_falls_at_once_for_slow_tasks() -> None:
    size = BatchSize(100)
    assert size.next() == 1
    for _ in range(60):
        size.learn(0.0001 * 10, 10)
    assert size.next() == 100
    size.learn(0.5, 1)
    assert size.next() == 1


def test_small_batches_of_short_tasks_have_spare_tickets_and_others_have_none() -> None:
    small, large = BatchSize(1), BatchSize(100)
    assert (small.spare(), large.spare()) == (0, 0)
    for size in (small, large):
        for _ in range(60):
            size.learn(0.0001 * 10, 10)
    assert (small.next(), small.spare()) == (1, 19)
    assert (large.next(), large.spare()) == (100, 0)
    small.learn(0.5, 1)
    assert (small.next(), small.spare()) == (1, 0)
