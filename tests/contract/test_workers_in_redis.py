"""Our workers and their long runs on RQ's own lists, read by RQ's own classes."""

from __future__ import annotations

from typing import Any

import pytest
from rq import Queue, Worker
from rq.job import Job, JobStatus
from rq.registry import FailedJobRegistry, StartedJobRegistry

from app.tasks.model import PRIORITIES, Claim, Priority, Ticket, Track
from app.tasks.runner import LiveTask
from app.tasks.store import Store
from app.tasks.tickets import RQQueueManager
from app.tasks.tickets.manager import Ended
from app.tasks.tickets.rq_format import TicketJob, TicketSerializer
from app.tasks.tickets.worker_registry import ABANDONED_SECONDS, DEAD_SECONDS
from tests.clocks import Clock
from workers.presence import IDLE_BEAT_SECONDS, LISTED_AFTER_SECONDS, RUN_BEAT_SECONDS, WorkerPresence

WORKER = "here:1:abc"
LONG = LISTED_AFTER_SECONDS + 1


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def presence(tickets: RQQueueManager, clock: Clock) -> WorkerPresence:
    return WorkerPresence(
        tickets, worker_id=WORKER, priorities=PRIORITIES, counts=lambda: (7, 2), clock=clock
    )


def running(store: Store, tickets: RQQueueManager, clock: Clock, task_id: int = 5) -> LiveTask:
    """A ticket that this worker took and runs, since just now."""
    tickets.push([Ticket(task_id, 1, Priority.LOW, "test.noop", 60)])
    tickets.take(WORKER, PRIORITIES, 1)
    claim = Claim(task_id, "test.noop", "{}", Priority.LOW, 1, 1, 1, 0, Track.REDIS)
    live = LiveTask(claim, store, lease_ends=clock.now + 60)
    live.started = clock.now
    return live


def started(tickets: RQQueueManager) -> StartedJobRegistry:
    queue = Queue("low", connection=tickets.client, serializer=TicketSerializer, job_class=TicketJob)
    return StartedJobRegistry(queue=queue)


def job(tickets: RQQueueManager, job_id: str = "t5-e1") -> Job:
    return Job.fetch(job_id, connection=tickets.client, serializer=TicketSerializer)


def calls(raw: Any) -> int:
    """Commands of the scripts' own, so far."""
    stats = raw.info("commandstats")
    return sum(int(stat["calls"]) for name, stat in stats.items() if "info" not in name)


def test_rq_lists_an_idle_worker_with_its_queues_and_counts(
    tickets: RQQueueManager, presence: WorkerPresence, raw: Any
) -> None:
    presence.beat(None, busy=False)
    (worker,) = Worker.all(connection=tickets.client)
    assert (worker.name, worker.get_state(), worker.queue_names()) == (WORKER, "idle", list(PRIORITIES))
    assert (worker.successful_job_count, worker.failed_job_count) == (7, 2)
    assert worker.pid
    assert worker.hostname
    assert len(Worker.all(queue=Queue("urgent", connection=tickets.client))) == 1
    assert 0 < raw.ttl(f"rq:worker:{WORKER}") <= DEAD_SECONDS
    assert tickets.workers.stock() == []


def test_an_idle_worker_costs_three_commands_a_minute(
    presence: WorkerPresence, clock: Clock, raw: Any
) -> None:
    presence.beat(None, busy=False)
    presence.beat(None, busy=False)
    before = calls(raw)
    for _ in range(60):
        clock.now += IDLE_BEAT_SECONDS / 60
        presence.beat(None, busy=False)
    assert calls(raw) - before == 3


def test_short_tasks_cost_nothing(
    sqlite_store: Store, tickets: RQQueueManager, presence: WorkerPresence, clock: Clock, raw: Any
) -> None:
    presence.beat(None, busy=False)
    live = running(sqlite_store, tickets, clock)
    before = calls(raw)
    clock.now += LISTED_AFTER_SECONDS / 2
    presence.beat(live, busy=True)
    assert calls(raw) == before
    assert started(tickets).get_job_ids() == []


