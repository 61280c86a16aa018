"""Workers of pools, as `scripts/start_workers.py` starts them: whose work they take, how they die and stop.
A test of a feature row begins with its number."""

from __future__ import annotations

import os
import signal
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from app.tasks.model import ENDED, Status, Task
from app.tasks.submission import TaskRequest
from tests.acceptance.conftest import StackMaker
from tests.acceptance.relatives import FAILS_ONCE, HANGS_ONCE, NAMES, told
from tests.acceptance.stack import Stack
from tests.waiting import wait_until
from workers.board import pools

LIMIT = 2
DEADLINE = 90.0
MODULES = "app.handlers,tests.acceptance.relatives,tests.acceptance.misbehaving"


def start_workers(
    stack: Stack, pool: str, *, workers: int, more: tuple[str, ...] = ()
) -> subprocess.Popen[bytes]:
    """`scripts/start_workers.py`, until all of its workers have announced themselves."""
    words = ("--workers", str(workers), "--pool", pool, *more)
    process = stack.start("scripts/start_workers.py", *words, log_name=pool)
    wait_for_workers(stack, pool, workers)
    return process


def wait_for_workers(stack: Stack, pool: str | None, count: int) -> None:
    log = pool or "pool"
    wait_until(
        lambda: len(pids_of(stack, pool)) == count,
        deadline_seconds=DEADLINE,
        what=lambda: f"{count} workers of {pool}, there are {pids_of(stack, pool)}; log:\n{stack.log(log)}",
    )


def pids_of(stack: Stack, pool: str | None) -> set[int]:
    return {row.pid for row in stack.workers() if row.pool == pool}


def ended(stack: Stack, task_id: int, pool: str) -> Task:
    """The task, once it has ended."""

    def look() -> Task | None:
        task = stack.system.store.queries.task(task_id)
        return task if task.status in ENDED else None

    def how() -> str:
        return f"{task_id} to end: {told(stack.ledger_file)[-9:]}; log:\n{stack.log(pool)}"

    found = wait_until(look, deadline_seconds=DEADLINE, what=how)
    assert found is not None
    return found


def pid_that_said(stack: Stack, what: str, name: str) -> int:
    def look() -> list[int]:
        return [pid for pid, *said in told(stack.ledger_file) if said == [what, name]]

    return wait_until(
        look, deadline_seconds=DEADLINE, what=lambda: f"{what} {name}: {told(stack.ledger_file)}"
    )[-1]


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.postgresql
@pytest.mark.timeout(300)
def test_003_06_003_08_and_003_10_a_run_over_two_pools_outlives_the_workers_of_a_child_and_of_the_parent(
    database_url: str, redis_url: str, make_stack: StackMaker
) -> None:
    stack = make_stack(database_url, redis_url, TASK_MODULES=MODULES, RQ_LEASE_SECONDS=600)
    stack.start_pool(workers=2)
    start_workers(stack, "etl", workers=3)
    start_workers(stack, "cleanup", workers=1)
    stack.system.store.pools.limit("etl", LIMIT)
    born = {pool: pids_of(stack, pool) for pool in (None, "etl", "cleanup")}
    request = TaskRequest("relatives.flow", {"path": str(stack.ledger_file)})
    parent = stack.system.queue.submit(request).task_id

    culprit = pid_that_said(stack, "begin", HANGS_ONCE)
    with stack.ledger_file.open("a") as ledger:
        ledger.write(f"0 0 0 killed {HANGS_ONCE}\n")
    os.kill(culprit, signal.SIGKILL)
    os.kill(pid_that_said(stack, "hangs", ""), signal.SIGKILL)
    after = ended(stack, parent, "etl")

    assert (after.status, after.failures) == (Status.COMPLETED, 1)
    assert after.result == {"tables": sorted(NAMES), "last": "last"}
    lines = told(stack.ledger_file)
    begun = Counter(name for _, what, name in lines if what == "begin")
    assert begun == dict.fromkeys([*NAMES, "last"], 1) | {FAILS_ONCE: 2, HANGS_ONCE: 2}
    wait_for_workers(stack, "etl", 3)
    wait_for_workers(stack, None, 2)
    assert culprit not in pids_of(stack, "etl")
    now = {pool: born[pool] | pids_of(stack, pool) for pool in born}
    for pid, what, name in lines:
        pool = None if what in ("parent", "hangs") else "cleanup" if name == "last" else "etl"
        assert pid in now[pool] or what == "killed", (pid, what, name, now)
    running: set[str] = set()
    for _, what, name in lines:
        running = running | {name} if what == "begin" else running - {name}
        assert len(running) <= LIMIT, lines


@pytest.mark.timeout(300)
def test_003_07_a_running_table_finishes_after_sigterm_and_is_requeued_if_ctrl_c_leaves_it_no_time(
    make_stack: StackMaker, tmp_path: Path
) -> None:
    stack = make_stack(f"sqlite:///{tmp_path / 'tasks.db'}", None, RQ_ENABLED=False, TASK_MODULES=MODULES)
    gate = tmp_path / "gate"
    stack.system.store.pools.open("etl")

    def submit(name: str) -> int:
        payload = {"path": str(stack.ledger_file), "gate": str(gate), "name": name}
        return stack.system.queue.submit(TaskRequest("relatives.table", payload, pool="etl")).task_id

    pool = start_workers(stack, "etl", workers=1)
    finished = submit("first")
    pid_that_said(stack, "begin", "first")
    pool.send_signal(signal.SIGTERM)
    wait_until(
        lambda: [one.state for one in pools(stack.folder / "pools", stack.folder / "locks")] == ["stopping"],
        deadline_seconds=DEADLINE,
        what=lambda: f"the stop of the pool; log:\n{stack.log('etl')}",
    )
    gate.touch()
    assert pool.wait(DEADLINE) == 0
    task = stack.system.store.queries.task(finished)
    assert (task.status, task.attempt) == (Status.COMPLETED, 1)

    gate.unlink()
    stack.settings["RQ_SHUTDOWN_TIMEOUT"] = 1
    waits = submit("second")
    pool = start_workers(stack, "etl", workers=1)
    pid_that_said(stack, "begin", "second")
    os.killpg(pool.pid, signal.SIGINT)
    assert pool.wait(DEADLINE) == 0
    task = stack.system.store.queries.task(waits)
    assert (task.status, task.attempt, task.failures) == (Status.QUEUED, 1, 1)
    assert pids_of(stack, "etl") == set(), "nobody left a row of its own"

    gate.touch()
    start_workers(stack, "etl", workers=1)
    assert ended(stack, waits, "etl").attempt == 2


@pytest.mark.timeout(300)
def test_003_11_a_worker_that_takes_more_memory_than_it_may_is_killed_and_replaced(
    make_stack: StackMaker, tmp_path: Path
) -> None:
    stack = make_stack(f"sqlite:///{tmp_path / 'tasks.db'}", None, RQ_ENABLED=False, TASK_MODULES=MODULES)
    start_workers(stack, "etl", workers=1, more=("--memory-mb", "160"))
    greedy = TaskRequest("bad.memory", {"path": str(stack.ledger_file)}, pool="etl", max_retries=0)
    modest = TaskRequest("bad.fine", {"path": str(stack.ledger_file)}, pool="etl")
    first, second = (stack.system.queue.submit(request).task_id for request in (greedy, modest))
    assert ended(stack, first, "etl").error == "used more than 240 MB of memory; no retry is left"
    assert ended(stack, second, "etl").status is Status.COMPLETED
    assert len(stack.pids()) == 2
