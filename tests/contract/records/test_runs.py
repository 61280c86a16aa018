"""Runs of a flow, and its records beside tasks. A test of a feature row begins with its number."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError

from app.distributed import DatabaseManager, DistributedProcessor, distributed_processing_flow, flow_runs
from app.tasks.errors import InvalidTask
from app.tasks.model import PRIORITIES, Priority, Status
from app.tasks.queue import TaskQueue
from app.tasks.submission import TaskRequest
from config import Config
from tests.contract.records.parts import MakeProcessor, numbers
from tests.contract.rows import Rows

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
