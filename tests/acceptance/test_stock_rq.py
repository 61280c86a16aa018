"""Must show A5: RQ's own worker runs our tickets in order, its tools see the truth, and nothing else runs."""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import msgpack
import pytest
from rq.job import Job
from rq.registry import FailedJobRegistry, FinishedJobRegistry

from app.tasks.healing import Sweeper
from app.tasks.model import PRIORITIES, Priority, Status, Submitted
from app.tasks.submission import TaskRequest
from app.tasks.tickets.rq_format import TicketJob, TicketSerializer, pack_call
from tests.acceptance.conftest import StackMaker
from tests.acceptance.stack import Stack
from tests.servers import MariaDbServer, PostgresServer
from tests.waiting import wait_until

TASKS = 500
GUARDS = (
    *("--serializer", "app.tasks.tickets.rq_format.TicketSerializer"),
    *("--job-class", "app.tasks.tickets.rq_format.TicketJob"),
)
QUEUES = [priority.value for priority in PRIORITIES]


def rq_worker(*options: str) -> list[str]:
    """The documented command line."""
    rq = str(Path(sys.executable).with_name("rq"))
    return [rq, "worker", "-c", "app.rq_settings", *GUARDS, *options, *QUEUES]


@pytest.mark.timeout(180)
def test_the_stock_worker_runs_500_mixed_tasks_in_strict_order_and_rqs_tools_see_it(
    mariadb_server: MariaDbServer, redis_url: str, make_stack: StackMaker
) -> None:
    with mariadb_server.database() as database_url:
        stack = make_stack(database_url, redis_url, RQ_TICKET_GRACE=1)
        wanted = _submit_mixed(stack)
        _wait_for_tickets(stack)
        worker = stack.start(*rq_worker("--burst"), log_name="rq")
        stack.wait_until_ended(TASKS, deadline_seconds=150)
        assert worker.wait(60) == 0, stack.log("rq")

        assert stack.counts() == {"COMPLETED": TASKS}
        expected = [task_id for priority in PRIORITIES for task_id in wanted[priority]]
        assert stack.order_of_starts() == expected
        assert stack.lengths() == dict.fromkeys(PRIORITIES, 0)
        _assert_rq_sees(stack, wanted)
        _assert_dashboard_sees(stack, wanted)


def _submit_mixed(stack: Stack) -> dict[Priority, list[int]]:
    ids: dict[Priority, list[int]] = {priority: [] for priority in PRIORITIES}
    answers = stack.system.queue.submit_many(
        stack.ledger_request(priority=PRIORITIES[number * 7 % 4]) for number in range(TASKS)
    )
    for answer in answers:
        assert isinstance(answer, Submitted)
        ids[answer.priority].append(answer.task_id)
    return ids


def _wait_for_tickets(stack: Stack) -> None:
    """A push that met a slow Redis is left to the sweeper, which no worker of ours runs here."""
    sweeper = Sweeper(stack.system.queue, holder="test")
    wait_until(
        lambda: sweeper.full_pass() and sum(stack.lengths().values()) == TASKS,
        deadline_seconds=60,
        what="a ticket for each task",
    )


def _assert_rq_sees(stack: Stack, wanted: dict[Priority, list[int]]) -> None:
    assert stack.system.tickets is not None
    client = stack.system.tickets.client
    for priority, ids in wanted.items():
        registry = FinishedJobRegistry(priority.value, connection=client, serializer=TicketSerializer)
        assert sorted(registry.get_job_ids()) == sorted(f"t{task_id}-e1" for task_id in ids)
        job = TicketJob.fetch(f"t{ids[0]}-e1", connection=client, serializer=TicketSerializer)
        assert job.get_status() == "finished"
        assert job.return_value() == {"task": ids[0], "status": "COMPLETED"}


