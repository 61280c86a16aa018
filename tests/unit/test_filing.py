"""When ended tickets are told to Redis, and which of a flood."""

from __future__ import annotations

from app.tasks.model import Priority
from app.tasks.tickets.manager import Ended
from tests.clocks import Clock
from workers.filing import FILED_AT_ONCE, GATHER_SECONDS, Filing

HIGH, LOW = Priority.HIGH, Priority.LOW


def ended(number: int, priority: Priority = LOW, *, ok: bool | None = True) -> Ended:
    return Ended(f"t{number}-e1", priority, ok)


def test_tickets_are_gathered_for_a_moment_and_then_told_together() -> None:
    clock = Clock()
    filing = Filing(clock=clock)
    filing.add(ended(1))
    clock.now += GATHER_SECONDS * 0.9
    filing.add(ended(2))
    assert filing.due() == []
    clock.now += GATHER_SECONDS * 0.2
    assert filing.due() == [ended(1), ended(2)]
    assert filing.due() == filing.take() == []


def test_an_idle_worker_tells_at_once() -> None:
    filing = Filing(clock=Clock())
    filing.add(ended(1))
    assert filing.take() == [ended(1)]


def test_of_a_flood_the_newest_of_each_queue_are_filed_and_every_failure() -> None:
    filing = Filing(clock=Clock())
    flood = [ended(n) for n in range(FILED_AT_ONCE + 2)]
    for one in [ended(9001, ok=False), *flood, ended(9002, HIGH), ended(9003, ok=None)]:
        filing.add(one)
    told = filing.take()
    assert [one.job_id for one in told if one.ok is None] == ["t0-e1", "t1-e1", "t9003-e1"]
    assert [one.job_id for one in told if one.ok is False] == ["t9001-e1"]
    assert [one for one in told if one.ok] == [*flood[2:], ended(9002, HIGH)]
    assert len(told) == FILED_AT_ONCE + 5


def test_what_redis_could_not_be_told_is_told_later_in_its_old_order() -> None:
    clock = Clock()
    filing = Filing(clock=clock)
    filing.add(ended(1))
    lost = filing.take()
    filing.add(ended(2))
    filing.put_back(lost)
    assert filing.due() == []
    clock.now += GATHER_SECONDS
    assert filing.due() == [ended(1), ended(2)]
