"""Burials of workers that had tickets: what becomes of those, claimed and not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.tasks.model import PRIORITIES, Claim, Completed, Priority, RetryLater
from app.tasks.runner import boot_clock
from app.tasks.tickets import RQQueueManager
from tests.contract.graveyard import FAR, SEGFAULT, Graveyard, make_yard, run
from tests.contract.parts import request
from tests.contract.rows import Rows
from tests.servers import RedisServer
from workers.life import LifeFile


@pytest.fixture
def redis_yard(
    sqlite_rows: Rows, tickets: RQQueueManager, redis_url: str, tmp_path: Path
) -> Iterator[Graveyard]:
    """As `yard`, with the queues of Redis."""
    made = make_yard(sqlite_rows, tmp_path, redis_url=redis_url)
    yield made
    made.system.close()


def pop(tickets: RQQueueManager, life: LifeFile, count: int) -> list[tuple[int, int]]:
    """Tickets in the hands of a worker that has not claimed them."""
    taken = tickets.take(life.page.worker_id, PRIORITIES, count)
    return [one.reference for one in taken if one.reference]


def claim_tickets(yard: Graveyard, tickets: RQQueueManager, life: LifeFile, count: int) -> list[Claim]:
    pairs, holder = pop(tickets, life, count), life.page.worker_id
    claims = yard.system.store.claims.tickets(pairs, holder=holder, lease_seconds=FAR).won
    life.page.begin(claims, boot_clock())
    return claims


def test_tickets_of_a_dead_worker_are_filed_and_its_released_ones_go_first(
    redis_yard: Graveyard, sqlite_rows: Rows, tickets: RQQueueManager, raw: Any
) -> None:
    yard = redis_yard
    ids = [yard.system.queue.submit(request()).task_id for _ in range(4)]
    life = yard.worker()
    claims, in_flight = claim_tickets(yard, tickets, life, 3), tickets.in_flight_key(life.page.worker_id)
    run(life, 0, Completed(claims[0], "1"))
    assert life.page.start(1, boot_clock(), FAR)
    yard.dies(life, SEGFAULT)
    yard.burials.bury_all()
    expected = ["COMPLETED", "SCHEDULED", "DISPATCHED", "DISPATCHED"]
    assert [sqlite_rows.status(task_id) for task_id in ids] == expected
    assert raw.lrange("rq:queue:normal", 0, -1) == [f"t{ids[2]}-e2", f"t{ids[3]}-e1"]
    assert raw.exists(in_flight) == 0
    assert raw.hget(f"rq:job:t{ids[0]}-e1", "status") == "finished"


def test_tickets_that_a_dead_worker_had_popped_and_not_claimed_go_back_to_the_head_at_once(
    redis_yard: Graveyard, sqlite_rows: Rows, tickets: RQQueueManager, raw: Any
) -> None:
    yard = redis_yard
    ids = [yard.system.queue.submit(request()).task_id for _ in range(4)]
    life = yard.worker()
    pop(tickets, life, 3)
    in_flight = tickets.in_flight_key(life.page.worker_id)
    yard.system.queue.cancel(ids[1])  # its ticket is worth nothing any more
    yard.dies(life)
    assert yard.burials.bury_all() == 1
    assert raw.lrange("rq:queue:normal", 0, -1) == [f"t{ids[0]}-e1", f"t{ids[2]}-e1", f"t{ids[3]}-e1"]
    assert raw.exists(in_flight) == 0


def test_what_a_worker_settled_to_wait_again_and_never_pushed_gets_its_ticket_at_the_burial(
    redis_yard: Graveyard, sqlite_rows: Rows, tickets: RQQueueManager, raw: Any
) -> None:
    yard = redis_yard
    ids = [yard.system.queue.submit(request()).task_id for _ in range(3)]
    life = yard.worker()
    claims = claim_tickets(yard, tickets, life, 2)
    run(life, 0, RetryLater(claims[0], "no", 0))
    run(life, 1, RetryLater(claims[1], "no", 0))
    settled = yard.system.store.settlements.settle([RetryLater(claim, "no", 0) for claim in claims])
    tickets.push([move.ticket for move in settled.moves if move.ticket and move.task_id == ids[1]])
    yard.dies(life)
    assert yard.burials.bury_all() == 1
    assert raw.lrange("rq:queue:normal", 0, -1) == [f"t{ids[2]}-e1", f"t{ids[1]}-e2", f"t{ids[0]}-e2"]


def test_tickets_of_a_worker_that_died_while_redis_was_away_go_back_once_it_answers(
    sqlite_rows: Rows, private_redis: RedisServer, tmp_path: Path
) -> None:
    yard = make_yard(sqlite_rows, tmp_path, redis_url=private_redis.url)
    tickets = yard.system.tickets
    assert tickets is not None
    task_id = yard.system.queue.submit(request()).task_id
    life = yard.worker()
    worker = life.page.worker_id
    pop(tickets, life, 1)
    yard.dies(life)
    private_redis.stop()
    assert yard.burials.bury_all() == 1
    private_redis.start()
    assert tickets.in_flight(worker) == [(task_id, 1)]
    assert yard.burials.bury_all() == 0
    assert tickets.in_flight(worker) == []
    assert tickets.look(Priority.NORMAL).job_ids == {f"t{task_id}-e1"}
    yard.system.close()