def _assert_dashboard_sees(stack: Stack, wanted: dict[Priority, list[int]]) -> None:
    web = stack.start_web(RQ_WORKER_MODE="external")
    page = httpx.get(f"{web.url}/admin/rq/dashboard/0/data/queues.json", timeout=60)
    assert page.status_code == 200, page.text[:500]
    finished = {queue["name"]: queue["finished_job_registry_count"] for queue in page.json()["queues"]}
    assert finished == {priority.value: len(ids) for priority, ids in wanted.items()}


Poison = Callable[[Path], dict[str, bytes]]


def _call(function: str, *arguments: object) -> bytes:
    packed: bytes = msgpack.packb([function, None, list(arguments), {}])
    return b"\x01" + packed


POISONS: dict[str, Poison] = {
    "function": lambda mark: {"data": _call("os.system", f"touch {mark}")},
    "function as a value": lambda mark: {
        "data": b"\x02" + msgpack.packb(["os.system", None, [f"touch {mark}"], {}])
    },
    "pickle": lambda mark: {"data": pickle.dumps(("os.system", None, (f"touch {mark}",), {}))},
    "json": lambda mark: {"data": json.dumps(["os.system", None, [f"touch {mark}"], {}]).encode()},
    "success callback": lambda mark: {"data": pack_call(1, 1), "success_callback_name": b"poison.run"},
    "failure callback": lambda mark: {"data": b"\x80", "failure_callback_name": b"poison.run"},
    "stopped callback": lambda mark: {"data": pack_call(1, 1), "stopped_callback_name": b"poison.run"},
}


@pytest.mark.timeout(120)
def test_what_a_job_hash_smuggles_in_runs_neither_in_the_stock_worker_nor_in_ours(
    postgres_server: PostgresServer, redis_url: str, make_stack: StackMaker
) -> None:
    with postgres_server.database() as database_url:
        stack = make_stack(database_url, redis_url)
        marks = stack.folder / "marks"
        marks.mkdir()
        # RQ imports what a callback names: this module leaves a mark when it is only imported.
        (stack.folder / "poison.py").write_text(f"open({str(marks / 'imported')!r}, 'w')\ndef run(*a): ...\n")
        stack.settings["PYTHONPATH"] = str(stack.folder)

        _plant(stack, marks, "stock")
        assert stack.start(*rq_worker("--burst"), log_name="rq").wait(60) == 0
        assert list(marks.iterdir()) == []
        _assert_refused(stack, "stock")

        _plant(stack, marks, "ours")
        stack.start_pool(workers=1)
        after = stack.system.queue.submit(TaskRequest("test.echo", {"good": True}, priority="low"))
        wait_until(
            lambda: stack.system.store.queries.task(after.task_id).status is Status.COMPLETED,
            deadline_seconds=60,
            what="the good task behind the poison",
        )
        assert list(marks.iterdir()) == []
        _assert_refused(stack, "ours")


def _plant(stack: Stack, marks: Path, who: str) -> None:
    assert stack.system.tickets is not None
    client = stack.system.tickets.client
    for number, (name, poison) in enumerate(POISONS.items()):
        job_id = f"poison-{who}-{number}"
        fields: dict[Any, Any] = {"origin": "urgent", "status": "queued"}
        client.hset(f"rq:job:{job_id}", mapping=fields | dict(poison(marks / name.replace(" ", "-"))))
        client.rpush("rq:queue:urgent", job_id)
    client.sadd("rq:queues", "rq:queue:urgent")


def _assert_refused(stack: Stack, who: str) -> None:
    """Nothing waits any more; what could not be read at all is filed as failed."""
    assert stack.system.tickets is not None
    client = stack.system.tickets.client
    assert client.llen("rq:queue:urgent") == 0
    failed = FailedJobRegistry("urgent", connection=client, serializer=TicketSerializer).get_job_ids()
    unreadable = {f"poison-{who}-{number}" for number, name in enumerate(POISONS) if "callback" not in name}
    assert unreadable <= set(failed)
    assert isinstance(Job.fetch(min(unreadable), connection=client, serializer=TicketSerializer), Job)
