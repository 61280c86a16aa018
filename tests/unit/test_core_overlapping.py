"""`overlapped`: in order, one prepared while one is carried out, and an error leaves nothing under way."""

from __future__ import annotations

import threading

import pytest

from app.tasks.overlapping import overlapped

DEADLINE_SECONDS = 20


def test_answers_come_in_the_order_of_the_parts() -> None:
    for count in (0, 1, 2, 7):
        wanted = [str(number * 10) for number in range(count)]
        assert overlapped(range(count), lambda number: number * 10, str) == wanted


def test_a_part_is_prepared_while_the_one_before_it_is_carried_out() -> None:
    prepared_second = threading.Event()

    def prepare(part: str) -> str:
        if part == "second":
            prepared_second.set()
        return part

    def carry_out(part: str) -> bool:
        return prepared_second.wait(DEADLINE_SECONDS)

    assert overlapped(["first", "second"], prepare, carry_out) == [True, True]


def test_one_part_alone_needs_no_thread() -> None:
    assert overlapped([1], lambda part: part, lambda part: threading.current_thread()) == [
        threading.current_thread()
    ]


def test_no_two_are_carried_out_at_once() -> None:
    alone = threading.Lock()

    def carry_out(part: int) -> int:
        assert alone.acquire(blocking=False)
        alone.release()
        return part

    assert overlapped(range(50), lambda part: part, carry_out) == list(range(50))


def test_what_cannot_be_carried_out_is_raised_and_nothing_follows_it() -> None:
    begun: list[int] = []

    def carry_out(part: int) -> None:
        begun.append(part)
        if part == 2:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        overlapped(range(6), lambda part: part, carry_out)
    assert begun == [0, 1, 2]


def test_what_cannot_be_prepared_is_raised_when_the_one_before_it_is_over() -> None:
    preparing_fails = threading.Event()
    over: list[int] = []

    def prepare(part: int) -> int:
        if part == 1:
            preparing_fails.set()
            raise ZeroDivisionError
        return part

    def carry_out(part: int) -> None:
        assert preparing_fails.wait(DEADLINE_SECONDS)
        over.append(part)

    with pytest.raises(ZeroDivisionError):
        overlapped([0, 1, 2], prepare, carry_out)
    assert over == [0]
