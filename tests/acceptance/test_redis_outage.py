"""Must show A3, A7: Redis dies in the middle of submissions; nothing is lost, and it is used again."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from app.tasks.model import PRIORITIES, Status
from tests.acceptance.conftest import StackMaker
from tests.acceptance.stack import Stack
from tests.servers import MariaDbServer, RedisServer
from tests.waiting import wait_until

CLIENTS = 8
TASKS = 1000
KILL_AFTER = 300
FALLBACK_SECONDS = 5
GRACE_SECONDS = 2


@pytest.mark.timeout(240)
def test_submissions_while_redis_is_killed_are_all_accepted_and_end_once(
    mariadb_server: MariaDbServer,
    private_redis: RedisServer,
    make_stack: StackMaker,
    record_property: Callable[[str, object], None],
) -> None:
    with mariadb_server.database() as database_url:
        stack = make_stack(
            database_url,
            private_redis.url,
            RQ_FALLBACK_TIMEOUT=FALLBACK_SECONDS,
            RQ_TICKET_GRACE=GRACE_SECONDS,
        )
        web = stack.start_web()
        statuses, killed_at = _submit_while_killing(stack, web.url, private_redis)
        assert statuses == {202: TASKS}

        wait_until(
            lambda: stack.count(Status.DISPATCHED) == 0 and _fallback_active(web.url),
            deadline_seconds=FALLBACK_SECONDS + 10,
            what="the pollers to take over",
        )
        seconds = time.monotonic() - killed_at
        record_property("takeover_seconds", round(seconds, 1))
        print(f"pollers took over {seconds:.1f} s after the kill; the setting allows {FALLBACK_SECONDS} s")

        stack.wait_until_ended(TASKS, deadline_seconds=90)
        assert stack.counts() == {"COMPLETED": TASKS}
        assert set(stack.starts().values()) == {1}
        assert len(stack.starts()) == TASKS

        private_redis.start()
        wait_until(lambda: not _fallback_active(web.url), deadline_seconds=60, what="the return to Redis")
        answer = httpx.post(f"{web.url}/api/tasks", json=_task(stack, 0), timeout=60).json()
        assert answer["status"] == "DISPATCHED"
        stack.wait_until_ended(TASKS + 1, deadline_seconds=60)
        assert stack.lengths() == dict.fromkeys(PRIORITIES, 0)


def _submit_while_killing(stack: Stack, url: str, redis: RedisServer) -> tuple[dict[int, int], float]:
    statuses: dict[int, int] = {}
    killed_at = 0.0
    with httpx.Client(timeout=60) as client, ThreadPoolExecutor(CLIENTS) as clients:
        answers = clients.map(
            lambda number: client.post(f"{url}/api/tasks", json=_task(stack, number)).status_code,
            range(TASKS),
        )
        for number, status in enumerate(answers):
            statuses[status] = statuses.get(status, 0) + 1
            if number == KILL_AFTER:
                killed_at = time.monotonic()
                redis.kill9()
    return statuses, killed_at


def _task(stack: Stack, number: int) -> dict[str, object]:
    return {
        "name": "test.ledger",
        "payload": {"path": str(stack.ledger_file)},
        "priority": PRIORITIES[number % 4].value,
    }


def _fallback_active(url: str) -> bool:
    return bool(httpx.get(f"{url}/admin/rq/health", timeout=60).json()["fallback_active"])


@pytest.mark.timeout(120)
def test_after_redis_lost_all_data_the_queues_tell_the_truth_within_a_sweeper_pass(
    mariadb_server: MariaDbServer, private_redis: RedisServer, make_stack: StackMaker
) -> None:
    with mariadb_server.database() as database_url:
        stack = make_stack(database_url, private_redis.url, RQ_TICKET_GRACE=1)
        stack.system.queue.pause()  # tasks wait, so that their tickets can be counted
        stack.system.queue.submit_many(
            stack.ledger_request(priority=PRIORITIES[number % 4]) for number in range(400)
        )
        stack.start_pool(workers=2)
        assert stack.lengths() == dict.fromkeys(PRIORITIES, 100)
        private_redis.client().flushall()
        stack.system.queue.resume()
        stack.wait_until_ended(400, deadline_seconds=60)
        assert set(stack.starts().values()) == {1}
        wait_until(
            lambda: stack.lengths() == stack.waiting_by_redis(),
            deadline_seconds=10,
            what="LLEN to equal the DISPATCHED rows",
        )