def test_a_long_run_is_listed_until_it_ends(
    sqlite_store: Store, tickets: RQQueueManager, presence: WorkerPresence, clock: Clock, raw: Any
) -> None:
    live = running(sqlite_store, tickets, clock)
    clock.now += LONG
    presence.beat(live, busy=True)
    assert started(tickets).get_job_ids() == ["t5-e1"]
    assert job(tickets).get_status() is JobStatus.STARTED
    assert job(tickets).worker_name == WORKER
    (execution,) = job(tickets).get_executions()
    assert (execution.job_id, execution.worker_name) == ("t5-e1", WORKER)
    (worker,) = Worker.all(connection=tickets.client, serializer=TicketSerializer)
    assert (worker.get_state(), worker.get_current_job_id()) == ("busy", "t5-e1")

    tickets.finish(WORKER, [Ended("t5-e1", Priority.LOW, True)])
    assert started(tickets).get_job_ids() == []
    assert job(tickets).get_executions() == []
    assert job(tickets).get_status() is JobStatus.FINISHED
    presence.beat(None, busy=False)
    (worker,) = Worker.all(connection=tickets.client, serializer=TicketSerializer)
    assert (worker.get_state(), worker.get_current_job_id()) == ("idle", None)
    assert raw.keys("rq:execution*") == []


def test_a_run_that_goes_on_is_renewed_before_rq_calls_it_abandoned(
    sqlite_store: Store, tickets: RQQueueManager, presence: WorkerPresence, clock: Clock, raw: Any
) -> None:
    assert RUN_BEAT_SECONDS < ABANDONED_SECONDS / 2
    now = [raw.time()[0] * 1.0]
    tickets.database_clock = lambda: now[0]
    live = running(sqlite_store, tickets, clock)
    for _ in range(5):
        clock.now += RUN_BEAT_SECONDS
        now[0] += RUN_BEAT_SECONDS
        presence.beat(live, busy=True)
        ((_, expires),) = raw.zrange("rq:wip:low", 0, -1, withscores=True)
        assert expires == int(now[0]) + ABANDONED_SECONDS


def test_a_run_that_ended_meanwhile_is_not_listed_any_more(
    sqlite_store: Store, tickets: RQQueueManager, presence: WorkerPresence, clock: Clock
) -> None:
    live = running(sqlite_store, tickets, clock)
    tickets.finish(WORKER, [Ended("t5-e1", Priority.LOW, True)])
    clock.now += LONG
    presence.beat(live, busy=True)
    assert started(tickets).get_job_ids() == []
    assert job(tickets).get_status() is JobStatus.FINISHED


def test_what_rq_files_as_abandoned_while_it_runs_is_finished_in_the_end(
    sqlite_store: Store, tickets: RQQueueManager, presence: WorkerPresence, clock: Clock
) -> None:
    live = running(sqlite_store, tickets, clock)
    clock.now += LONG
    presence.beat(live, busy=True)
    registry = started(tickets)
    registry.cleanup(timestamp=2**40)
    assert job(tickets).get_status() is JobStatus.FAILED
    tickets.finish(WORKER, [Ended("t5-e1", Priority.LOW, True)])
    queue = registry.get_queue()  # type: ignore[no-untyped-call]
    assert FailedJobRegistry(queue=queue).get_job_ids() == []
    assert job(tickets).return_value() == {"task": 5, "status": "COMPLETED"}


def test_a_worker_that_leaves_is_listed_no_more(
    tickets: RQQueueManager, presence: WorkerPresence, raw: Any
) -> None:
    presence.beat(None, busy=False)
    presence.leave()
    assert Worker.all(connection=tickets.client) == []
    assert raw.keys("rq:worker*") == []


def test_a_redis_that_lost_its_data_lists_the_worker_again(
    tickets: RQQueueManager, presence: WorkerPresence, clock: Clock, raw: Any
) -> None:
    presence.beat(None, busy=False)
    raw.flushall()
    clock.now += IDLE_BEAT_SECONDS
    presence.beat(None, busy=False)
    assert [worker.name for worker in Worker.all(connection=tickets.client)] == [WORKER]
