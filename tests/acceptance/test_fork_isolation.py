"""isolation="fork": whatever a handler does in its own process, the worker that asked for it goes on."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from app.tasks.model import Status, Submitted, Task
from app.tasks.submission import TaskRequest
from tests.acceptance.conftest import StackMaker
from tests.acceptance.stack import Stack, alive, children_of
from tests.waiting import wait_until

KILLED = "ran longer than its limit of 1 s and was killed; no retry is left"
CULPRITS = {
    "exit": "its process ended with exit code 3; no retry is left",
    "segfault": "its process was killed by SIGSEGV; no retry is left",
    "memory": "used more than 240 MB of memory; no retry is left",
    "c_code": KILLED,
    "family": KILLED,
    "connection": "RuntimeError: a handler with isolation='fork' has no part in its task's transaction",
}


@pytest.fixture
def stack(redis_url: str, make_stack: StackMaker, tmp_path: Path) -> Stack:
    return make_stack(
        f"sqlite:///{tmp_path / 'tasks.db'}",
        redis_url,
        TASK_MODULES="app.handlers,tests.acceptance.misbehaving",
        RQ_LEASE_SECONDS=600,
        RQ_KILL_GRACE=0.5,
        RQ_WORKER_MEMORY_MB=160,
    )


def submit(stack: Stack, how: str, *, payload: dict[str, Any] | None = None, **options: Any) -> int:
    body = {"path": str(stack.ledger_file), "how": how} | (payload or {})
    (answer,) = stack.system.queue.submit_many([TaskRequest("fork.any", body, **options)])
    assert isinstance(answer, Submitted)
    return answer.task_id


def task(stack: Stack, task_id: int) -> Task:
    return stack.system.store.queries.task(task_id)


@pytest.mark.timeout(90)
def test_runs_that_crash_hang_or_eat_memory_leave_their_worker_alone(stack: Stack) -> None:
    culprits = {
        how: submit(stack, how, max_retries=0, timeout_seconds=None if how == "memory" else 1)
        for how in CULPRITS
    }
    good = submit(stack, "good", payload={"size": 900_000})
    stack.start_pool(workers=1)
    (worker,) = {row.pid for row in stack.workers()}
    stack.wait_until_ended(len(CULPRITS) + 1, deadline_seconds=60)
    for how, error in CULPRITS.items():
        after = task(stack, culprits[how])
        assert (after.status, after.failures, after.error) == (Status.FAILED, 1, error)
    after = task(stack, good)
    assert (after.status, after.progress_step, len(after.result["padding"])) == (
        *(Status.COMPLETED, "nearly"),
        900_000,
    )
    assert after.result["pid"] != worker
    assert {row.pid for row in stack.workers()} == {worker}
    left_behind = int(Path(f"{stack.ledger_file}.child").read_text())
    assert not psutil.pid_exists(left_behind) or psutil.Process(left_behind).status() == "zombie"


def test_a_run_in_its_own_process_is_cancelled_by_force_if_it_must_be(stack: Stack) -> None:
    stack.start_pool(workers=1)
    (worker,) = {row.pid for row in stack.workers()}
    running = submit(stack, "c_code")
    wait_until(lambda: stack.starts()[running], deadline_seconds=20, what="the run")
    stack.system.queue.cancel(running)
    stack.wait_until_ended(1, deadline_seconds=20)
    after = task(stack, running)
    assert (after.status, after.error) == (
        Status.CANCELLED,
        "cancelled; it did not stop by itself and was killed",
    )
    assert {row.pid for row in stack.workers()} == {worker}


def test_runs_die_with_their_pool_by_kill_9_and_start_again_with_the_next(stack: Stack) -> None:
    pool = stack.start_pool(workers=1)
    running = submit(stack, "c_code", payload={"once": True})
    wait_until(lambda: stack.starts()[running], deadline_seconds=20, what="the run")
    tree = children_of(pool.pid)
    assert stack.pids() <= {process.pid for process in tree}
    pool.send_signal(signal.SIGKILL)
    pool.wait()
    wait_until(lambda: not alive(tree), deadline_seconds=10, what=f"all to end, left: {alive(tree)}")
    stack.start_pool(workers=1)
    stack.wait_until_ended(1, deadline_seconds=20)
    after = task(stack, running)
    assert (after.status, after.failures, stack.starts()[running]) == (Status.COMPLETED, 1, 2)
