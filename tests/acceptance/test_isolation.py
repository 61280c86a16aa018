"""Handlers that take their worker with them: the culprit pays once, its neighbours pay nothing."""

from __future__ import annotations

import json
import os
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from app.tasks.model import Status, Submitted, Task
from app.tasks.submission import TaskRequest
from tests.acceptance.conftest import StackMaker
from tests.acceptance.stack import Stack, children_of
from tests.contract.parts import handler
from tests.waiting import wait_until

MODULES = "app.handlers,tests.acceptance.misbehaving"
BEFORE, AFTER = 30, 6  # a worker takes one task at a time until it knows that they are short

KILLED = "ran longer than its limit of 1 s and was killed"
CULPRITS = {
    "exit": "its worker ended with exit code 3",
    "segfault": "its worker was killed by SIGSEGV",
    "memory": "used more than 240 MB of memory",
    "deaf": KILLED,
    "c_code": KILLED,
    "regex": "ran longer than its limit of 1 s",
}

CHANGING = """
from app.tasks.handlers import task

@task("changing.version")
def version(payload):
    return {version}
"""


@pytest.fixture
def stack(redis_url: str, make_stack: StackMaker, tmp_path: Path) -> Stack:
    return make_stack(
        f"sqlite:///{tmp_path / 'tasks.db'}",
        redis_url,
        TASK_MODULES=MODULES,
        RQ_LEASE_SECONDS=600,
        RQ_KILL_GRACE=0.5,
        RQ_WORKER_MEMORY_MB=160,
    )


def bad(stack: Stack, name: str, *, payload: dict[str, Any] | None = None, **options: Any) -> TaskRequest:
    return TaskRequest(f"bad.{name}", {"path": str(stack.ledger_file)} | (payload or {}), **options)


def submit(stack: Stack, requests: list[TaskRequest]) -> list[int]:
    answers = stack.system.queue.submit_many(requests)
    return [answer.task_id for answer in answers if isinstance(answer, Submitted)]


def _result(stack: Stack) -> Any:
    """What `changing.version` gives back now: by the code of whichever worker takes it."""
    task_id = stack.system.queue.submit(TaskRequest("changing.version", {})).task_id
    wait_until(
        lambda: task(stack, task_id).status is Status.COMPLETED, deadline_seconds=20, what="the version"
    )
    return task(stack, task_id).result


def _has_started(stack: Stack, task_id: int) -> bool:
    return stack.starts()[task_id] > 0


def task(stack: Stack, task_id: int) -> Task:
    return stack.system.store.queries.task(task_id)


@pytest.mark.timeout(90)
def test_handlers_that_take_their_worker_along_pay_alone(stack: Stack) -> None:
    fine, requests = bad(stack, "fine"), list[TaskRequest]()
    for name in CULPRITS:
        limit = None if name == "memory" else 1
        culprit = bad(stack, name, max_retries=0, timeout_seconds=limit)
        requests += [fine] * BEFORE + [culprit] + [fine] * AFTER
    ids = submit(stack, requests)
    stack.start_pool(workers=1)
    stack.wait_until_ended(len(ids), deadline_seconds=60)
    for task_id, request in zip(ids, requests, strict=True):
        after = task(stack, task_id)
        name = request.name.removeprefix("bad.")
        if name == "fine":
            assert (after.status, after.result, after.failures) == (Status.COMPLETED, "fine", 0)
        else:
            assert (after.status, after.failures) == (Status.FAILED, 1)
            assert str(after.error).removesuffix("; no retry is left") == CULPRITS[name]
    starts = stack.starts()
    assert {starts[task_id] for task_id in ids} == {1}, "a neighbour's result was lost, and it ran again"


