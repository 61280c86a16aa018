"""Async handlers: many at a time in one worker, each with its own limit, cancel and end."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from app.tasks.model import Status, Submitted, Task
from app.tasks.submission import TaskRequest
from tests.acceptance.conftest import StackMaker
from tests.acceptance.stack import ROOT, Stack, alive, children_of
from tests.acceptance.test_stock_rq import rq_worker
from tests.servers import MariaDbServer
from tests.waiting import wait_until

MODULES = "app.handlers,tests.acceptance.coroutines"
LIMIT = 40


@pytest.fixture
def stack(redis_url: str, make_stack: StackMaker, tmp_path: Path) -> Stack:
    return make_stack(
        f"sqlite:///{tmp_path / 'tasks.db'}",
        redis_url,
        TASK_MODULES=MODULES,
        RQ_ASYNC_CONCURRENCY=LIMIT,
        RQ_KILL_GRACE=0.5,
    )


def submit(stack: Stack, name: str, count: int = 1, *, seconds: float = 30.0, **options: Any) -> list[int]:
    payload = {"path": str(stack.ledger_file), "seconds": seconds, "note": str(stack.folder / "note")}
    request = TaskRequest(f"async.{name}", payload, **options)
    answers = stack.system.queue.submit_many([request] * count)
    return [answer.task_id for answer in answers if isinstance(answer, Submitted)]


def task(stack: Stack, task_id: int) -> Task:
    return stack.system.store.queries.task(task_id)


def wait_until_started(stack: Stack, count: int) -> None:
    wait_until(lambda: stack.starts().total() >= count, deadline_seconds=60, what=f"{count} starts")


def wait_for(stack: Stack, task_id: int, status: Status) -> Task:
    wait_until(lambda: task(stack, task_id).status is status, deadline_seconds=60, what=f"{status}")
    return task(stack, task_id)


def test_many_run_at_a_time_in_one_worker_and_no_more_than_its_limit(
    mariadb_server: MariaDbServer, redis_url: str, make_stack: StackMaker
) -> None:
    with mariadb_server.database() as url:
        stack = make_stack(url, redis_url, TASK_MODULES=MODULES, RQ_ASYNC_CONCURRENCY=LIMIT)
        _many(stack)
        stack.close()


def _many(stack: Stack) -> None:
    ids = submit(stack, "sleep", 200, seconds=0.4)
    plain = [stack.system.queue.submit(stack.ledger_request()).task_id for _ in range(50)]
    stack.start_pool(workers=1)
    stack.wait_until_ended(250, deadline_seconds=60)
    assert stack.counts() == {"COMPLETED": 250}
    inside = [task(stack, task_id).result["inside"] for task_id in ids]
    assert 1 < max(inside) <= LIMIT
    assert sum(inside) / len(inside) > LIMIT / 2, "the loop stood half empty"
    starts = stack.starts()
    assert {starts[task_id] for task_id in [*ids, *plain]} == {1}
    assert len(stack.pids()) == 1
    assert task(stack, ids[0]).progress_step == "asleep"


def test_each_ends_for_itself(stack: Stack) -> None:
    [raising], [late] = submit(stack, "raise"), submit(stack, "sleep", timeout_seconds=1, max_retries=0)
    [odd], [wrong] = (
        submit(stack, "cancels_itself", max_retries=0),
        submit(stack, "connection", max_retries=0),
    )
    [cancelled], [forked] = submit(stack, "tidy"), submit(stack, "forked")
    stack.start_pool(workers=1)
    wait_until_started(stack, 7)
    stack.system.queue.cancel(cancelled)
    stack.wait_until_ended(6, deadline_seconds=60)
    assert task(stack, forked).result == "in a process of its own"
    assert len(stack.pids()) == 2
    assert (task(stack, raising).result, task(stack, raising).failures) == ("the second does not", 1)
    assert task(stack, late).error == "ran longer than its limit of 1 s"
    assert task(stack, odd).error == "CancelledError: CancelledError"
    assert "has no connection" in str(task(stack, wrong).error)
    assert task(stack, cancelled).status is Status.CANCELLED
    assert (stack.folder / "note").read_text() == "tidied up\n"


def test_after_a_kill_all_that_had_started_run_again_with_a_failure_each(stack: Stack) -> None:
    ids, [parked] = submit(stack, "long_first", 10), submit(stack, "park")
    stack.start_pool(workers=1)
    wait_until_started(stack, 11)
    os.kill(stack.workers()[0].pid, signal.SIGKILL)
    stack.wait_until_ended(11, deadline_seconds=30)
    assert {task_id: stack.starts()[task_id] for task_id in ids} == dict.fromkeys(ids, 2)
    ended = [task(stack, task_id) for task_id in ids]
    assert {(one.status, one.failures) for one in ended} == {(Status.COMPLETED, 1)}
    assert (task(stack, parked).status, stack.starts()[parked]) == (Status.FAILED, 1)
    assert "parked" in str(task(stack, parked).error)


def test_a_stopping_worker_lets_short_ones_end_and_gives_long_ones_back(
    redis_url: str, make_stack: StackMaker, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'tasks.db'}"
    stack = make_stack(url, redis_url, TASK_MODULES=MODULES, RQ_SHUTDOWN_TIMEOUT=3)
    short, long = submit(stack, "sleep", 5, seconds=0.8), submit(stack, "sleep", 5)
    [parked], [deaf] = submit(stack, "park"), submit(stack, "deaf", max_retries=0)
    pool = stack.start_pool(workers=1)
    wait_until_started(stack, 12)
    processes = children_of(pool.pid)
    pool.terminate()
    assert pool.wait(20) == 0, stack.log("pool")
    assert alive(processes) == []
    assert {task(stack, task_id).status for task_id in short} == {Status.COMPLETED}
    given_back = [task(stack, task_id) for task_id in long]
    assert {(one.status, one.failures) for one in given_back} == {(Status.DISPATCHED, 0)}
    assert task(stack, parked).status is task(stack, deaf).status is Status.FAILED
    assert "was stopped" in str(task(stack, deaf).error)


def test_one_that_swallows_its_limit_costs_its_neighbours_nothing(stack: Stack) -> None:
    [deaf] = submit(stack, "deaf", timeout_seconds=1, max_retries=0)
    beside = submit(stack, "sleep", 5, seconds=2.5)
    stack.start_pool(workers=1)
    after = wait_for(stack, deaf, Status.FAILED)
    assert "did not stop" in str(after.error)
    stack.wait_until_ended(6, deadline_seconds=60)
    assert {(one.status, one.failures) for one in (task(stack, i) for i in beside)} == {(Status.COMPLETED, 0)}
    [again] = submit(stack, "sleep", seconds=0.1)
    wait_for(stack, again, Status.COMPLETED)
    assert len(stack.pids()) == 2, "another worker has taken its place"


def test_one_that_blocks_the_loop_is_ended_with_its_worker(stack: Stack) -> None:
    [blocking] = submit(stack, "block", timeout_seconds=1, max_retries=0)
    stack.start_pool(workers=1)
    after = wait_for(stack, blocking, Status.FAILED)
    assert after.failures == 1
    assert "longer than its limit of 1 s" in str(after.error)


def test_a_stock_worker_runs_async_handlers_one_by_one(stack: Stack) -> None:
    [raising], [fine] = submit(stack, "raise", max_retries=0), submit(stack, "sleep", seconds=0.1)
    [late] = submit(stack, "sleep", timeout_seconds=1, max_retries=0)
    [cancelled] = submit(stack, "tidy")
    stack.start(*rq_worker(), log_name="rq", settings={"PYTHONPATH": ROOT})
    wait_until_started(stack, 4)
    stack.system.queue.cancel(cancelled)
    stack.wait_until_ended(4, deadline_seconds=60)
    assert task(stack, fine).result == {"inside": 1}
    assert task(stack, raising).error == "ValueError: the first run breaks"
    assert task(stack, late).error == "ran longer than its limit of 1 s"
    assert task(stack, cancelled).status is Status.CANCELLED
    assert (stack.folder / "note").exists()
