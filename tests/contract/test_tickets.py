"""The queues in a real Redis: order, hand-over, ends, looks; and what RQ itself reads of them."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from rq import Queue
from rq.job import Job, JobStatus
from rq.job_lifecycle import record_job_failure
from rq.registry import FailedJobRegistry, FinishedJobRegistry
from rq.results import Result

from app.tasks.model import PRIORITIES, Priority, Ticket, Track
from app.tasks.tickets import RQQueueManager
from app.tasks.tickets.bells import BOUND, Rung
from app.tasks.tickets.manager import KEEP_SECONDS, KEPT_ENTRIES, Ended
from app.tasks.tickets.rq_format import TicketJob, TicketSerializer

WORKER = "here:1"
IN_FLIGHT = f"twintrack:inflight:{WORKER}"


def ticket(task_id: int, priority: Priority = Priority.NORMAL, **options: Any) -> Ticket:
    return Ticket(task_id, options.pop("epoch", 1), priority, "test.noop", **options)


def several(first: int, count: int, priority: Priority = Priority.NORMAL) -> list[Ticket]:
    return [ticket(task_id, priority) for task_id in range(first, first + count)]


def job_ids(tickets: list[Ticket]) -> list[str]:
    return [one.job_id for one in tickets]


def queue_list(raw: Any, priority: str = "normal") -> list[str]:
    return list(raw.lrange(f"rq:queue:{priority}", 0, -1))


# --- push and take --------------------------------------------------------------------------------


def test_tickets_are_taken_in_the_order_in_which_they_were_pushed(tickets: RQQueueManager) -> None:
    tickets.push(several(1, 3))
    tickets.push(several(4, 1200))
    taken = [one.reference for _ in range(13) for one in tickets.take(WORKER, PRIORITIES, 100)]
    assert taken == [(task_id, 1) for task_id in range(1, 1204)]


def test_queues_are_served_in_strict_order_of_priority(tickets: RQQueueManager) -> None:
    for priority in reversed(PRIORITIES):
        tickets.push(several(10 * priority.rank + 1, 2, priority))
    taken = tickets.take(WORKER, PRIORITIES, 5)
    assert [(one.reference, one.priority) for one in taken] == [
        ((1, 1), Priority.URGENT),
        ((2, 1), Priority.URGENT),
        ((11, 1), Priority.HIGH),
        ((12, 1), Priority.HIGH),
        ((21, 1), Priority.NORMAL),
    ]


def test_a_worker_takes_only_from_the_queues_that_it_names(tickets: RQQueueManager) -> None:
    tickets.push([ticket(1, Priority.URGENT), ticket(2, Priority.LOW)])
    taken = tickets.take(WORKER, [Priority.LOW], 5)
    assert [one.reference for one in taken] == [(2, 1)]
    assert tickets.lengths() == {**dict.fromkeys(PRIORITIES, 0), Priority.URGENT: 1}


def test_an_empty_queue_gives_nothing(tickets: RQQueueManager) -> None:
    assert tickets.take(WORKER, PRIORITIES, 5) == []


def test_what_is_taken_is_in_flight_and_in_no_queue(tickets: RQQueueManager, raw: Any) -> None:
    tickets.push(several(1, 3))
    tickets.take(WORKER, PRIORITIES, 2)
    assert raw.lrange(IN_FLIGHT, 0, -1) == ["t1-e1", "t2-e1"]
    assert queue_list(raw) == ["t3-e1"]


def test_two_workers_never_take_the_same_ticket(tickets: RQQueueManager) -> None:
    tickets.push(several(1, 9))
    one, two = tickets.take("w1", PRIORITIES, 5), tickets.take("w2", PRIORITIES, 5)
    assert {taken.reference for taken in one}.isdisjoint(taken.reference for taken in two)
    assert len(one) + len(two) == 9


def test_an_id_that_is_not_ours_is_taken_without_a_reference(tickets: RQQueueManager, raw: Any) -> None:
    raw.rpush("rq:queue:normal", "somebody-elses-job", b"\xff\xfe", "t1-e1")
    taken = tickets.take(WORKER, PRIORITIES, 5)
    assert [one.reference for one in taken] == [None, None, (1, 1)]


def test_a_prefix_keeps_two_installations_apart(tickets: RQQueueManager, raw: Any) -> None:
    other = RQQueueManager(tickets.client, prefix="blue_")
    other.push([ticket(1)])
    tickets.push([ticket(2)])
    assert queue_list(raw, "blue_normal") == ["t1-e1"]
    assert other.queue_key(Priority.NORMAL) == "rq:queue:blue_normal"
    assert [one.reference for one in tickets.take(WORKER, PRIORITIES, 5)] == [(2, 1)]
    assert other.look(Priority.NORMAL).incarnation != tickets.look(Priority.NORMAL).incarnation


def test_tickets_can_be_pushed_before_all_others_in_their_own_order(
    tickets: RQQueueManager, raw: Any
) -> None:
    tickets.push(several(5000, 2))
    tickets.push(several(1, 1200), front=True)
    assert queue_list(raw) == job_ids(several(1, 1200) + several(5000, 2))


# --- giving back ----------------------------------------------------------------------------------


def test_tickets_that_are_given_back_stand_at_the_head_in_their_old_order(
    tickets: RQQueueManager, raw: Any
) -> None:
    tickets.push([*several(1, 2, Priority.HIGH), *several(11, 5)])
    taken = tickets.take(WORKER, PRIORITIES, 5)
    tickets.give_back(WORKER, taken)
    assert queue_list(raw, "high") == ["t1-e1", "t2-e1"]
    assert queue_list(raw) == job_ids(several(11, 5))
    assert raw.exists(IN_FLIGHT) == 0


def test_a_part_can_be_given_back(tickets: RQQueueManager, raw: Any) -> None:
    tickets.push(several(1, 4))
    taken = tickets.take(WORKER, PRIORITIES, 3)
    tickets.give_back(WORKER, taken[1:])
    assert queue_list(raw) == ["t2-e1", "t3-e1", "t4-e1"]
    assert raw.lrange(IN_FLIGHT, 0, -1) == ["t1-e1"]


# --- ends -----------------------------------------------------------------------------------------


def finish_one(tickets: RQQueueManager, task_id: int, *, ok: bool | None) -> None:
    tickets.push([ticket(task_id)])
    (taken,) = tickets.take(WORKER, PRIORITIES, 1)
    tickets.finish(WORKER, [Ended(taken.job_id, taken.priority, ok)])


@pytest.mark.parametrize(("ok", "word"), [(True, "finished"), (False, "failed")])
def test_an_ended_ticket_is_filed_where_rqs_tools_look_and_expires(
    ok: bool, word: str, tickets: RQQueueManager, raw: Any
) -> None:
    finish_one(tickets, 7, ok=ok)
    assert raw.exists(IN_FLIGHT) == 0
    assert raw.hget("rq:job:t7-e1", "status") == word
    assert 0 < raw.ttl("rq:job:t7-e1") <= KEEP_SECONDS
    assert raw.zrange(f"rq:{word}:normal", 0, -1) == ["t7-e1"]


def test_a_worthless_ticket_leaves_no_trace(tickets: RQQueueManager, raw: Any) -> None:
    finish_one(tickets, 7, ok=None)
    assert set(raw.keys("*")) <= {"rq:queues", "twintrack:bell:normal"}


def test_the_registry_keeps_the_last_thousand_and_their_hashes(tickets: RQQueueManager, raw: Any) -> None:
    total = KEPT_ENTRIES + 30
    tickets.push(several(10_001, total))
    now = [1_800_000_000.0]
    tickets.database_clock = lambda: now[0]
    for _ in range(5):
        now[0] += 1
        taken = tickets.take(WORKER, PRIORITIES, total // 5)
        tickets.finish(WORKER, [Ended(one.job_id, one.priority, True) for one in taken])
    kept = raw.zrange("rq:finished:normal", 0, -1)
    assert set(kept) == {f"t{n}-e1" for n in range(10_031, 10_001 + total)}
    assert len(raw.keys("rq:job:*")) == KEPT_ENTRIES


def test_an_end_of_a_ticket_that_is_not_there_files_nothing(tickets: RQQueueManager, raw: Any) -> None:
    tickets.finish(WORKER, [Ended("t9-e1", Priority.NORMAL, True)])
    assert raw.keys("*") == []


# --- withdrawing ----------------------------------------------------------------------------------


def test_withdrawn_tickets_leave_their_queue_wherever_they_stand(tickets: RQQueueManager, raw: Any) -> None:
    tickets.push(several(1, 5))
    assert tickets.remove(Priority.NORMAL, ["t2-e1", "t5-e1", "t77-e1"]) == 2
    assert queue_list(raw) == ["t1-e1", "t3-e1", "t4-e1"]
    assert sorted(raw.keys("rq:job:*")) == ["rq:job:t1-e1", "rq:job:t3-e1", "rq:job:t4-e1"]
    assert tickets.remove(Priority.NORMAL, []) == 0


def test_a_doubled_ticket_is_withdrawn_whole(tickets: RQQueueManager, raw: Any) -> None:
    tickets.push([ticket(1), ticket(2)])
    tickets.push([ticket(1)])
    tickets.remove(Priority.NORMAL, ["t1-e1"])
    assert queue_list(raw) == ["t2-e1"]


def test_a_ticket_that_somebody_has_taken_is_not_withdrawn_from_under_him(
    tickets: RQQueueManager, raw: Any
) -> None:
    tickets.push([ticket(1)])
    (taken,) = tickets.take(WORKER, PRIORITIES, 1)
    assert tickets.remove(Priority.NORMAL, ["t1-e1"]) == 0
    tickets.finish(WORKER, [Ended(taken.job_id, taken.priority, True)])
    assert raw.zrange("rq:finished:normal", 0, -1) == ["t1-e1"]


def test_clearing_a_queue_takes_all_its_tickets_and_no_others(tickets: RQQueueManager, raw: Any) -> None:
    tickets.push([*several(1, 2500), ticket(9000, Priority.LOW)])
    assert tickets.clear(Priority.NORMAL) == 2500
    assert queue_list(raw) == []
    assert raw.keys("rq:job:*") == ["rq:job:t9000-e1"]


def test_a_worker_that_leaves_takes_its_in_flight_list_along(tickets: RQQueueManager, raw: Any) -> None:
    tickets.push([ticket(1)])
    tickets.take(WORKER, PRIORITIES, 1)
    tickets.leave(WORKER)
    assert raw.exists(IN_FLIGHT) == 0


# --- the bell -------------------------------------------------------------------------------------


def test_a_push_rings_once_per_ticket_up_to_a_bound(tickets: RQQueueManager, raw: Any) -> None:
    tickets.push(several(1, 3))
    assert raw.llen("twintrack:bell:normal") == 3
    tickets.push(several(4, 500))
    assert raw.llen("twintrack:bell:normal") == BOUND


def test_the_bell_wakes_whoever_waits_for_one_of_its_queues(tickets: RQQueueManager) -> None:
    bells = [tickets.bells.of(Track.REDIS, priority) for priority in PRIORITIES]
    assert tickets.bells.wait(bells, seconds=0.05) is None
    tickets.push([ticket(1, Priority.LOW)])
    assert tickets.bells.wait([bells[0]], seconds=0.05) is None
    assert tickets.bells.wait(bells, seconds=5) is Rung.TICKETS


# --- looking --------------------------------------------------------------------------------------


def test_a_look_sees_the_queues_own_list_and_not_what_is_in_flight(tickets: RQQueueManager) -> None:
    tickets.push(several(1, 4))
    tickets.take(WORKER, PRIORITIES, 1)
    look = tickets.look(Priority.NORMAL)
    assert look.length == 3
    assert look.job_ids == {"t2-e1", "t3-e1", "t4-e1"}
    assert tickets.look(Priority.NORMAL, last=1).job_ids == {"t2-e1", "t3-e1"}
    assert tickets.look(Priority.NORMAL, first=2, last=9).job_ids == {"t4-e1"}


def test_a_look_tells_when_the_head_was_pushed_by_the_databases_clock(tickets: RQQueueManager) -> None:
    now = [5000.25]
    tickets.database_clock = lambda: now[0]
    assert tickets.look(Priority.NORMAL).head_pushed_at is None
    tickets.push([ticket(1)])
    now[0] = 6000.5
    tickets.push([ticket(2)])
    assert tickets.look(Priority.NORMAL).head_pushed_at == 5000.25
    tickets.take(WORKER, PRIORITIES, 1)
    assert tickets.look(Priority.NORMAL).head_pushed_at == 6000.5


def test_a_head_of_somebody_elses_has_no_known_push_time(tickets: RQQueueManager, raw: Any) -> None:
    raw.rpush("rq:queue:normal", "somebody-elses-job")
    look = tickets.look(Priority.NORMAL)
    assert (look.length, look.head_pushed_at) == (1, None)


def test_the_incarnation_stays_while_the_server_lives_and_keeps_its_data(
    tickets: RQQueueManager, redis_url: str
) -> None:
    first = tickets.look(Priority.NORMAL).incarnation
    tickets.push(several(1, 3))
    with redis.Redis.from_url(redis_url) as client:
        assert RQQueueManager(client).look(Priority.LOW).incarnation == first
    assert first > 0


def test_a_server_that_lost_its_data_is_a_new_incarnation(tickets: RQQueueManager, raw: Any) -> None:
    first = tickets.look(Priority.NORMAL).incarnation
    raw.flushall()
    assert tickets.look(Priority.NORMAL).incarnation != first


def test_lengths_and_memory_are_told(tickets: RQQueueManager) -> None:
    tickets.push([ticket(1, Priority.HIGH), ticket(2, Priority.HIGH), ticket(3, Priority.LOW)])
    assert list(tickets.lengths().values()) == [0, 2, 0, 1]
    used, limit = tickets.memory()
    assert used > 100_000
    assert limit == 0
    assert tickets.ping()


# --- what RQ itself reads -------------------------------------------------------------------------


def rq_queue(tickets: RQQueueManager, name: str = "normal") -> Queue:
    return Queue(name, connection=tickets.client, serializer=TicketSerializer, job_class=TicketJob)


def test_a_ticket_is_a_job_that_rq_can_fetch(tickets: RQQueueManager) -> None:
    now = 1_800_000_000.5
    tickets.database_clock = lambda: now
    tickets.push([ticket(42, Priority.HIGH, epoch=7, timeout_seconds=90)])
    (job,) = rq_queue(tickets, "high").get_jobs()
    fetched = TicketJob.fetch("t42-e7", connection=tickets.client, serializer=TicketSerializer)
    for one in (job, fetched):
        assert (one.func_name, list(one.args), one.kwargs) == ("app.jobs.run_ticket", [42, 7], {})
        assert (one.timeout, one.origin, one.description) == (90, "high", "test.noop")
        assert one.get_status() is JobStatus.QUEUED
        assert one.enqueued_at is not None
        assert one.enqueued_at.timestamp() == now


def test_rq_lists_our_queues_and_counts_their_jobs(tickets: RQQueueManager) -> None:
    tickets.push(several(1, 3) + several(11, 2, Priority.URGENT))
    queues = Queue.all(connection=tickets.client, serializer=TicketSerializer, job_class=TicketJob)
    assert {queue.name: queue.count for queue in queues} == {"normal": 3, "urgent": 2}


def test_rqs_registries_name_what_we_ended(tickets: RQQueueManager) -> None:
    finish_one(tickets, 1, ok=True)
    finish_one(tickets, 2, ok=False)
    queue = rq_queue(tickets)
    assert FinishedJobRegistry(queue=queue).get_job_ids() == ["t1-e1"]
    assert FailedJobRegistry(queue=queue).get_job_ids() == ["t2-e1"]
    job = TicketJob.fetch("t1-e1", connection=tickets.client, serializer=TicketSerializer)
    assert job.get_status() is JobStatus.FINISHED
    assert job.ended_at is not None
    assert job.started_at is not None


def fetched(tickets: RQQueueManager, job_id: str) -> Job:
    """As any program does that knows RQ and our serializer."""
    return Job.fetch(job_id, connection=tickets.client, serializer=TicketSerializer)


def test_rq_reads_the_return_value_the_worker_and_the_times_of_what_we_ended(
    tickets: RQQueueManager,
) -> None:
    tickets.push([ticket(7)])
    (taken,) = tickets.take(WORKER, PRIORITIES, 1)
    tickets.finish(WORKER, [Ended(taken.job_id, taken.priority, True, "", 1_800_000_000.25, 1_800_000_002.5)])
    job = fetched(tickets, "t7-e1")
    assert job.return_value() == {"task": 7, "status": "COMPLETED"}
    assert job.worker_name == WORKER
    assert job.started_at is not None
    assert job.ended_at is not None
    assert (job.started_at.timestamp(), job.ended_at.timestamp()) == (1_800_000_000.25, 1_800_000_002.5)
    (result,) = job.results()
    assert (result.type, result.worker_name) == (Result.Type.SUCCESSFUL, WORKER)
    assert result.execution_id
    assert (result.execution_started_at, result.execution_ended_at) == (job.started_at, job.ended_at)
    assert 0 < tickets.client.ttl("rq:results:t7-e1") <= KEEP_SECONDS


def test_rq_reads_why_a_ticket_failed(tickets: RQQueueManager) -> None:
    tickets.push([ticket(7)])
    (taken,) = tickets.take(WORKER, PRIORITIES, 1)
    tickets.finish(WORKER, [Ended(taken.job_id, taken.priority, False, "ValueError: no such café")])
    result = fetched(tickets, "t7-e1").latest_result()
    assert result is not None
    assert (result.type, result.exc_string) == (Result.Type.FAILED, "ValueError: no such café")
    assert result.return_value is None


def test_results_go_with_the_entries_of_their_registry(tickets: RQQueueManager, raw: Any) -> None:
    total = KEPT_ENTRIES + 30
    tickets.push(several(10_001, total))
    for _ in range(5):
        taken = tickets.take(WORKER, PRIORITIES, total // 5)
        tickets.finish(WORKER, [Ended(one.job_id, one.priority, True) for one in taken])
    kept = raw.zrange("rq:finished:normal", 0, -1)
    assert {f"rq:results:{job_id}" for job_id in kept} == set(raw.keys("rq:results:*"))
    assert len(kept) == KEPT_ENTRIES


def test_a_ticket_that_rq_filed_as_abandoned_and_that_ended_well_after_all_is_finished(
    tickets: RQQueueManager,
) -> None:
    tickets.push([ticket(7)])
    (taken,) = tickets.take(WORKER, PRIORITIES, 1)
    queue = rq_queue(tickets)
    job = fetched(tickets, "t7-e1")
    with tickets.client.pipeline() as pipeline:
        record_job_failure(job, "Moved to FailedJobRegistry, due to AbandonedJobError", pipeline)
        pipeline.execute()
    assert FailedJobRegistry(queue=queue).get_job_ids() == ["t7-e1"]
    tickets.finish(WORKER, [Ended(taken.job_id, taken.priority, True)])
    assert FailedJobRegistry(queue=queue).get_job_ids() == []
    assert FinishedJobRegistry(queue=queue).get_job_ids() == ["t7-e1"]
    assert fetched(tickets, "t7-e1").return_value() == {"task": 7, "status": "COMPLETED"}


def test_a_server_that_forgot_the_scripts_is_taught_them_again(tickets: RQQueueManager, raw: Any) -> None:
    tickets.push([ticket(1), ticket(2)])
    raw.script_flush()
    (first,) = tickets.take("w", PRIORITIES, 1)
    raw.script_flush()
    (second,) = tickets.turn("w", [Ended(first.job_id, first.priority, True)], PRIORITIES, 1)
    assert (first.job_id, second.job_id) == ("t1-e1", "t2-e1")
    assert raw.lrange(tickets.in_flight_key("w"), 0, -1) == ["t2-e1"]
    assert raw.hget("rq:job:t1-e1", "status") == "finished"
