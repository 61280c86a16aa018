"""What stays in a living worker's in-flight list though nobody has it in hand: tickets that came twice, and
those whose answer an outage of Redis has swallowed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis

from app.tasks.errors import RedisUnavailable
from app.tasks.model import PRIORITIES, Completed
from app.tasks.queue import TaskQueue
from app.tasks.settings import CoreSettings
from app.tasks.store import Store
from app.tasks.store.takes import TakeTickets
from app.tasks.tickets import RQQueueManager
from app.tasks.tickets.manager import Taken
from tests.contract.parts import HANDLERS, request
from workers.consumers import RedisConsumer
from workers.recording import follow_up

HOLDER = "here:1:abc"


class Place:
    """One worker's consumer with the queue that it serves, and its turns without a process."""

    def __init__(self, store: Store, tickets: RQQueueManager, raw: Any) -> None:
        self.store = store
        self.queue = TaskQueue(self.store, HANDLERS, tickets, CoreSettings())
        self.consumer = RedisConsumer(self.store, tickets, holder=HOLDER)
        self._raw = raw
        self._in_flight_key = tickets.in_flight_key(HOLDER)

    def in_flight(self) -> list[str]:
        found: list[str] = self._raw.lrange(self._in_flight_key, 0, -1)
        return found

    def waiting(self) -> list[str]:
        found: list[str] = self._raw.lrange("rq:queue:normal", 0, -1)
        return found

    def work_until_idle(self) -> list[int]:
        """Complete what can be claimed, and do what a worker does before it sleeps. Returns the tasks."""
        done: list[int] = []
        while (take := self.consumer.fetch(10)) is not None:
            assert isinstance(take, TakeTickets)
            turned = self.store.turns.turn([], take, holder=HOLDER, lease_seconds=60)
            self.consumer.accept(turned.claims)
            outcomes = [Completed(claim, "1") for claim in turned.claims.won]
            follow_up(self.queue, self.consumer, outcomes, self.store.settlements.settle(outcomes))
            done += [claim.task_id for claim in turned.claims.won]
        self.consumer.flush()
        self.consumer.recover()
        return done


@pytest.fixture
def place(sqlite_store: Store, tickets: RQQueueManager, raw: Any) -> Place:
    return Place(sqlite_store, tickets, raw)


@contextmanager
def answers_lost(tickets: RQQueueManager, patch: pytest.MonkeyPatch) -> Iterator[None]:
    """The server takes tickets for us as it is told, and its answers never come."""
    take = tickets.take

    def call(*arguments: Any) -> list[Taken]:
        with tickets.health.watch():
            take(*arguments)
            raise redis.TimeoutError("no answer")

    with patch.context() as broken:
        broken.setattr(tickets, "take", call)
        yield


def test_a_ticket_that_came_twice_in_one_batch_is_out_of_flight_once_its_task_has_ended(
    place: Place, tickets: RQQueueManager
) -> None:
    task_id = place.queue.submit(request()).task_id
    tickets.push(place.store.dispatched.among([task_id]))  # as a sweeper does that misses a ticket in flight
    assert len(place.waiting()) == 2
    assert place.work_until_idle() == [task_id]
    assert place.in_flight() == []


def test_tickets_whose_answer_was_lost_are_worked_by_the_same_worker_before_it_sleeps(
    place: Place, tickets: RQQueueManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [place.queue.submit(request()).task_id for _ in range(3)]
    place.queue.cancel(ids[1])
    with answers_lost(tickets, monkeypatch), pytest.raises(RedisUnavailable):
        place.consumer.fetch(10)
    tickets.ping()
    assert len(place.in_flight()) >= 2
    assert place.work_until_idle() == []
    assert place.in_flight() == []
    assert place.work_until_idle() == [ids[0], ids[2]]


def test_a_redis_that_does_not_answer_is_left_alone(
    place: Place, tickets: RQQueueManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    task_id = place.queue.submit(request()).task_id
    with answers_lost(tickets, monkeypatch), pytest.raises(RedisUnavailable):
        place.consumer.fetch(10)
    asked: list[str] = []
    with monkeypatch.context() as heard:
        heard.setattr(tickets, "in_flight", asked.append)
        place.consumer.recover()
    assert asked == []
    tickets.ping()
    place.consumer.recover()
    assert (place.in_flight(), place.waiting()) == ([], [f"t{task_id}-e1"])
    assert place.work_until_idle() == [task_id]


def test_a_worker_that_met_neither_asks_nothing_before_it_sleeps(
    place: Place, tickets: RQQueueManager, raw: Any
) -> None:
    tickets.take(HOLDER, PRIORITIES, 1)
    before = raw.info("stats")["total_commands_processed"]
    place.consumer.recover()
    assert raw.info("stats")["total_commands_processed"] == before + 1  # the look itself


def test_a_job_of_another_program_in_a_batch_is_no_ticket_that_came_twice(
    place: Place, tickets: RQQueueManager, raw: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw.rpush("rq:queue:normal", "somebody-elses")
    task_id = place.queue.submit(request()).task_id
    asked: list[str] = []
    monkeypatch.setattr(tickets, "in_flight", asked.append)
    assert place.work_until_idle() == [task_id]
    assert (asked, place.in_flight()) == ([], [])
