"""Processes come and go: what they leave behind, and what becomes of the tasks they held."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path

import httpx
import psutil
import pytest

from app.tasks.model import Status
from app.tasks.store.queries import Filter
from app.tasks.submission import TaskRequest
from tests.acceptance.conftest import StackMaker
from tests.acceptance.stack import Stack, Web, alive, children_of
from tests.server_process import free_port
from tests.waiting import wait_until

TASKS = 24
# The web app as ever, but for its wait for a port: what is judged comes after it.
IMPATIENT = "import web_app; web_app.PORT_WAIT_SECONDS = 1.0; web_app.main()"


@pytest.fixture
def embedded(make_stack: StackMaker, tmp_path: Path) -> Stack:
    """What `make run` gives a new user: embedded Redis, SQLite, integrated workers."""
    return make_stack(f"sqlite:///{tmp_path / 'tasks.db'}", None)


def _tree(web: Web) -> list[psutil.Process]:
    """All its processes, once embedded Redis, pool, workers and sweeper run."""
    wait_until(lambda: len(children_of(web.process.pid)) >= 6, deadline_seconds=60, what="the whole tree")
    return [psutil.Process(web.process.pid), *children_of(web.process.pid)]


@pytest.mark.parametrize(
    ("number", "seconds"), [(signal.SIGKILL, 10), (signal.SIGINT, 20), (signal.SIGTERM, 20)]
)
def test_no_process_outlives_the_web_app_by_whatever_signal_it_ends(
    number: signal.Signals, seconds: float, embedded: Stack
) -> None:
    web = embedded.start_web()
    tree = _tree(web)
    os.kill(web.process.pid, number)
    web.process.wait(seconds)
    wait_until(
        lambda: not alive(tree),
        deadline_seconds=seconds,
        what=lambda: f"all processes to end, left: {alive(tree)}",
    )


def test_a_taken_port_is_one_clear_sentence(embedded: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        process = embedded.start("-c", IMPATIENT, log_name="taken", settings={"PORT": port})
        assert process.wait(60) == 2
    lines = embedded.log("taken").splitlines()
    assert lines[-1] == (
        f"Port {port} is taken by another program: stop it, or choose another with PORT={port + 1}."
    )
    assert len(lines) == 2


def test_a_port_that_is_given_up_in_time_is_taken_over(embedded: Stack) -> None:
    port = free_port()
    other = socket.socket()
    other.bind(("127.0.0.1", port))
    other.listen()
    process = embedded.start("web_app.py", log_name="waits", settings={"PORT": port})
    wait_until(lambda: "is taken" in embedded.log("waits"), deadline_seconds=60, what="the notice")
    other.close()
    web = Web(process, f"http://127.0.0.1:{port}", embedded.folder / "waits.log")
    wait_until(web.answers, deadline_seconds=60, what="the web app on the freed port")


def test_a_terminated_web_app_lets_the_running_task_finish(embedded: Stack) -> None:
    web = embedded.start_web()
    body = {"name": "test.ledger", "payload": {"path": str(embedded.ledger_file), "seconds": 3}}
    httpx.post(f"{web.url}/api/tasks", json=body, timeout=60).raise_for_status()
    wait_until(lambda: embedded.starts(), deadline_seconds=60, what="the task to start")
    web.process.terminate()
    web.process.wait(60)
    assert embedded.counts() == {"COMPLETED": 1}
    assert set(embedded.starts().values()) == {1}
    assert "pool.stopped" in web.output()
    assert "worker.died" not in web.output(), "a stop in order is no death, of the sweeper neither"


@pytest.mark.timeout(120)
def test_tasks_of_a_killed_worker_tree_start_again_before_their_lease_is_over_and_end_once(
    database_url: str, redis_url: str, make_stack: StackMaker
) -> None:
    stack = make_stack(
        database_url, redis_url, RQ_HYBRID_MODE="true", RQ_ROLLOUT_PERCENT=50, RQ_LEASE_SECONDS=600
    )
    pool = stack.start_pool(workers=2)
    stack.system.queue.submit_many(stack.ledger_request(seconds=0.5) for _ in range(TASKS))
    wait_until(lambda: len(stack.starts()) >= 6, deadline_seconds=60, what="some tasks to run")

    tree = [psutil.Process(pool.pid), *children_of(pool.pid)]
    for process in tree:
        process.kill()
    pool.wait()
    killed_at = time.monotonic()
    before = stack.starts()
    running = stack.system.store.queries.page(Filter(status=Status.PROCESSING))
    interrupted = [task.task_id for task in running]
    assert interrupted
    stack.start_pool(workers=2)
    task = stack.system.store.queries.task
    wait_until(
        # one that had ended, and waited only for its settle, is recorded from its worker's page instead
        lambda: all(
            stack.starts()[task_id] > before[task_id] or task(task_id).status is Status.COMPLETED
            for task_id in interrupted
        ),
        deadline_seconds=60,
        what="the interrupted tasks to start again",
    )
    print(f"interrupted tasks started again {time.monotonic() - killed_at:.1f} s after the kill")
    stack.wait_until_ended(TASKS, deadline_seconds=60)
    assert stack.counts() == {"COMPLETED": TASKS}
    assert len(stack.starts()) == TASKS
    assert max(stack.starts().values()) == 2


def test_a_frozen_worker_that_wakes_after_its_lease_records_nothing(
    database_url: str, redis_url: str, make_stack: StackMaker
) -> None:
    stack = make_stack(database_url, redis_url, RQ_LEASE_SECONDS=2)
    pool = stack.start_pool(workers=1)
    frozen_worker = next(row.pid for row in stack.workers())
    task = stack.system.queue.submit(stack.ledger_request(seconds=1)).task_id
    wait_until(lambda: stack.starts()[task] == 1, deadline_seconds=60, what="the first start")
    os.kill(frozen_worker, signal.SIGSTOP)
    stack.start_pool(workers=1)
    stack.wait_until_ended(1, deadline_seconds=60)
    holder = stack.system.store.queries.task(task).holder
    os.kill(frozen_worker, signal.SIGCONT)
    wait_until(
        lambda: "task.result_refused" in stack.log("pool"),
        deadline_seconds=60,
        what=lambda: f"the woken worker's result to be refused; log:\n{stack.log('pool')}",
    )
    after = stack.system.store.queries.task(task)
    assert (after.status, after.attempt, after.holder) == (Status.COMPLETED, 2, holder)
    assert f":{frozen_worker}:" not in str(holder)
    assert pool.poll() is None


def test_a_running_task_that_is_cancelled_never_ends_completed(
    redis_url: str, make_stack: StackMaker, tmp_path: Path
) -> None:
    stack = make_stack(f"sqlite:///{tmp_path / 'tasks.db'}", redis_url)
    stack.start_pool(workers=1)
    task = stack.system.queue.submit(TaskRequest("test.sleep", {"seconds": 30, "steps": 300})).task_id
    queries = stack.system.store.queries
    wait_until(
        lambda: queries.task(task).progress_percent > 0, deadline_seconds=60, what="progress of the task"
    )
    stack.system.queue.cancel(task)
    wait_until(lambda: queries.task(task).status is Status.CANCELLED, deadline_seconds=10, what="the cancel")


def test_a_task_over_its_time_limit_fails_and_its_worker_goes_on(
    redis_url: str, make_stack: StackMaker, tmp_path: Path
) -> None:
    stack = make_stack(f"sqlite:///{tmp_path / 'tasks.db'}", redis_url)
    stack.start_pool(workers=1)
    queue = stack.system.queue
    slow = queue.submit(TaskRequest("test.sleep", {"seconds": 60}, timeout_seconds=1, max_retries=0)).task_id
    next_one = queue.submit(TaskRequest("test.echo", {"still": "here"})).task_id
    stack.wait_until_ended(2, deadline_seconds=60)
    late, after = stack.system.store.queries.task(slow), stack.system.store.queries.task(next_one)
    assert (late.status, late.error) == (Status.FAILED, "ran longer than its limit of 1 s")
    assert (after.status, after.result) == (Status.COMPLETED, {"still": "here"})
    assert len(stack.workers()) == 1
