"""Must show A6: strict priority under load, on both tracks."""

from __future__ import annotations

import pytest

from app.tasks.model import Submitted
from tests.acceptance.conftest import StackMaker
from tests.servers import MariaDbServer
from tests.waiting import wait_until

WAITING = 2000


@pytest.mark.timeout(120)
@pytest.mark.parametrize("mode", ["redis", "database"])
def test_with_2000_low_tasks_waiting_an_urgent_task_starts_next(
    mode: str, mariadb_server: MariaDbServer, redis_url: str, make_stack: StackMaker
) -> None:
    with mariadb_server.database() as database_url:
        stack = make_stack(database_url, redis_url, RQ_ENABLED="true" if mode == "redis" else "false")
        queue = stack.system.queue
        low = [
            answer.task_id
            for answer in queue.submit_many(
                stack.ledger_request(priority="low", seconds=0.05) for _ in range(WAITING)
            )
            if isinstance(answer, Submitted)
        ]
        stack.start_pool(workers=2)
        wait_until(lambda: len(stack.starts()) >= 20, deadline_seconds=60, what="the load to run")

        urgent = queue.submit(stack.ledger_request(priority="urgent")).task_id
        started_by_then = len(stack.order_of_starts())
        wait_until(lambda: urgent in stack.starts(), deadline_seconds=60, what="the urgent task to start")
        order = stack.order_of_starts()
        # Each of the two workers may have claimed one more low task before the urgent one was accepted.
        assert order.index(urgent) <= started_by_then + 2
        # A row that somebody holds for a moment is passed over: neighbours may swap, no more. Each worker is
        # judged by its own order: one that stalls lets the other run ahead.
        for own in stack.orders_of_starts().values():
            places = [low.index(task_id) for task_id in own if task_id != urgent]
            in_order = sorted(places)
            assert all(abs(in_order.index(place) - at) <= 2 for at, place in enumerate(places))