def test_what_had_come_out_when_the_whole_tree_was_killed_is_recorded_and_not_run_again(stack: Stack) -> None:
    ids = submit(stack, [*[bad(stack, "fine")] * BEFORE, bad(stack, "c_code", payload={"once": True})])
    ids += submit(stack, [bad(stack, "fine")] * AFTER)
    pool = stack.start_pool(workers=1)
    culprit = ids[BEFORE]
    wait_until(lambda: stack.starts()[culprit], deadline_seconds=20, what="the task that keeps still")
    unsettled = [task_id for task_id in ids[:BEFORE] if task(stack, task_id).status is Status.PROCESSING]
    for process in [psutil.Process(pool.pid), *children_of(pool.pid)]:
        process.kill()
    pool.wait()
    assert unsettled, "the batch had finished tasks"
    killed_at = time.monotonic()
    stack.start_pool(workers=1)
    stack.wait_until_ended(len(ids), deadline_seconds=20)
    print(f"{len(unsettled)} unsettled; all ended {time.monotonic() - killed_at:.1f} s after the kill")
    assert stack.counts() == {"COMPLETED": len(ids)}
    starts = stack.starts()
    assert starts.pop(culprit) == 2
    assert set(starts.values()) == {1}
    assert task(stack, culprit).failures == 1


def test_a_running_task_that_ignores_its_cancel_is_killed_and_ends_cancelled(stack: Stack) -> None:
    deaf, still = submit(stack, [bad(stack, "deaf"), bad(stack, "c_code")])
    stack.start_pool(workers=2)
    for culprit in (deaf, still):
        wait_until(partial(_has_started, stack, culprit), deadline_seconds=20, what="the task to run")
        stack.system.queue.cancel(culprit)
    neighbours = submit(stack, [bad(stack, "fine")] * AFTER)
    stack.wait_until_ended(2 + AFTER, deadline_seconds=20)
    for culprit in (deaf, still):
        after = task(stack, culprit)
        assert (after.status, after.attempt) == (Status.CANCELLED, 1)
        assert after.error == "cancelled; it did not stop by itself and was killed"
    assert {task(stack, neighbour).status for neighbour in neighbours} == {Status.COMPLETED}
    assert set(stack.starts().values()) == {1}


def test_a_killed_worker_is_buried_within_the_blink_of_an_eye(stack: Stack) -> None:
    stack.start_pool(workers=1)
    running = submit(stack, [bad(stack, "c_code", payload={"once": True})])[0]
    wait_until(lambda: stack.starts()[running], deadline_seconds=20, what="the task to run")
    worker = next(row.pid for row in stack.workers())
    assert stack.start("-m", "workers", "status", "--json", log_name="status").wait(30) == 0
    (pool,) = json.loads((stack.folder / "status.log").read_text())["pools"]
    slots = {slot["name"]: slot for slot in pool["slots"]}
    assert (slots["redis-1"]["pid"], slots["redis-1"]["task_id"]) == (worker, running)
    os.kill(worker, signal.SIGKILL)
    killed_at = time.monotonic()
    wait_until(
        lambda: task(stack, running).status is not Status.PROCESSING, deadline_seconds=10, what="the burial"
    )
    print(f"buried {1000 * (time.monotonic() - killed_at):.0f} ms after the kill")
    stack.wait_until_ended(1, deadline_seconds=10)
    assert (task(stack, running).status, task(stack, running).failures) == (Status.COMPLETED, 1)


def test_a_hangup_replaces_every_worker_by_the_new_code_while_the_pool_goes_on(stack: Stack) -> None:
    module = stack.folder / "changing.py"
    module.write_text(CHANGING.format(version=1))
    stack.settings |= {"TASK_MODULES": "changing", "PYTHONPATH": str(stack.folder)}
    stack.system.handlers.add(handler("changing.version"))
    pool = stack.start_pool(workers=2)
    before = {row.pid for row in stack.workers()}
    assert _result(stack) == 1

    module.write_text("this is no Python\n")
    pool.send_signal(signal.SIGHUP)
    wait_until(lambda: "pool.reload_refused" in stack.log("pool"), deadline_seconds=30, what="the refusal")
    assert {row.pid for row in stack.workers()} == before, "code that does not load replaces nobody"

    module.write_text(CHANGING.format(version=2))
    pool.send_signal(signal.SIGHUP)
    wait_until(
        lambda: not before & {row.pid for row in stack.workers()} and len(stack.workers()) == 2,
        deadline_seconds=40,
        what=f"two new workers; log:\n{stack.log('pool')}",
    )
    assert pool.poll() is None
    assert _result(stack) == 2
