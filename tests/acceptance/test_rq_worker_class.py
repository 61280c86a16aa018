"""`rq worker --worker-class workers.rq_worker.TwintrackWorker`: our tickets in batches, other programs' jobs
by RQ's own path or not at all, and nothing lost."""

from __future__ import annotations

import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from rq import Queue, Worker
from rq.job import Job
from rq.registry import FailedJobRegistry

from app.tasks.model import PRIORITIES, Priority, Status, Submitted
from app.tasks.tickets.rq_format import TicketSerializer
from tests.acceptance.conftest import StackMaker
from tests.acceptance.stack import ROOT, Stack, kill_tree
from tests.servers import MariaDbServer, PostgresServer
from tests.waiting import wait_until
from workers.rq_worker import TwintrackWorker

RQ = str(Path(sys.executable).with_name("rq"))
CLASS = ("--worker-class", "workers.rq_worker.TwintrackWorker")
QUEUES = [priority.value for priority in PRIORITIES]


def start(stack: Stack, *options: str) -> subprocess.Popen[bytes]:
    """The documented command line."""
    stack.settings["PYTHONPATH"] = str(ROOT)
    return stack.start(RQ, "worker", "-c", "app.rq_settings", *CLASS, *options, log_name="rq")


def client(stack: Stack) -> Any:
    assert stack.system.tickets is not None
    return stack.system.tickets.client


def rq_info(stack: Stack) -> list[str]:
    command = [sys.executable, RQ, "info", "--raw", "-u", stack.settings["RQ_REDIS_URL"]]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.splitlines()


def completed(stack: Stack, task_id: int) -> None:
    wait_until(
        lambda: stack.system.store.queries.task(task_id).status is Status.COMPLETED,
        deadline_seconds=60,
        what=lambda: f"the task to end; log:\n{stack.log('rq')}",
    )


def submit(stack: Stack, **options: Any) -> int:
    return stack.system.queue.submit(stack.ledger_request(**options)).task_id


@pytest.mark.timeout(120)
def test_a_burst_works_all_tickets_in_strict_order_and_refuses_the_jobs_of_others_unread(
    mariadb_server: MariaDbServer, redis_url: str, make_stack: StackMaker
) -> None:
    with mariadb_server.database() as database_url:
        stack = make_stack(database_url, redis_url)
        answers = stack.system.queue.submit_many(
            stack.ledger_request(priority=PRIORITIES[number * 7 % 4]) for number in range(200)
        )
        wanted: dict[Priority, list[int]] = {priority: [] for priority in PRIORITIES}
        for answer in answers:
            assert isinstance(answer, Submitted)
            wanted[answer.priority].append(answer.task_id)
        mark = stack.folder / "mark"
        Queue("normal", connection=client(stack)).enqueue("os.mkdir", str(mark), job_id="of-others")

        assert start(stack, "--burst", *QUEUES).wait(60) == 0
        assert stack.counts() == {"COMPLETED": 200}
        assert stack.order_of_starts() == [task_id for priority in PRIORITIES for task_id in wanted[priority]]
        assert stack.lengths() == dict.fromkeys(PRIORITIES, 0)
        assert not mark.exists()
        job = Job.fetch("of-others", connection=client(stack), serializer=TicketSerializer)
        result = job.latest_result()
        assert result is not None
        assert "Refused, and not read" in str(result.exc_string)
        assert FailedJobRegistry("normal", connection=client(stack)).get_job_ids() == ["of-others"]
        lines = rq_info(stack)
        for priority, failed in (("urgent", 0), ("normal", 1)):
            assert f"queue {priority} 0, 0 executing, 50 finished, {failed} failed" in lines
        first = wanted[Priority.URGENT][0]
        done = Job.fetch(f"t{first}-e1", connection=client(stack), serializer=TicketSerializer)
        assert done.return_value() == {"task": first, "status": "COMPLETED"}


@pytest.mark.timeout(120)
def test_a_worker_that_may_runs_the_jobs_of_others_between_its_tickets(
    postgres_server: PostgresServer, redis_url: str, make_stack: StackMaker
) -> None:
    with postgres_server.database() as database_url:
        stack = make_stack(database_url, redis_url, RQ_ALLOW_FOREIGN_JOBS="true")
        process = start(stack, "--name", "mixed", *QUEUES, "reports")
        completed(stack, submit(stack))
        for name in ("low", "reports"):  # one of our queues, and one that is not
            job = Queue(name, connection=client(stack)).enqueue("operator.add", 40, 2)
            answered = partial(job.return_value, refresh=True)
            wait_until(lambda: answered() == 42, deadline_seconds=60, what="the job's result")  # noqa: B023
        slow = submit(stack, seconds=3)
        wait_until(
            lambda: "queue normal 0, 1 executing, 1 finished, 0 failed" in rq_info(stack),
            deadline_seconds=60,
            what=lambda: f"rq info to show the running ticket; log:\n{stack.log('rq')}",
        )
        completed(stack, slow)

        (shown,) = [line for line in rq_info(stack) if line.startswith("worker ")]
        assert shown.startswith("worker mixed (")
        assert [row.state for row in stack.system.workers()] in (["idle"], ["busy"])
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, stack.log("rq")
        assert Worker.all(connection=client(stack)) == []
        assert stack.workers() == []


@pytest.mark.timeout(120)
def test_nothing_is_lost_when_the_worker_is_killed_in_mid_work(
    mariadb_server: MariaDbServer, redis_url: str, make_stack: StackMaker
) -> None:
    with mariadb_server.database() as database_url:
        stack = make_stack(database_url, redis_url, RQ_TICKET_GRACE=1, RQ_LEASE_SECONDS=3)
        for number in range(40):
            submit(stack, priority=PRIORITIES[number % 4], seconds=0.02)
        process = start(stack, *QUEUES)
        wait_until(
            lambda: len(stack.starts()) >= 5,
            deadline_seconds=60,
            what=lambda: f"some tasks to start; log:\n{stack.log('rq')}",
        )
        kill_tree(process)
        assert stack.count(Status.COMPLETED) < 40
        stack.start_pool(workers=1)
        stack.wait_until_ended(40, deadline_seconds=60)
        assert stack.counts() == {"COMPLETED": 40}


@pytest.fixture
def in_process(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Settings for a worker in this process."""
    monkeypatch.setenv("RQ_REDIS_URL", redis_url)
    monkeypatch.setenv("RQ_ALLOW_FOREIGN_JOBS", "true")
    return monkeypatch


def test_a_job_that_was_just_taken_from_one_of_several_queues_is_in_a_list(
    in_process: Any, redis_url: str
) -> None:
    connection = Redis.from_url(redis_url)
    second = Queue("second", connection=connection)
    job = second.enqueue("operator.add", 1, 1)
    taker = TwintrackWorker(["first", "second"], connection=connection)
    assert taker.pop([queue.key for queue in taker.queues], None) == (second.key, job.id)
    assert second.intermediate_queue.get_job_ids() == [job.id]
    assert second.count == 0


def test_a_worker_without_the_setting_does_not_start_on_queues_of_others(
    in_process: Any, redis_url: str
) -> None:
    in_process.setenv("RQ_ALLOW_FOREIGN_JOBS", "false")
    taker = TwintrackWorker(["urgent", "reports"], connection=Redis.from_url(redis_url))
    with pytest.raises(ValueError, match="Not queues of Twintrack: reports"):
        taker.work(burst=True)
