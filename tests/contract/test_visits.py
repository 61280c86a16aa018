"""Workers of named queues and of weighted ones, on both tracks."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from app.tasks.model import PRIORITIES, Priority, Ticket
from app.tasks.runner import boot_clock
from app.tasks.store import Store
from app.tasks.store.claims import TicketClaims
from app.tasks.store.takes import TakeQueued, TakeTickets
from app.tasks.tickets import RQQueueManager
from tests.contract.rows import Rows
from workers.consumers import DatabaseConsumer, RedisConsumer
from workers.visiting import Visits

WEIGHTS = Visits.parse(None, "urgent=3,low=1")


def redis_consumer(store: Store, tickets: RQQueueManager, visits: Visits) -> RedisConsumer:
    for number, priority in enumerate(PRIORITIES):
        first = 1000 * (number + 1)
        tickets.push([Ticket(n, 1, priority, "test.noop") for n in range(first, first + 100)])
    return RedisConsumer(store, tickets, holder="w", visits=visits)


def fetched(consumer: RedisConsumer, count: int) -> list[int]:
    take = consumer.fetch(count)
    consumer.accept(TicketClaims())
    return [] if take is None else [task_id for task_id, _ in take.references]


def test_a_worker_of_named_queues_leaves_the_others_alone(
    sqlite_store: Store, tickets: RQQueueManager
) -> None:
    consumer = redis_consumer(sqlite_store, tickets, Visits.parse("low,high", None))
    taken = [task_id for _ in range(5) for task_id in fetched(consumer, 50)]
    assert taken == [*range(4000, 4100), *range(2000, 2100)]


def test_tickets_are_shared_out_by_weight_while_both_queues_are_full(
    sqlite_store: Store, tickets: RQQueueManager
) -> None:
    consumer = redis_consumer(sqlite_store, tickets, WEIGHTS)
    taken = Counter(task_id // 1000 for _ in range(12) for task_id in fetched(consumer, 5))
    assert taken == {1: 45, 4: 15}


def test_a_weighted_worker_goes_on_with_one_queue_when_the_other_is_empty(
    sqlite_store: Store, tickets: RQQueueManager
) -> None:
    consumer = redis_consumer(sqlite_store, tickets, WEIGHTS)
    taken = [task_id for _ in range(45) for task_id in fetched(consumer, 5)]
    assert sorted(taken) == [*range(1000, 1100), *range(4000, 4100)]


def test_rows_are_shared_out_by_weight_on_the_database_track(store: Store, rows: Rows) -> None:
    rows.put("QUEUED", priority="urgent", count=60)
    rows.put("QUEUED", priority="low", count=60)
    consumer = DatabaseConsumer(store, grace_seconds=30, always=True, visits=WEIGHTS)
    won: Counter[Priority] = Counter()
    for _ in range(8):
        take = consumer.fetch(5)
        assert isinstance(take, TakeQueued)
        turned = store.turns.turn([], take, holder="w", lease_seconds=30)
        won.update(claim.priority for claim in turned.claims.won)
    assert won == {Priority.URGENT: 30, Priority.LOW: 10}


def test_tickets_of_one_visit_keep_its_order(sqlite_store: Store, tickets: RQQueueManager) -> None:
    consumer = redis_consumer(sqlite_store, tickets, Visits.parse("normal,urgent", None))
    take = consumer.fetch(150)
    assert isinstance(take, TakeTickets)
    assert [task_id for task_id, _ in take.references] == [*range(3000, 3100), *range(1000, 1050)]


def queued(tickets: RQQueueManager) -> list[int]:
    """The task ids in the queue of urgent tickets, first to come first."""
    keys: list[bytes] = tickets.client.lrange(tickets.queue_key(Priority.URGENT), 0, -1)  # type: ignore[assignment]
    return [int(key.decode().partition("-")[0][1:]) for key in keys]


def urgent_consumer(store: Store, tickets: RQQueueManager) -> RedisConsumer:
    return redis_consumer(store, tickets, Visits.parse("urgent", None))


def test_spare_tickets_come_along_and_serve_the_next_claims_without_a_question(
    sqlite_store: Store, tickets: RQQueueManager
) -> None:
    consumer = urgent_consumer(sqlite_store, tickets)
    asked = 0
    for number in range(12):
        before = len(queued(tickets))
        take = consumer.fetch(1, spare=3)
        assert take is not None
        assert take.references == [(1000 + number, 1)]
        consumer.accept(TicketClaims())
        asked += len(queued(tickets)) < before
    assert asked == 3


def test_spare_tickets_go_back_to_their_place_when_the_worker_leaves(
    sqlite_store: Store, tickets: RQQueueManager
) -> None:
    consumer = urgent_consumer(sqlite_store, tickets)
    consumer.fetch(2, spare=7)
    consumer.accept(TicketClaims())
    assert queued(tickets) == [*range(1009, 1100)]
    consumer.leave()
    assert queued(tickets) == [*range(1002, 1100)]


def test_spare_tickets_wait_for_no_long_run_and_for_no_pause(
    sqlite_store: Store, tickets: RQQueueManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    consumer = urgent_consumer(sqlite_store, tickets)
    consumer.fetch(1, spare=4)
    consumer.accept(TicketClaims())
    now = boot_clock()
    consumer.show(running_since(now + 3600), True)
    assert queued(tickets) == [*range(1005, 1100)]
    consumer.show(running_since(now - 1), True)
    assert queued(tickets) == [*range(1001, 1100)]
    consumer.fetch(1, spare=4)
    consumer.accept(TicketClaims())
    sqlite_store.routing.change([Priority.URGENT], paused=True)
    assert consumer.fetch(1, spare=4) is None
    assert queued(tickets) == [*range(1002, 1100)]


def running_since(moment: float) -> Any:
    return SimpleNamespace(started=moment, claim=SimpleNamespace(track=None))
