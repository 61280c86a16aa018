"""Going over to the record queue and back. A test of a feature row begins with its number."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from app.distributed import DatabaseManager, DistributedProcessor, distributed_processing_flow
from app.distributed.template import FlowTemplate
from app.distributed.variables import StoredVariables
from app.tasks.errors import IntakePaused
from config import Config
from core import monitoring
from tests.contract.record_rows import open_lanes, processor_over, put_claimed, put_ended
from tests.contract.rows import Rows

DAY = 86_400


@pytest.fixture
def processor(sqlite_rows: Rows) -> Iterator[DistributedProcessor]:
    with processor_over(sqlite_rows) as made:
        yield made


def source(count: int = 30) -> Iterator[dict[str, Any]]:
    for number in range(count):
        yield {"n": number, "word": f"w{number}"}


def test_000_12_failures_raise_the_alert(processor: DistributedProcessor, sqlite_rows: Rows) -> None:
    open_lanes(sqlite_rows)
    idle = monitoring.migration_monitoring_flow(processor=processor)
    assert (idle["status"], idle["alerts"]) == ("healthy", [])
    put_ended(sqlite_rows, "COMPLETED", 96, ago=60)
    put_ended(sqlite_rows, "FAILED", 4, ago=60)
    said = monitoring.migration_monitoring_flow(processor=processor)
    assert (said["status"], said["overall_metrics"]["success_rate_percent"]) == ("healthy", 96.0)
    put_ended(sqlite_rows, "FAILED", 4, ago=60)
    said = monitoring.migration_monitoring_flow(processor=processor)
    assert said["status"] == "alert"
    assert any("95 % are expected" in alert for alert in said["alerts"])


def test_000_15_old_completed_records_and_orphans_are_cleaned_and_counted(
    processor: DistributedProcessor, sqlite_rows: Rows
) -> None:
    open_lanes(sqlite_rows)
    put_ended(sqlite_rows, "COMPLETED", 3, ago=7 * DAY + 60)
    put_ended(sqlite_rows, "COMPLETED", 2, ago=7 * DAY - 60)
    put_ended(sqlite_rows, "FAILED", 1, ago=400 * DAY)
    put_claimed(sqlite_rows, 2, ago=7200, lease=-60)
    said = monitoring.migration_cleanup_flow(processor=processor)
    assert said == {"orphaned_cleaned": 2, "old_records_cleaned": 3}
    assert [sqlite_rows.count(status) for status in ("COMPLETED", "FAILED", "QUEUED")] == [2, 1, 2]


def test_002_12_intake_stops_at_once_and_processing_ends_with_what_runs(
    processor: DistributedProcessor, sqlite_rows: Rows
) -> None:
    stored = StoredVariables(sqlite_rows.database)
    processor.add_records_to_queue("survey", source(4))
    stored.set("global.accept_records", "false")
    with pytest.raises(IntakePaused, match="accept_records"):
        processor.add_records_to_queue("survey", source(1))

    def stops_the_others(payload: dict[str, Any]) -> None:
        stored.set("global.process_records", "no")

    first = distributed_processing_flow("survey", 2, stops_the_others, processor=processor)
    then = distributed_processing_flow("survey", 2, stops_the_others, processor=processor)
    assert (first["completed"], then["total"]) == (2, 0)
    stored.set("development.survey.process_records", "yes")  # one flow first
    stored.set("development.survey.accept_records", "true")
    assert processor.add_records_to_queue("survey", source(1)) == 1
    assert distributed_processing_flow("survey", 9, lambda payload: None, processor=processor)["total"] == 3


def test_000_17_a_flow_turns_back_once_nothing_is_left(processor: DistributedProcessor) -> None:
    template = FlowTemplate("survey", lambda payload: None, source, key="n", processor=processor)
    template.populate()
    clock = iter(range(1000))
    incomplete = monitoring.rollback_migration_flow(
        "survey", 3, processor=processor, pause=lambda seconds: None, clock=lambda: float(next(clock))
    )
    assert incomplete == {"flow_name": "survey", "status": "rollback_incomplete", "remaining_records": 30}
    with pytest.raises(IntakePaused):
        template.populate()
    done = monitoring.rollback_migration_flow("survey", 3, lambda payload: None, processor=processor)
    assert done == {"flow_name": "survey", "status": "rollback_completed", "remaining_records": 0}
    assert template.run()["mode"] == "standard"


def test_a_flag_of_the_environment_is_named_where_it_stands_in_the_way(sqlite_rows: Rows) -> None:
    variables = {"SURVEY_USE_DISTRIBUTED_PROCESSING": "true"}
    database = DatabaseManager(Config.for_tests(variables, DATABASE_URL=sqlite_rows.url, RQ_ENABLED=False))
    with DistributedProcessor(database) as processor:
        said = monitoring.rollback_migration_flow("survey", processor=processor)
        assert (said["status"], "SURVEY_USE_DISTRIBUTED_PROCESSING" in said["message"]) == (
            "rollback_blocked",
            True,
        )
        assert processor.add_records_to_queue("survey", source(1)) == 1  # nothing was changed
    database.close()


def test_000_18_loss_double_change_and_stranger_are_each_found_by_record(
    processor: DistributedProcessor, sqlite_rows: Rows
) -> None:
    processor.add_records_to_queue("survey", source(), key="n")
    for _ in range(3):
        distributed_processing_flow("survey", 5, lambda payload: None, processor=processor)
    clean = monitoring.verify_migration_integrity("survey", source(), "n", processor=processor)
    assert (clean["status"], clean["records"], clean["issues"]) == ("verified", 30, [])
    assert clean["queue_status"]["completed_records"] == 15
    ids = [row[0] for row in sqlite_rows.execute("SELECT id FROM tasks ORDER BY id")]
    sqlite_rows.execute("DELETE FROM tasks WHERE id = :id", id=ids[3])
    sqlite_rows.change(ids[9], payload='{"n":9,"word":"other"}')
    processor.add_records_to_queue("survey", [{"n": 20, "word": "w20"}, {"n": 77, "word": "w77"}])
    found = monitoring.verify_migration_integrity("survey", source(), "n", processor=processor)
    assert found["status"] == "issues_found"
    assert {(issue["kind"], issue["record"]) for issue in found["issues"]} == {
        ("missing", "3"),
        ("altered", "9"),
        ("duplicate", "20"),
        ("unexpected", "77"),
    }
    assert monitoring.verify_migration_integrity("never", processor=processor)["records"] == 0


def test_a_record_without_the_key_is_a_stranger_and_one_with_an_empty_key_is_none(
    processor: DistributedProcessor,
) -> None:
    records: list[dict[str, Any]] = [{"n": 1}, {"n": None, "word": "empty"}]
    processor.add_records_to_queue("survey", records, key="n")
    said = monitoring.verify_migration_integrity("survey", records, "n", processor=processor)
    assert (said["status"], said["issues"]) == ("verified", [])
    processor.add_records_to_queue("survey", [{"word": "stranger"}])
    for key in ("n", lambda record: record["n"]):
        found = monitoring.verify_migration_integrity("survey", records, key, processor=processor)
        assert found["issues"] == [{"kind": "unexpected", "record": '{"word":"stranger"}'}]


def test_records_are_told_apart_by_a_key_beside_their_payload(processor: DistributedProcessor) -> None:
    records: list[dict[str, Any]] = [
        {"payload": {"word": f"w{number}"}, "key": f"k{number}"} for number in range(3)
    ]
    for flow, key in (("survey", None), ("invoices", lambda record: record["key"])):
        processor.add_records_to_queue(flow, records, key=key)
        said = monitoring.verify_migration_integrity(flow, records, key, processor=processor)
        assert (said["status"], said["records"]) == ("verified", 3)
