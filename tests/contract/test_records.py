"""Records: tasks that wait in the lane of their flow. A test of a feature row begins with its number."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError

from app.distributed import DatabaseManager, DistributedProcessor, distributed_processing_flow, flow_runs
from app.distributed.lost import LostRecords
from app.tasks.errors import DatabaseUnavailable, InvalidTask
from app.tasks.model import PRIORITIES, Priority, Status
from app.tasks.queue import TaskQueue
from app.tasks.reclaims import Reclaims
from app.tasks.submission import TaskRequest
from config import Config
from tests.contract.rows import Rows

MakeProcessor = Callable[..., DistributedProcessor]
LEASE_SECONDS = 30


@pytest.fixture
def make_processor(rows: Rows) -> Iterator[MakeProcessor]:
    """Processors over the same database, each as a process of its own would have one."""
    with ExitStack() as stack:

        def make(variables: dict[str, str] | None = None) -> DistributedProcessor:
            settings = {"DATABASE_URL": rows.url, "RQ_ENABLED": False, "RQ_LEASE_SECONDS": LEASE_SECONDS}
            config = Config.for_tests(variables or {}, **settings)
            database = DatabaseManager(config)
            stack.callback(database.close)
            return stack.enter_context(DistributedProcessor(database))

        yield make


@pytest.fixture
def processor(make_processor: MakeProcessor) -> DistributedProcessor:
    return make_processor()


def numbers(count: int) -> list[dict[str, int]]:
    return [{"n": number} for number in range(count)]


def expire(rows: Rows, *, hours_ago: float = 0.1) -> None:
    """As if the holders had been gone for a while."""
    moment = rows.at(-hours_ago * 3600)
    rows.execute(
        "UPDATE tasks SET lease_until = :moment, started_at = :moment WHERE status = 'PROCESSING'",
        moment=moment,
    )


# --- coming in --------------------------------------------------------------------------------


def test_001_09_the_count_returned_is_the_count_of_rows(processor: DistributedProcessor, rows: Rows) -> None:
    assert processor.add_records_to_queue("survey", numbers(7)) == 7
    wrapped: list[Any] = [{"payload": {"n": 7}}, {"payload": [8], "key": "eight"}]
    assert processor.add_records_to_queue("survey", wrapped) == 2
    found = rows.execute("SELECT flow_name, payload, status, retry_count FROM processing_queue ORDER BY id")
    payloads = [f'{{"n":{n}}}' for n in range(8)] + ["[8]"]
    assert [tuple(row) for row in found] == [("survey", payload, "pending", 0) for payload in payloads]


def test_000_06_the_same_keys_add_nothing_again(processor: DistributedProcessor) -> None:
    assert processor.add_records_to_queue("survey", numbers(5), key="n") == 5
    assert processor.add_records_to_queue("survey", numbers(8), key="n") == 3
    assert processor.add_records_to_queue("other", numbers(2), key="n") == 2
    assert processor.add_records_to_queue("survey", [{"a": 1}, {"a": 1}], key=lambda record: "x") == 1
    assert processor.get_queue_status("survey")["total_records"] == 9


def test_two_who_add_the_same_keys_at_once_add_them_once(make_processor: MakeProcessor) -> None:
    added: list[int] = []
    parties = [make_processor() for _ in range(3)]
    threads = [
        threading.Thread(
            target=lambda p=party: added.append(p.add_records_to_queue("survey", numbers(300), key="n"))
        )
        for party in parties
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(added) == 300
    assert parties[0].get_queue_status()["by_flow"]["survey"]["pending_records"] == 300


def test_wrong_records_are_named_and_none_is_added(processor: DistributedProcessor) -> None:
    wrong: list[Any] = [{"n": 1}, {"n": {1}}, "text", {"payload": {}, "key": " "}, {"n": "x" * 300_000}]
    with pytest.raises(InvalidTask) as caught:
        processor.add_records_to_queue("survey", wrong)
    fields = [problem.field for problem in caught.value.problems]
    assert fields == ["records.1.payload", "records.2.payload", "records.3.key", "records.4.payload"]
    assert processor.get_queue_status()["total_records"] == 0
    with pytest.raises(InvalidTask, match=r"records\.0\.n: is missing"):
        processor.add_records_to_queue("survey", [{}], key="n")
    for flow in ("", "x" * 61, "\x1f\x1f", "!"):
        with pytest.raises(InvalidTask, match="flow"):
            processor.add_records_to_queue(flow, numbers(1))


# --- being claimed ----------------------------------------------------------------------------


def test_001_01_claimers_at_once_get_disjoint_records(make_processor: MakeProcessor) -> None:
    parties = [make_processor() for _ in range(4)]
    parties[0].add_records_to_queue("survey", numbers(200))
    claimed: list[int] = []
    lock = threading.Lock()

    def work(party: DistributedProcessor) -> None:
        while batch := party.claim_records_batch("survey", 7):
            with lock:
                claimed.extend(record["id"] for record in batch)

    threads = [threading.Thread(target=work, args=[party]) for party in parties]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    while batch := parties[0].claim_records_batch("survey", 50):  # what a look passed over as locked
        claimed += [record["id"] for record in batch]
    assert len(claimed) == len(set(claimed)) == 200


def test_001_02_records_of_a_flow_come_in_the_order_of_their_coming(processor: DistributedProcessor) -> None:
    for start in range(0, 30, 10):
        processor.add_records_to_queue("survey", [{"n": start + n} for n in range(10)])
        processor.add_records_to_queue("other", numbers(3))
    batches = iter(lambda: processor.claim_records_batch("survey", 4), [])
    assert [record["payload"]["n"] for batch in batches for record in batch] == list(range(30))


def test_001_15_every_processor_has_a_name_of_its_own(make_processor: MakeProcessor) -> None:
    assert len({make_processor().instance_id for _ in range(5)}) == 5


def test_001_10_a_stale_owner_is_refused(make_processor: MakeProcessor, rows: Rows) -> None:
    first, second = make_processor(), make_processor()
    first.add_records_to_queue("survey", numbers(1))
    (record,) = first.claim_records_batch("survey", 1)
    assert second.mark_record_completed(record["id"], {"by": "a stranger"}) is False
    expire(rows)
    assert first.cleanup_orphaned_records(0) == 1
    (again,) = second.claim_records_batch("survey", 1)
    assert (again["id"], again["retry_count"]) == (record["id"], 1)
    assert first.mark_record_completed(record["id"], {"by": "first"}) is False
    assert first.mark_record_failed(record["id"], "too late") is False
    assert second.mark_record_completed(record["id"], {"by": "second"}) is True
    found = rows.execute("SELECT status, result, payload FROM tasks")
    assert [tuple(row) for row in found] == [("COMPLETED", '{"by":"second"}', '{"n":0}')]


def test_a_record_that_is_marked_failed_has_failed_at_once(
    processor: DistributedProcessor, rows: Rows
) -> None:
    processor.add_records_to_queue("survey", numbers(1))
    (record,) = processor.claim_records_batch("survey", 1)
    assert processor.mark_record_failed(record["id"], "bad address")
    (row,) = rows.execute("SELECT status, error_message, retry_count, completed_at FROM processing_queue")
    assert tuple(row) == ("failed", "bad address", 1, None)
    assert processor.claim_records_batch("survey", 1) == []


def test_what_is_held_goes_back_when_a_processor_closes(make_processor: MakeProcessor) -> None:
    first, second = make_processor(), make_processor()
    first.add_records_to_queue("survey", numbers(4))
    assert len(first.claim_records_batch("survey", 4)) == 4
    first.close()
    assert [record["retry_count"] for record in second.claim_records_batch("survey", 4)] == [0] * 4


def test_a_record_that_may_have_killed_its_holder_is_claimed_alone_and_its_neighbours_are_not_touched(
    processor: DistributedProcessor, rows: Rows
) -> None:
    processor.add_records_to_queue("survey", numbers(5))
    rows.execute("UPDATE tasks SET failures = 1 WHERE payload = :payload", payload='{"n":2}')
    claimed: list[int] = []
    while batch := [record["payload"]["n"] for record in processor.claim_records_batch("survey", 5)]:
        assert 2 not in batch or batch == [2]
        claimed += batch
        left = rows.execute("SELECT epoch, attempt FROM tasks WHERE status = 'QUEUED'")
        assert [tuple(row) for row in left] == [(1, 0)] * (5 - len(claimed))
    assert claimed == [0, 1, 2, 3, 4]


def test_what_was_claimed_reaches_its_caller_though_the_look_for_lost_ones_fails(
    processor: DistributedProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any, **__: Any) -> None:
        raise DatabaseUnavailable("it went away")

    processor.add_records_to_queue("survey", numbers(2))
    monkeypatch.setattr(processor.system.store.records, "unrenewed", away)
    assert len(processor.claim_records_batch("survey", 5)) == 2


# --- being lost -------------------------------------------------------------------------------


def test_a_lease_counts_as_over_once_nobody_renewed_it_for_an_interval(
    make_processor: MakeProcessor, rows: Rows
) -> None:
    owner, other = make_processor(), make_processor()
    owner.add_records_to_queue("survey", numbers(2))
    assert len(owner.claim_records_batch("survey", 2)) == 2
    clock = [0.0]
    system = other.system
    lost = LostRecords(
        system.store, Reclaims(system.queue), lease_seconds=LEASE_SECONDS, clock=lambda: clock[0]
    )
    lane = system.store.records.lane("survey")
    assert lane is not None
    assert lost.reclaim(lane) == 0
    expire(rows)
    assert lost.reclaim(lane) == 0
    clock[0] += LEASE_SECONDS / 3 - 0.1
    assert lost.reclaim(lane) == 0
    clock[0] += 0.2
    assert lost.reclaim(lane) == 2
    assert rows.count("QUEUED") == 2


def test_001_05_a_record_that_kills_its_processors_fails_and_its_neighbours_do_not(
    make_processor: MakeProcessor, rows: Rows
) -> None:
    killed = 0
    make_processor().add_records_to_queue("survey", numbers(10))
    for _ in range(20):
        victim = make_processor()
        batch = victim.claim_records_batch("survey", 10)
        for record in batch:
            if record["payload"]["n"] == 4:  # it dies here, with all that it holds
                killed += 1
                victim._held.clear()
                expire(rows)
                assert make_processor().cleanup_orphaned_records(0) == len(batch)
                break
        else:
            for record in batch:
                assert victim.mark_record_completed(record["id"], None)
    assert killed == 4  # the first one, and three retries
    found = rows.execute("SELECT payload, error_message FROM processing_queue WHERE status = 'failed'")
    assert [tuple(row) for row in found] == [('{"n":4}', "its holder is gone; no retry is left")]
    assert rows.count("COMPLETED") == 9


def test_001_18_only_records_claimed_before_the_limit_return(
    processor: DistributedProcessor, rows: Rows
) -> None:
    processor.add_records_to_queue("survey", numbers(6))
    old, young, alive = (processor.claim_records_batch("survey", 2) for _ in range(3))
    hours = {1.6: old, 1.4: young}
    for age, batch in hours.items():
        for record in batch:
            rows.execute(
                "UPDATE tasks SET lease_until = :moment, started_at = :moment WHERE id = :id",
                moment=rows.at(-age * 3600),
                id=record["id"],
            )
    assert processor.cleanup_orphaned_records(1.5, dry_run=True) == 2
    assert rows.count("PROCESSING") == 6
    assert processor.cleanup_orphaned_records(1.5) == 2
    still = {row[0] for row in rows.execute("SELECT id FROM tasks WHERE status = 'PROCESSING'")}
    assert still == {record["id"] for record in [*young, *alive]}


def test_002_05_the_failed_records_below_the_limit_are_reset_and_no_others(
    make_processor: MakeProcessor, rows: Rows
) -> None:
    processor = make_processor()
    processor.add_records_to_queue("survey", numbers(4))
    processor.add_records_to_queue("other", numbers(1))
    never = make_processor({"NEVER_MAX_RETRIES": "0"})
    never.add_records_to_queue("never", numbers(1))
    for flow in ("survey", "survey", "survey", "survey", "other", "never"):
        (record,) = processor.claim_records_batch(flow, 1)
        processor.mark_record_failed(record["id"], "no")
    rows.execute("UPDATE tasks SET failures = 3 WHERE payload = :payload", payload='{"n":2}')
    assert processor.reset_failed_records("survey", 3, dry_run=True) == 3
    assert rows.count("FAILED") == 6
    assert processor.reset_failed_records("survey", 3) == 3
    assert processor.reset_failed_records("never", 3) == 0
    found = rows.execute("SELECT payload, retry_count FROM processing_queue WHERE status = 'pending'")
    assert sorted(tuple(row) for row in found) == [(f'{{"n":{n}}}', 1) for n in (0, 1, 3)]


# --- a run of a flow --------------------------------------------------------------------------


def test_001_11_a_run_tells_what_it_did_and_one_failure_stops_nobody(
    processor: DistributedProcessor, rows: Rows
) -> None:
    def logic(payload: dict[str, int]) -> dict[str, int]:
        if payload["n"] == 3:
            raise ValueError("three is wrong")
        return {"square": payload["n"] ** 2}

    processor.add_records_to_queue("survey", numbers(12))
    summary = distributed_processing_flow("survey", 8, logic, processor=processor)
    failed = summary.pop("errors")
    assert summary == {
        "flow_name": "survey",
        "batch_size": 8,
        "records_claimed": 8,
        "total": 8,
        "records_completed": 7,
        "completed": 7,
        "records_failed": 1,
        "failed": 1,
        "success_rate_percent": 87.5,
        "processor_instance": processor.instance_id,
    }
    assert [one["error"] for one in failed] == ["ValueError: three is wrong"]
    results = rows.execute("SELECT result FROM tasks WHERE status = 'COMPLETED' ORDER BY id")
    assert [row[0] for row in results] == [f'{{"square":{n * n}}}' for n in range(8) if n != 3]
    logged = rows.execute(
        "SELECT flow_name, mode, records_claimed, records_completed, records_failed FROM flow_execution_logs"
    )
    assert [tuple(row) for row in logged] == [("survey", "distributed", 8, 7, 1)]


def test_001_12_the_registered_logic_runs_and_without_one_nothing_is_claimed(
    processor: DistributedProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow_runs, "_LOGIC", {})
    processor.add_records_to_queue("survey", numbers(2))
    summary = distributed_processing_flow("survey", processor=processor)
    assert (summary["records_claimed"], "@business_logic('survey')" in summary["message"]) == (0, True)
    assert processor.get_queue_status("survey")["pending_records"] == 2

    @flow_runs.business_logic("survey")
    def doubled(payload: dict[str, int], context: flow_runs.RecordContext) -> dict[str, Any]:
        return {"twice": 2 * payload["n"], "key": context.idempotency_key}

    with pytest.raises(ValueError, match="doubled"):
        flow_runs.business_logic("survey")(lambda payload: None)
    assert distributed_processing_flow("survey", processor=processor)["records_completed"] == 2


def test_000_04_the_batch_size_of_the_settings_bounds_a_claim(make_processor: MakeProcessor) -> None:
    processor = make_processor({"SURVEY_DISTRIBUTED_BATCH_SIZE": "25"})
    processor.add_records_to_queue("survey", numbers(40))
    sizes = [
        distributed_processing_flow("survey", size, lambda payload: None, processor=processor)["total"]
        for size in (None, 9, None)
    ]
    assert sizes == [25, 9, 6]


def test_what_logic_writes_through_its_connection_commits_with_the_end_of_the_record(
    processor: DistributedProcessor, rows: Rows
) -> None:
    def logic(payload: dict[str, int], context: flow_runs.RecordContext) -> None:
        context.connection.execute(text("INSERT INTO effects VALUES (:id)"), {"id": payload["n"]})
        if payload["n"] == 1:
            raise RuntimeError("after the write")

    processor.add_records_to_queue("survey", numbers(3))
    summary = distributed_processing_flow("survey", 3, logic, processor=processor)
    assert (summary["completed"], summary["failed"]) == (2, 1)
    assert sorted(rows.effects()) == [0, 2]


# --- beside tasks -----------------------------------------------------------------------------


def test_nobody_but_their_flow_sees_records(
    processor: DistributedProcessor, queue: TaskQueue, rows: Rows
) -> None:
    processor.add_records_to_queue("survey", numbers(3))
    store = queue.store
    assert store.claims.queued(holder="poller", limit=10, lease_seconds=30) == []
    assert sum(store.queries.counts()[Status.QUEUED].values()) == 0
    assert not store.looks.glance("sweeper").queued
    for priority in PRIORITIES:
        assert queue.clear(priority) == 0
    (record,) = processor.claim_records_batch("survey", 1)
    processor.mark_record_failed(record["id"], "no")
    assert store.moves.purge_failed(limit=10) == 0
    with pytest.raises(InvalidTask, match="priority"):
        queue.submit(TaskRequest("test.noop", {}, priority="flow"))
    with pytest.raises(InvalidTask, match="records do"):
        queue.submit(TaskRequest("test.noop", {}, idempotency_key="record:101:1"))
    assert store.queries.task(record["id"]).priority is Priority.FLOW


def test_an_operator_cancels_and_retries_a_record_by_its_id(
    processor: DistributedProcessor, queue: TaskQueue
) -> None:
    processor.add_records_to_queue("survey", numbers(1))
    (task,) = queue.store.queries.page()
    queue.cancel(task.task_id)
    assert processor.claim_records_batch("survey", 1) == []
    assert processor.get_queue_status("survey")["failed_records"] == 1
    queue.retry(task.task_id)
    assert len(processor.claim_records_batch("survey", 1)) == 1


def test_001_14_the_database_refuses_a_status_and_a_lane_that_cannot_be(rows: Rows) -> None:
    for status, priority in (("DONE", 101), ("QUEUED", 50)):
        with pytest.raises((IntegrityError, DBAPIError)):
            rows.execute(
                "INSERT INTO tasks (id, name, status, priority, payload, created_at)"
                " VALUES (1, 'x', :status, :priority, '{}', :now)",
                status=status,
                priority=priority,
                now=rows.at(0),
            )


def test_001_08_the_queue_status_equals_the_counts_of_the_view(
    processor: DistributedProcessor, rows: Rows
) -> None:
    for flow, count in (("survey", 9), ("other", 4)):
        processor.add_records_to_queue(flow, numbers(count))
        done, failed, *_ = processor.claim_records_batch(flow, 3)
        processor.mark_record_completed(done["id"], None)
        processor.mark_record_failed(failed["id"], "no")
    status = processor.get_queue_status()
    for flow in ("survey", "other"):
        counted = rows.execute(
            "SELECT status, COUNT(*) FROM processing_queue WHERE flow_name = :flow GROUP BY status", flow=flow
        )
        expected = {f"{row[0]}_records": row[1] for row in counted}
        found = status["by_flow"][flow]
        assert found == {**expected, "total_records": sum(expected.values())}
        assert processor.get_queue_status(flow) == {"flow_name": flow, **found}
    assert status["total_records"] == 13


def test_a_flow_has_open_records_until_its_own_have_ended(processor: DistributedProcessor) -> None:
    assert not processor.has_open_records("survey")
    for flow in ("survey", "other"):
        processor.add_records_to_queue(flow, numbers(1))
    assert processor.has_open_records("survey")
    (record,) = processor.claim_records_batch("survey", 1)
    assert processor.has_open_records("survey")
    processor.mark_record_failed(record["id"], "no")
    assert (processor.has_open_records("survey"), processor.has_open_records("other")) == (False, True)


def test_001_07_a_source_that_is_away_is_degraded_and_a_queue_that_is_away_unhealthy(
    rows: Rows, processor: DistributedProcessor
) -> None:
    assert processor.health_check()["status"] == "healthy"
    away = DatabaseManager(
        "sales", config=Config.for_tests({"SALES_CONNECTION_STRING": "postgresql://a:b@127.0.0.1:1/x"})
    )
    with DistributedProcessor(processor.database, away) as without_source:
        said = without_source.health_check()
    assert (said["status"], said["queue_status"]["total_records"]) == ("degraded", 0)
    assert {name: one["status"] for name, one in said["databases"].items()} == {
        "queue": "healthy",
        "source": "unhealthy",
    }
    nowhere = Config.for_tests(DATABASE_URL="postgresql://a:b@127.0.0.1:1/x", RQ_ENABLED=False)
    with DistributedProcessor(DatabaseManager(nowhere)) as lost:
        assert lost.health_check()["status"] == "unhealthy"
