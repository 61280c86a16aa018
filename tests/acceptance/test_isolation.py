"""Handlers that take their process with them: the culprit pays once, its neighbours pay nothing."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from app.tasks.model import Status, Submitted, Task
from app.tasks.submission import TaskRequest
from tests.acceptance.conftest import StackMaker
from tests.acceptance.stack import Stack, alive, children_of
from tests.contract.parts import handler
from tests.servers import RedisServer
from tests.waiting import wait_until

BEFORE, AFTER = 30, 6  # a worker takes one task at a time until it knows that they are short
SETTINGS: dict[str, Any] = {
    "TASK_MODULES": "app.handlers,tests.acceptance.misbehaving",
    "RQ_LEASE_SECONDS": 600,
    "RQ_KILL_GRACE": 0.5,
    "RQ_WORKER_MEMORY_MB": 160,
}
KILLED = "ran longer than its limit of 1 s and was killed"
LATE = "ran longer than its limit of 1 s"
OF_A_WORKER = {
    "bad.exit": "its worker ended with exit code 3",
    "bad.segfault": "its worker was killed by SIGSEGV",
    "bad.memory": "used more than 240 MB of memory",
    "bad.deaf": KILLED,
    "bad.c_code": KILLED,
    "bad.regex": LATE,
}
OF_A_RUN = {
    "fork.exit": "its process ended with exit code 3",
    "fork.segfault": "its process was killed by SIGSEGV",
    "fork.memory": "used more than 240 MB of memory",
    "fork.deaf": KILLED,
    "fork.c_code": KILLED,
    "fork.regex": LATE,
    "fork.connection": "RuntimeError: a handler with isolation='fork' has no part in its task's transaction",
}
CHANGING = """
from app.tasks.handlers import task

@task("changing.version")
def version(payload):
    return {version}
"""


@pytest.fixture
def stack(redis_url: str, make_stack: StackMaker, tmp_path: Path) -> Stack:
    return make_stack(f"sqlite:///{tmp_path / 'tasks.db'}", redis_url, **SETTINGS)


@pytest.fixture(scope="module")
def running(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One installation with a pool of two workers, for tests that leave it as they found it."""
    folder = tmp_path_factory.mktemp("isolation")
    database = f"sqlite:///{folder / 'tasks.db'}"
    stack = Stack(folder / "var", database, redis_server.url, RQ_QUEUE_PREFIX="isolation-", **SETTINGS)
    stack.start_pool(workers=2)
    yield stack
    stack.close()


def bad(stack: Stack, name: str, *, payload: dict[str, Any] | None = None, **options: Any) -> TaskRequest:
    return TaskRequest(name, {"path": str(stack.ledger_file)} | (payload or {}), **options)


def submit(stack: Stack, *requests: TaskRequest) -> list[int]:
    answers = stack.system.queue.submit_many(requests)
    return [answer.task_id for answer in answers if isinstance(answer, Submitted)]


def task(stack: Stack, task_id: int) -> Task:
    return stack.system.store.queries.task(task_id)


def has_started(stack: Stack, task_id: int) -> bool:
    return stack.starts()[task_id] > 0


def wait_for_start(stack: Stack, task_id: int) -> None:
    wait_until(partial(has_started, stack, task_id), deadline_seconds=60, what="the task to start")


def wait_for_ends(stack: Stack, ids: list[int], *, seconds: float = 60) -> None:
    def ended() -> bool:
        return all(task(stack, task_id).ended_at is not None for task_id in ids)

    wait_until(ended, deadline_seconds=seconds, what=f"the tasks {ids} to end")


def worker_pids(stack: Stack) -> set[int]:
    return {row.pid for row in stack.workers()}


def both_workers(stack: Stack) -> set[int]:
    """The pids of the two workers, once those that a test before has killed are replaced."""

    def present() -> bool:
        pids = worker_pids(stack)
        return len(pids) == 2 and all(map(psutil.pid_exists, pids))

    wait_until(present, deadline_seconds=60, what="two workers")
    return worker_pids(stack)


# --- in the worker's process --------------------------------------------------------------------------


@pytest.mark.timeout(120)
def test_handlers_that_take_their_worker_along_pay_alone(running: Stack) -> None:
    fine, requests = bad(running, "bad.fine"), list[TaskRequest]()
    for name in OF_A_WORKER:
        limit = None if name == "bad.memory" else 1
        culprit = bad(running, name, max_retries=0, timeout_seconds=limit)
        requests += [fine] * BEFORE + [culprit] + [fine] * AFTER
    ids = submit(running, *requests)
    wait_for_ends(running, ids)
    for task_id, request in zip(ids, requests, strict=True):
        after = task(running, task_id)
        if request.name == "bad.fine":
            assert (after.status, after.result, after.failures) == (Status.COMPLETED, "fine", 0)
        else:
            assert (after.status, after.failures) == (Status.FAILED, 1)
            assert str(after.error).removesuffix("; no retry is left") == OF_A_WORKER[request.name]
    starts = running.starts()
    assert {starts[task_id] for task_id in ids} == {1}, "a neighbour's result was lost, and it ran again"


def test_a_running_task_that_ignores_its_cancel_is_killed_and_ends_cancelled(running: Stack) -> None:
    culprits = submit(running, bad(running, "bad.deaf"), bad(running, "bad.c_code"))
    for culprit in culprits:
        wait_for_start(running, culprit)
        running.system.queue.cancel(culprit)
    neighbours = submit(running, *[bad(running, "bad.fine")] * AFTER)
    wait_for_ends(running, [*culprits, *neighbours])
    for culprit in culprits:
        after = task(running, culprit)
        assert after.status is Status.CANCELLED
        assert running.starts()[culprit] == 1  # attempts count claims: one given back unstarted is one, too
        assert after.error == "cancelled; it did not stop by itself and was killed"
    assert {task(running, neighbour).status for neighbour in neighbours} == {Status.COMPLETED}


