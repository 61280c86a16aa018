"""Calls of several threads that go as one."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait

import pytest

from app.tasks.combining import LANES, Combiner
from tests.waiting import wait_until

DEADLINE_SECONDS = 30


class Doubling:
    """Answers twice the item; a call can be held up until the test lets it go."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.parties: list[list[int]] = []
        self.combined: Combiner[int, int] = Combiner(self.alone, self.together)

    def alone(self, item: int) -> int:
        return self.together([item])[0]

    def together(self, items: Sequence[int]) -> list[int]:
        self.parties.append(list(items))
        assert self.gate.wait(DEADLINE_SECONDS)
        if 13 in items:
            raise ValueError("thirteen")
        return [item * 2 for item in items]

    def fill_lanes(self, pool: ThreadPoolExecutor) -> list[Future[int]]:
        """As many calls as may be on their way at once, held up."""
        self.gate.clear()
        calls = []
        for number in range(1, LANES + 1):
            calls.append(pool.submit(self.combined, number))
            self._wait_for_parties(number)
        return calls

    def _wait_for_parties(self, count: int) -> None:
        wait_until(
            lambda: len(self.parties) == count, deadline_seconds=DEADLINE_SECONDS, what="the lane to be taken"
        )

    def queue_up(self, pool: ThreadPoolExecutor, items: Sequence[int]) -> list[Future[int]]:
        calls = [pool.submit(self.combined, item) for item in items]
        wait_until(
            lambda: len(self.combined._waiting) == len(items),
            deadline_seconds=DEADLINE_SECONDS,
            what="all calls to wait",
        )
        return calls


def test_a_call_that_meets_no_other_goes_alone() -> None:
    doubling = Doubling()

    assert [doubling.combined(item) for item in (1, 2, 3)] == [2, 4, 6]
    assert doubling.parties == [[1], [2], [3]]


def test_calls_that_come_meanwhile_go_together_and_each_gets_its_own_answer() -> None:
    doubling = Doubling()
    with ThreadPoolExecutor(20) as pool:
        first = doubling.fill_lanes(pool)
        waiting = doubling.queue_up(pool, range(100, 110))
        doubling.gate.set()

        assert [call.result(DEADLINE_SECONDS) for call in first] == [2 * n for n in range(1, LANES + 1)]
        assert [call.result(DEADLINE_SECONDS) for call in waiting] == [2 * n for n in range(100, 110)]
    assert len(doubling.parties) <= LANES + 2, doubling.parties


def test_an_error_reaches_everyone_of_its_party_and_nobody_else() -> None:
    doubling = Doubling()
    with ThreadPoolExecutor(20) as pool:
        first = doubling.fill_lanes(pool)
        unlucky = doubling.queue_up(pool, [12, 13, 14])
        doubling.gate.set()

        assert [call.result(DEADLINE_SECONDS) for call in first] == [2 * n for n in range(1, LANES + 1)]
        wait(unlucky, DEADLINE_SECONDS)
        failed = {i for party in doubling.parties if 13 in party for i in party}
        for item, call in zip((12, 13, 14), unlucky, strict=True):
            if item in failed:
                with pytest.raises(ValueError, match="thirteen"):
                    call.result(DEADLINE_SECONDS)
            else:
                assert call.result(DEADLINE_SECONDS) == 2 * item
        assert doubling.combined(1) == 2, "the next call goes on as if nothing had been"


def test_many_threads_and_many_calls_lose_no_answer() -> None:
    doubling = Doubling()

    def calls(start: int) -> list[int]:
        return [doubling.combined(item) for item in range(start, start + 300)]

    starts = range(1000, 17_000, 1000)
    with ThreadPoolExecutor(len(starts)) as pool:
        for start, answers in zip(starts, pool.map(calls, starts), strict=True):
            assert answers == [2 * item for item in range(start, start + 300)]
    served = sorted(item for party in doubling.parties for item in party)
    assert served == [item for start in starts for item in range(start, start + 300)]
