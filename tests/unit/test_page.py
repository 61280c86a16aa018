"""A worker's page by itself: what others read of it at each moment, and what is left in it after a death."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.tasks.model import Cancelled, Claim, Completed, Failed, Outcome, Priority, RetryLater, Track, Waits
from workers.causes import Cause, CauseOfDeath
from workers.life import LifeFile, deaths, held_if_dead, life_path
from workers.page import ARENA_BYTES, ARENA_RESERVE_BYTES, MAX_BATCH, MAX_BESIDE, Page

TOKEN = 2**62


def claims(count: int, *, token: int = TOKEN) -> list[Claim]:
    return [
        Claim(2**60 + n, "test.noop", "{}", Priority.NORMAL, token, 1, 1, 0, Track.DATABASE)
        for n in range(count)
    ]


def page_of(count: int) -> Page:
    page = Page.anonymous()
    page.begin(claims(count), 5.0)
    return page


def test_a_page_names_its_batch_and_the_task_in_work() -> None:
    page = page_of(3)
    held = page.holding()
    assert held is not None
    assert (held.token, held.track, held.began) == (TOKEN, Track.DATABASE, 5.0)
    assert held.task_ids == tuple(claim.task_id for claim in claims(3))
    assert (held.started, held.limit, page.running()) == (0, 3, None)
    assert page.start(0, 6.0, 60)
    page.add(Completed(claims(3)[0], "1"))
    assert page.start(1, 7.0, 30)
    running = page.running()
    assert running is not None
    assert (running.index, running.task_id, running.since, running.limit_seconds) == (1, 2**60 + 1, 7.0, 30.0)
    page.end()
    assert page.running() is None


def test_an_empty_batch_is_none() -> None:
    page = page_of(3)
    page.begin([], 6.0)
    assert (page.holding(), page.running()) == (None, None)


def test_the_largest_batch_fits() -> None:
    held = page_of(MAX_BATCH).holding()
    assert held is not None
    assert len(held.task_ids) == MAX_BATCH


@pytest.mark.parametrize(
    "make",
    [
        lambda claim: Completed(claim, '"ä\u2028🙂"'),
        lambda claim: Failed(claim, ""),
        lambda claim: RetryLater(claim, "no", 0.25),
        lambda claim: Cancelled(claim),
        lambda claim: Waits(claim),
    ],
)
def test_an_outcome_comes_back_as_it_went_in(make: object) -> None:
    page = page_of(1)
    (claim,) = claims(1)
    outcome: Outcome = make(claim)  # type: ignore[operator]
    assert page.start(0, 6.0, 60)
    assert page.add(outcome)
    assert page.records()[0].outcome(claim) == outcome


def test_a_batch_ends_before_the_largest_result_would_not_fit() -> None:
    page = page_of(3)
    large = "x" * (ARENA_BYTES - ARENA_RESERVE_BYTES - 100)
    assert page.start(0, 6.0, 60)
    assert page.add(Completed(claims(3)[0], large))
    assert page.start(1, 6.0, 60)
    assert not page.add(Completed(claims(3)[1], "y" * 2**20)), "the batch ends here"
    assert [len(record.text) for record in page.records().values()] == [len(large), 2**20]


def test_an_outcome_that_does_not_fit_is_left_out_and_the_others_stay() -> None:
    page = page_of(2)
    assert page.start(0, 6.0, 60)
    page.add(Completed(claims(2)[0], "1"))
    assert page.start(1, 6.0, 60)
    assert not page.add(Completed(claims(2)[1], "y" * ARENA_BYTES))
    assert set(page.records()) == {0}
    assert page.running() is None


def test_a_new_batch_forgets_the_outcomes_of_the_last() -> None:
    page = page_of(1)
    assert page.start(0, 6.0, 60)
    page.add(Completed(claims(1)[0], "1"))
    page.begin(claims(1, token=7), 7.0)
    assert page.records() == {}


def test_of_a_start_and_a_cut_at_once_never_both_have_the_task() -> None:
    """The worker publishes, then looks at the limit; who cuts lowers the limit, waits, then looks."""
    page = page_of(4)
    assert page.start(0, 6.0, 60)
    started: list[bool] = []
    cut = page.cut(lambda: started.append(page.start(1, 6.0, 60)))
    assert cut is not None
    assert started == [False]
    assert cut.task_ids[cut.started :] == tuple(claim.task_id for claim in claims(4)[1:])
    assert cut.limit == 4


def test_a_cut_sees_a_start_that_was_published_before_it() -> None:
    page = page_of(4)
    assert page.start(0, 6.0, 60)
    page.end()
    assert page.start(1, 6.0, 60)
    cut = page.cut()
    assert cut is not None
    assert cut.started == 2
    assert not page.start(2, 6.0, 60)


def test_a_cut_that_finds_another_batch_gives_nothing_back() -> None:
    page = page_of(4)
    assert page.cut(lambda: page.begin(claims(2, token=7), 6.0)) is None


def test_a_renewal_of_one_batch_is_none_of_the_next() -> None:
    page = page_of(1)
    page.renewed(TOKEN, 99.0)
    assert page.renewed_until(TOKEN) == 99.0
    assert page.renewed_until(7) == 0.0


def test_a_kill_that_was_asked_for_one_task_is_not_for_the_next_in_its_place() -> None:
    page = page_of(1)
    assert page.start(0, 6.0, 60)
    first = page.running()
    assert first is not None
    page.ask_to_kill(first, 16.0)
    page.ask_to_kill(first, 99.0)
    assert page.kill_at(first) == 16.0, "the first grace counts"
    page.begin(claims(1, token=7), 8.0)
    assert page.start(0, 9.0, 60)
    second = page.running()
    assert second is not None
    assert page.kill_at(second) is None


def test_the_first_cause_stands() -> None:
    page = page_of(1)
    assert page.cause is None
    page.set_cause(CauseOfDeath(Cause.MEMORY, 300))
    page.set_cause(CauseOfDeath.of_exit(-9))
    assert page.cause == CauseOfDeath(Cause.MEMORY, 300)


def test_a_life_file_is_the_proof_of_a_life_until_its_last_holder_is_gone(tmp_path: Path) -> None:
    life = LifeFile(tmp_path, "host:1:a", supervisor=17)
    path = life_path(tmp_path, "host:1:a")
    with held_if_dead(path) as dead:
        assert not dead
    assert deaths(tmp_path, ["host:1:a", "host:1:unknown"]) == set()
    assert (life.page.worker_id, life.page.supervisor, life.page.of_this_boot) == ("host:1:a", 17, True)
    life.page.close()
    life._file.close()
    assert deaths(tmp_path, ["host:1:a", "host:1:unknown"]) == {"host:1:a"}
    with held_if_dead(path) as dead:
        assert dead
        with held_if_dead(path) as also:
            assert not also, "one buries, the others leave it alone"


def test_a_released_life_file_is_gone(tmp_path: Path) -> None:
    life = LifeFile(tmp_path, "host/name:1:a")
    life.release()
    assert list(tmp_path.iterdir()) == []


def test_what_runs_beside_the_batches_is_named_until_its_end_is_recorded() -> None:
    page = Page.anonymous()
    first, second = claims(2)
    page.put_beside(0, first)
    page.put_beside(MAX_BESIDE - 1, second)
    page.begin([second], 1.0)  # another batch changes nothing
    assert page.beside() == {(first.task_id, first.token), (second.task_id, second.token)}
    page.put_beside(0, None)
    assert page.beside() == {(second.task_id, second.token)}
