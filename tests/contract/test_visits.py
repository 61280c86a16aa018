"""Workers of named queues and of weighted ones, on both tracks."""

from __future__ import annotations

from collections import Counter

from app.tasks.model import Priority, Ticket
from app.tasks.store import Store
from app.tasks.store.claims import TicketClaims
from app.tasks.store.takes import TakeQueued, TakeTickets
from app.tasks.tickets import RQQueueManager
from tests.contract.rows import Rows
from workers.consumers import DatabaseConsumer, RedisConsumer
from workers.visiting import Visits

WEIGHTS = Visits.parse(None, "urgent=3,low=1")


def redis_consumer(store: Store, tickets: RQQueueManager, visits: Visits) -> RedisConsumer:
    for number, priority in enumerate(Priority):
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