def test_a_killed_worker_is_buried_at_once_and_the_status_had_told_what_it_ran(running: Stack) -> None:
    (culprit,) = submit(running, bad(running, "bad.c_code", payload={"once": True}))
    wait_for_start(running, culprit)
    assert running.start("-m", "workers", "status", "--json", log_name="status").wait(60) == 0
    (pool,) = json.loads((running.folder / "status.log").read_text())["pools"]
    (slot,) = [slot for slot in pool["slots"] if slot["task_id"] == culprit]
    os.kill(slot["pid"], signal.SIGKILL)
    killed_at = time.monotonic()
    wait_until(
        lambda: task(running, culprit).failures == 1, deadline_seconds=10, what="the burial of the worker"
    )
    print(f"buried {1000 * (time.monotonic() - killed_at):.0f} ms after the kill")
    wait_for_ends(running, [culprit])
    assert (task(running, culprit).status, task(running, culprit).failures) == (Status.COMPLETED, 1)


# --- in processes of their own ------------------------------------------------------------------------


@pytest.mark.timeout(120)
def test_runs_that_crash_hang_or_eat_memory_leave_their_worker_alone(running: Stack) -> None:
    workers = both_workers(running)
    requests = [
        bad(running, name, max_retries=0, timeout_seconds=None if name == "fork.memory" else 1)
        for name in OF_A_RUN
    ]
    requests.append(bad(running, "fork.fine", payload={"size": 900_000}))
    *culprits, good = submit(running, *requests)
    wait_for_ends(running, [*culprits, good])
    for culprit, (name, error) in zip(culprits, OF_A_RUN.items(), strict=True):
        after = task(running, culprit)
        assert (name, after.status, after.failures) == (name, Status.FAILED, 1)
        assert str(after.error).removesuffix("; no retry is left") == error
    after = task(running, good)
    assert (after.status, after.progress_step) == (Status.COMPLETED, "nearly")
    assert len(after.result["padding"]) == 900_000
    assert after.result["pid"] not in workers
    assert worker_pids(running) == workers


def test_a_run_that_ignores_its_cancel_is_killed_with_all_that_it_started(running: Stack) -> None:
    workers = both_workers(running)
    (culprit,) = submit(running, bad(running, "fork.family"))
    wait_for_start(running, culprit)
    below = [process for worker in workers for process in children_of(worker)]
    (child,) = [process for process in alive(below) if process.name() == "sleep"]
    running.system.queue.cancel(culprit)
    wait_for_ends(running, [culprit])
    assert task(running, culprit).status is Status.CANCELLED
    wait_until(lambda: not alive([child]), deadline_seconds=60, what="the run's own child to end")
    assert worker_pids(running) == workers


# --- the whole tree -----------------------------------------------------------------------------------


def test_what_had_come_out_when_the_whole_tree_was_killed_is_recorded_and_not_run_again(stack: Stack) -> None:
    fine = bad(stack, "bad.fine")
    ids = submit(stack, *[fine] * BEFORE, bad(stack, "bad.c_code", payload={"once": True}), *[fine] * AFTER)
    culprits = [ids[BEFORE]]
    pool = stack.start_pool(workers=2)
    wait_for_start(stack, culprits[0])
    unsettled = [task_id for task_id in ids[:BEFORE] if task(stack, task_id).status is Status.PROCESSING]
    culprits += submit(stack, bad(stack, "fork.c_code", payload={"once": True}))
    wait_for_start(stack, culprits[1])
    tree = [psutil.Process(pool.pid), *children_of(pool.pid)]
    assert stack.pids() <= {process.pid for process in tree}
    pool.kill()
    pool.wait()
    wait_until(lambda: not alive(tree), deadline_seconds=60, what="the tree to die with its root")
    killed_at = time.monotonic()
    stack.start_pool(workers=2)
    wait_for_ends(stack, [*ids, *culprits])
    print(f"{len(unsettled)} unsettled; all ended {time.monotonic() - killed_at:.1f} s after the kill")
    assert stack.counts() == {"COMPLETED": len(ids) + 1}
    starts = stack.starts()
    for culprit in culprits:
        assert (starts.pop(culprit), task(stack, culprit).failures) == (2, 1)
    assert set(starts.values()) == {1}


def test_a_hangup_replaces_every_worker_by_the_new_code_while_the_pool_goes_on(stack: Stack) -> None:
    def version() -> Any:
        """What `changing.version` gives back now: by the code of whichever worker takes it."""
        ids = submit(stack, TaskRequest("changing.version", {}))
        wait_for_ends(stack, ids)
        return task(stack, ids[0]).result

    module = stack.folder / "changing.py"
    module.write_text(CHANGING.format(version=1))
    stack.settings |= {"TASK_MODULES": "changing", "PYTHONPATH": str(stack.folder)}
    stack.system.handlers.add(handler("changing.version"))
    pool = stack.start_pool(workers=2)
    before = worker_pids(stack)
    assert version() == 1

    module.write_text("this is no Python\n")
    pool.send_signal(signal.SIGHUP)
    wait_until(lambda: "pool.reload_refused" in stack.log("pool"), deadline_seconds=60, what="the refusal")
    assert worker_pids(stack) == before, "code that does not load replaces nobody"

    module.write_text(CHANGING.format(version=2))
    pool.send_signal(signal.SIGHUP)
    wait_until(
        lambda: not before & worker_pids(stack) and len(stack.workers()) == 2,
        deadline_seconds=60,
        what="two new workers",
    )
    assert pool.poll() is None
    assert version() == 2
