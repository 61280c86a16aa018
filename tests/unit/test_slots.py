"""How a slot of the pool restarts what ends in it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.tasks.model import Claim, Priority, Track
from app.tasks.runner import boot_clock
from tests.waiting import wait_until
from workers.causes import Cause, CauseOfDeath
from workers.enforcement import Limits
from workers.life import LifeFile, life_files
from workers.page import Page
from workers.slots import DOWN_SECONDS, EXIT_RECYCLED, LONGEST_FOR_A_TASK, QUICK_DEATHS, RESTART_SECONDS, Slot

LIMITS = Limits(kill_grace_seconds=1)
CLAIM = Claim(7, "test.noop", "{}", Priority.NORMAL, 7, 1, 1, 0, Track.REDIS)


@pytest.fixture
def slot(tmp_path: Path) -> Slot:
    return Slot("redis-1", lambda mark: 0, tmp_path, LIMITS)


def ends(slot: Slot, code: int = 1) -> float:
    """Let a real child of this process end in the slot; the delay until its next start."""
    pid = os.fork()
    if pid == 0:
        os._exit(code)
    slot.began(pid, "mark")
    wait_until(slot.reap, deadline_seconds=60, what="the child to end")
    return slot.start_at - slot.ended_at


def test_quick_deaths_double_the_pause_and_too_many_take_the_slot_down(slot: Slot) -> None:
    pauses = [ends(slot) for _ in range(QUICK_DEATHS + 1)]
    first, longest = RESTART_SECONDS
    expected = [min(longest, first * 2 ** (n + 1)) for n in range(QUICK_DEATHS - 1)]
    assert pauses == pytest.approx([*expected, DOWN_SECONDS, DOWN_SECONDS])
    assert slot.is_down


def test_a_worker_that_lived_long_starts_the_count_anew(slot: Slot) -> None:
    for _ in range(3):
        ends(slot)
    pid = os.fork()
    if pid == 0:
        os._exit(1)
    slot.began(pid, "mark")
    slot.started -= 3600
    wait_until(slot.reap, deadline_seconds=60, what="the child to end")
    assert slot.failures == 1


@pytest.mark.parametrize(("code", "leaving"), [(EXIT_RECYCLED, ""), (0, "age"), (0, "new code")])
def test_who_leaves_as_asked_is_replaced_at_once(code: int, leaving: str, slot: Slot) -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(code)
    slot.began(pid, "mark")
    slot.leaving = leaving
    wait_until(slot.reap, deadline_seconds=60, what="the child to end")
    assert (slot.start_at - slot.ended_at, slot.failures) == (0.0, 0)


def test_a_worker_that_is_too_large_from_the_start_is_not_replaced_in_a_circle(slot: Slot) -> None:
    for number in range(QUICK_DEATHS):
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        slot.began(pid, "mark")
        slot.leaving = "memory"
        wait_until(slot.reap, deadline_seconds=60, what="the child to end")
        assert slot.failures == number + 1
    assert slot.is_down


def test_a_worker_that_ends_unasked_is_no_graceful_leave(slot: Slot) -> None:
    assert ends(slot, 0) > 0
    assert slot.failures == 1


@pytest.fixture
def life(tmp_path: Path) -> Iterator[LifeFile]:
    made = LifeFile(tmp_path, "host:1:a")
    yield made
    made.release()


def sleeping(slot: Slot, folder: Path) -> None:
    """A child in the slot that sleeps until killed, with the only life file of the folder as its own."""
    pid = os.fork()
    if pid == 0:
        signal.pause()
        os._exit(0)
    slot.began(pid, "mark")
    (path,) = life_files(folder)
    slot.worker_id = path.stem
    assert slot.open_page() is not None


def test_deaths_that_a_task_is_to_blame_for_never_take_the_slot_down(
    slot: Slot, life: LifeFile, tmp_path: Path
) -> None:
    life.page.begin([CLAIM], boot_clock())
    assert life.page.start(0, boot_clock(), 60)
    for _ in range(QUICK_DEATHS + 1):
        sleeping(slot, tmp_path)
        os.kill(slot.pid or 0, signal.SIGUSR2)
        wait_until(slot.reap, deadline_seconds=60, what="the child to end")
        assert slot.start_at - slot.ended_at <= LONGEST_FOR_A_TASK
    assert not slot.is_down
    assert life.page.cause == CauseOfDeath(Cause.SIGNAL, signal.SIGUSR2)


def test_the_cause_of_a_kill_is_on_the_page_before_the_death(
    slot: Slot, life: LifeFile, tmp_path: Path
) -> None:
    sleeping(slot, tmp_path)
    slot.kill(CauseOfDeath(Cause.TIME_LIMIT, 5))
    assert life.page.cause == CauseOfDeath(Cause.TIME_LIMIT, 5)
    wait_until(slot.reap, deadline_seconds=60, what="the child to end")
    assert life.page.cause == CauseOfDeath(Cause.TIME_LIMIT, 5)
    assert slot.start_at - slot.ended_at == 0.0, "who was killed for a reason is replaced at once"


def test_a_task_is_late_only_when_it_was_seen_late_twice(slot: Slot, life: LifeFile, tmp_path: Path) -> None:
    sleeping(slot, tmp_path)
    watch = slot.watch
    assert watch is not None
    page: Page = life.page
    page.begin([CLAIM], boot_clock())
    assert page.start(0, boot_clock() - 100, 60)
    assert watch.time_is_up()
    assert not watch.time_is_up(), "told once"
    assert watch.reason_to_kill() is None
    assert watch.reason_to_kill() == CauseOfDeath(Cause.TIME_LIMIT, 60)
    page.end()
    assert watch.reason_to_kill() is None
    slot.kill(CauseOfDeath(Cause.STOP, 0))
    wait_until(slot.reap, deadline_seconds=60, what="the child to end")
