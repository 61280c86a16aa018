"""10,000 submissions on callers' own connections, half rolled back, Redis stopped twice."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Column, Engine, Integer, MetaData, Table, create_engine, insert, select

from app.tasks.model import Status
from tests.acceptance.conftest import StackMaker
from tests.acceptance.stack import Stack
from tests.servers import PostgresServer, RedisServer
from tests.waiting import wait_until

TASKS = 10_000
CALLERS = 4
STOPS_AT = (2_000, 6_000)
ORDERS = Table("orders", MetaData(), Column("number", Integer, primary_key=True, autoincrement=False))


@pytest.mark.timeout(300)
def test_committed_is_run_once_and_rolled_back_is_never_seen(
    postgres_server: PostgresServer, private_redis: RedisServer, make_stack: StackMaker
) -> None:
    with postgres_server.database() as database_url:
        stack = make_stack(
            database_url, private_redis.url, RQ_FALLBACK_TIMEOUT=6, RQ_TICKET_GRACE=2, RQ_WORKER_COUNT=2
        )
        engine = create_engine(database_url, pool_size=CALLERS)
        ORDERS.create(engine)
        stack.start_pool(workers=2)

        submitted: dict[int, int] = {}
        with ThreadPoolExecutor(CALLERS) as callers:
            for start in range(0, TASKS, 500):
                if start in STOPS_AT:
                    private_redis.kill9()
                if start - 1000 in STOPS_AT:
                    private_redis.start()
                submitted |= dict(
                    callers.map(lambda number: _order(stack, engine, number), range(start, start + 500))
                )
        committed = {task_id for number, task_id in submitted.items() if number % 2}

        with engine.connect() as connection:
            orders = set(connection.execute(select(ORDERS.c.number)).scalars())
        assert orders == {number for number in range(TASKS) if number % 2}
        stack.wait_until_ended(TASKS // 2, deadline_seconds=200)
        assert stack.counts() == {Status.COMPLETED.value: TASKS // 2}
        starts = stack.starts()
        assert set(starts) == committed
        assert set(starts.values()) == {1}
        wait_until(
            lambda: stack.lengths() == stack.waiting_by_redis(),
            deadline_seconds=60,
            what="the tickets of rolled-back rows to be gone",
        )
        engine.dispose()


def _order(stack: Stack, engine: Engine, number: int) -> tuple[int, int]:
    """A caller's own write and a task in one transaction; even numbers are rolled back."""
    with engine.connect() as connection:
        connection.execute(insert(ORDERS).values(number=number))
        answer = stack.system.queue.submit(stack.ledger_request(), connection=connection)
        if number % 2:
            connection.commit()
        else:
            connection.rollback()
    return number, answer.task_id
