"""Figures, grades and reports of records, each beside plain SQL. A test of a feature row begins with its
number."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from click.testing import CliRunner

from app.distributed import DatabaseManager, DistributedProcessor
from app.monitoring.thresholds import METRICS, Level, grade, judged, score
from config import Config
from core import monitoring
from scripts import records as command
from tests.contract.record_rows import (
    LANES,
    open_lanes,
    processor_over,
    put_claimed,
    put_ended,
    put_records,
    put_run,
)
from tests.contract.rows import Rows

HOUR = 3600
# Days and hours as each database words them, for the statements that stand beside ours.
HOUR_OF = {
    "mysql": "DATE_FORMAT(ended_at, '%Y-%m-%dT%H')",
    "postgresql": "to_char(ended_at, 'YYYY-MM-DD\"T\"HH24')",
    "sqlite": "strftime('%Y-%m-%dT%H', ended_at)",
}
SECONDS = {
    "mysql": "TIMESTAMPDIFF(MICROSECOND, started_at, ended_at) / 1000000",
    "postgresql": "EXTRACT(EPOCH FROM ended_at - started_at)",
    "sqlite": "(julianday(ended_at) - julianday(started_at)) * 86400",
}


@pytest.fixture
def processor(rows: Rows) -> Iterator[DistributedProcessor]:
    open_lanes(rows)
    with processor_over(rows) as made:
        yield made


@pytest.fixture
def sqlite_processor(sqlite_rows: Rows) -> Iterator[DistributedProcessor]:
    open_lanes(sqlite_rows)
    with processor_over(sqlite_rows) as made:
        yield made


def health(processor: DistributedProcessor) -> tuple[str, int]:
    found = monitoring.distributed_queue_monitoring(False, processor=processor)["queue_health_assessment"]
    return found["queue_health"], found["health_score"]


def seed_history(rows: Rows) -> None:
    """Two flows that ended records over some hours, a few of them outside of every window asked for."""
    for hours_ago, (good, bad) in enumerate([(9, 1), (4, 0), (0, 3), (7, 2)]):
        ago = hours_ago * HOUR + 60
        if good:
            put_ended(rows, "COMPLETED", good, ago=ago, took=30 + hours_ago)
            put_ended(rows, "COMPLETED", 2, flow="invoices", ago=ago, took=600)
        if bad:
            put_ended(rows, "FAILED", bad, ago=ago, error="bad address")
    put_ended(rows, "FAILED", 2, flow="invoices", ago=90, error="no such customer")
    put_ended(rows, "FAILED", 1, ago=90, error="é😀 is no number")
    put_ended(rows, "COMPLETED", 5, ago=30 * HOUR)
    put_ended(rows, "FAILED", 4, ago=30 * HOUR, error="an old one")
    rows.put("COMPLETED", count=3, started_at=rows.at(-20), ended_at=rows.at(-10))  # tasks of a queue
    rows.put("FAILED", count=3, error="bad address")


# --- the state now --------------------------------------------------------------------------------------


def test_002_01_each_grade_is_reached(processor: DistributedProcessor, rows: Rows) -> None:
    put_records(rows, "QUEUED", 3)
    put_ended(rows, "COMPLETED", 20, ago=60)
    put_claimed(rows, 10, ago=2 * HOUR, lease=-60)
    assert health(processor) == ("healthy", 100)
    put_claimed(rows, 1, ago=2 * HOUR, lease=-60)
    assert health(processor) == ("degraded", 85)
    put_claimed(rows, 40, ago=2 * HOUR, lease=-60)
    assert health(processor) == ("critical", 60)


def test_002_01_the_counts_are_those_of_the_view(processor: DistributedProcessor, rows: Rows) -> None:
    seed_history(rows)
    put_records(rows, "QUEUED", 6)
    put_records(rows, "CANCELLED", 1, flow="invoices")
    put_claimed(rows, 4, flow="invoices", ago=10)
    said = monitoring.distributed_queue_monitoring(processor=processor)
    view = Counter(
        dict(
            tuple(row)
            for row in rows.execute("SELECT status, COUNT(*) FROM processing_queue GROUP BY status")
        )
    )
    assert said["overall_queue_status"] == {
        "total_records": view.total(),
        **{f"{word}_records": view[word] for word in ("pending", "processing", "completed", "failed")},
    }
    by_flow = "SELECT flow_name, COUNT(*) FROM processing_queue GROUP BY flow_name"
    assert {
        flow: figures["total_records"] for flow, figures in said["detailed_metrics"]["by_flow"].items()
    } == dict(tuple(row) for row in rows.execute(by_flow))
    assert 55 < said["detailed_metrics"]["oldest_waiting_seconds"]["survey"] < 300


def test_002_01_without_its_database_the_queue_is_critical() -> None:
    config = Config.for_tests(
        {}, DATABASE_URL="postgresql+psycopg://reader:secret@127.0.0.1:1/none", RQ_ENABLED=False
    )
    with DistributedProcessor(DatabaseManager(config)) as processor:
        said = monitoring.distributed_queue_monitoring(processor=processor)
    assert said["queue_health_assessment"] == {"queue_health": "critical", "health_score": 0}
    assert "secret" not in json.dumps(said)
    assert said["operational_alerts"] == ["CRITICAL: the database rpa_db cannot be reached"]


def test_002_01_before_there_are_tables_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path / 'new.db'}")
    shown = CliRunner().invoke(command.main, ["status"])
    assert (shown.exit_code, "the tables are missing" in shown.stdout) == (1, True)
    assert "Start the database" not in shown.stdout


def test_002_01_a_record_that_waits_makes_a_slow_rate_count(
    sqlite_processor: DistributedProcessor, sqlite_rows: Rows
) -> None:
    put_ended(sqlite_rows, "COMPLETED", 9, ago=60)
    put_ended(sqlite_rows, "COMPLETED", 100, ago=2 * HOUR)
    put_records(sqlite_rows, "QUEUED", 2, waiting_since=sqlite_rows.at(-600))
    assert health(sqlite_processor) == ("healthy", 100)
    put_records(sqlite_rows, "QUEUED", 1, waiting_since=sqlite_rows.at(-1000))
    metrics = monitoring.distributed_queue_monitoring(processor=sqlite_processor)["metrics"]
    levels = {metric["metric"]: (metric["value"], metric["level"]) for metric in metrics}
    assert levels["processing_rate"] == (9, "critical")
    assert levels["oldest_waiting"][1] == "warning"


@pytest.mark.parametrize("name", sorted(METRICS))
def test_002_07_each_metric_crosses_both_levels(name: str) -> None:
    config = Config.for_tests({})
    warning, critical = (
        float(getattr(config, f"ALERT_{name.upper()}_{word}")) for word in ("WARNING", "CRITICAL")
    )
    worse = -0.5 if METRICS[name].low_is_bad else 0.5
    levels = [
        judged(config, name, value).level
        for value in (None, warning, warning + worse, critical, critical + worse)
    ]
    assert levels == [Level.OK, Level.OK, Level.WARNING, Level.WARNING, Level.CRITICAL]
    assert judged(config, name, critical + worse).message.startswith("CRITICAL: ")


def test_002_07_the_settings_are_the_thresholds(sqlite_rows: Rows) -> None:
    open_lanes(sqlite_rows)
    put_records(sqlite_rows, "FAILED", 3)
    limits = {"ALERT_FAILED_WARNING": 2.0, "ALERT_FAILED_CRITICAL": 5.0}
    with processor_over(
        sqlite_rows, **limits, ALERT_SUCCESS_RATE_WARNING=0, ALERT_SUCCESS_RATE_CRITICAL=0
    ) as own:
        said = monitoring.distributed_queue_monitoring(processor=own)
    assert said["operational_alerts"] == ["WARNING: failed records: 3, above 2"]
    assert len(said["recommendations"]) == 1


def test_the_score_falls_with_each_metric_and_ends_at_nothing() -> None:
    config = Config.for_tests({})
    bad = [judged(config, name, 60.0) for name in ("success_rate", "orphaned", "failed")]
    assert (score(bad), grade(bad)) == (20, "critical")
    assert score([*bad, *bad]) == 0


# --- diagnosis ------------------------------------------------------------------------------------------


def test_002_02_the_diagnosis_names_what_is_wrong(processor: DistributedProcessor, rows: Rows) -> None:
    diagnose = monitoring.distributed_processing_diagnostics
    put_records(rows, "QUEUED", 2, waiting_since=rows.at(0))
    put_ended(rows, "COMPLETED", 3, ago=60)
    put_claimed(rows, 2, ago=120)
    assert diagnose(processor=processor)["issues_found"] == []
    put_claimed(rows, 2, flow="invoices", ago=2 * HOUR, lease=-60, holder="gone:7")
    slow = put_claimed(rows, 1, ago=1900)
    put_ended(rows, "FAILED", 4, ago=60, error="bad address")
    said = diagnose(processor=processor)
    assert said["orphaned_records_analysis"]["total_orphaned_records"] == 2
    issues = said["issues_found"]
    assert issues[0] == "survey: 4 records failed; most often: bad address"
    assert issues[1].startswith("invoices: 2 records are orphaned: gone:7 claimed them")
    assert issues[2].startswith(f"survey: record {slow} has been in processing for 3")
    only = diagnose(False, False, processor=processor)
    assert only["issues_found"] == issues[:1]
    assert "orphaned_records_analysis" not in only


def test_002_11_owners_whose_leases_are_over_are_suspicious(
    processor: DistributedProcessor, rows: Rows
) -> None:
    put_claimed(rows, 3, ago=100, holder="busy:1")
    put_claimed(rows, 2, ago=2 * HOUR, lease=-10, holder="gone:7")
    put_claimed(rows, 1, ago=100, lease=-10, holder="gone:7")
    found = command.REPORTS["owners"](processor, 24)
    by_sql = rows.execute(
        "SELECT flow_instance_id, COUNT(*) FROM processing_queue WHERE status = 'processing'"
        " GROUP BY flow_instance_id ORDER BY flow_instance_id DESC"
    )
    assert [(row["flow_instance_id"], row["processing_records"]) for row in found] == [
        tuple(row) for row in by_sql
    ]
    kept = ("suspicious", "overdue_records", "orphaned_records")
    assert [[row[name] for name in kept] for row in found] == [[True, 3, 2], [False, 0, 0]]


# --- a window -------------------------------------------------------------------------------------------


def test_001_16_the_figures_of_a_window_are_those_of_plain_sql(
    processor: DistributedProcessor, rows: Rows
) -> None:
    seed_history(rows)
    said = monitoring.processing_performance_monitoring(24, processor=processor)
    of_window = "FROM tasks WHERE priority > 100 AND ended_at > :since AND status"
    since = rows.at(-24 * HOUR)
    completed, seconds, slowest = rows.execute(
        f"SELECT COUNT(*), AVG({SECONDS[rows.kind]}), MAX({SECONDS[rows.kind]}) {of_window} = 'COMPLETED'",
        since=since,
    )[0]
    failed = rows.scalar(f"SELECT COUNT(*) {of_window} = 'FAILED'", since=since)
    metrics = said["overall_metrics"]
    assert (metrics["records_completed"], metrics["records_failed"]) == (completed, failed) == (26, 9)
    assert metrics["success_rate_percent"] == round(100 * completed / (completed + failed), 2)
    assert metrics["avg_processing_rate_per_hour"] == round(completed / 24, 2)
    assert metrics["avg_processing_time_minutes"] == pytest.approx(float(seconds) / 60, abs=1e-3)
    assert metrics["max_processing_time_minutes"] == pytest.approx(float(slowest) / 60, abs=1e-3)
    assert said["recommendations"][0].startswith("CRITICAL: success rate: 74.29 %, below 80 %")


def test_002_03_the_rows_of_hours_are_those_of_plain_sql(processor: DistributedProcessor, rows: Rows) -> None:
    seed_history(rows)
    said = monitoring.processing_performance_monitoring(24, False, processor=processor)
    assert said["error_analysis"] == {"top_errors": []}
    hour = HOUR_OF[rows.kind]
    by_sql = rows.execute(
        f"SELECT {hour}, SUM(CASE WHEN status = 'COMPLETED' THEN 1 ELSE 0 END), COUNT(*) FROM tasks"
        f" WHERE priority > 100 AND ended_at > :since GROUP BY {hour} ORDER BY {hour}",
        since=rows.at(-24 * HOUR),
    )
    found = [
        (row["hour"], row["records_completed"], row["records_completed"] + row["records_failed"])
        for row in said["hourly_metrics"]
    ]
    assert found == [(f"{row[0]}:00:00+00:00", int(row[1]), row[2]) for row in by_sql]
    assert len(found) >= 4


def test_001_19_the_counts_of_errors_are_those_of_plain_sql(
    processor: DistributedProcessor, rows: Rows
) -> None:
    seed_history(rows)
    said = monitoring.processing_performance_monitoring(24, processor=processor)
    by_sql = rows.execute(
        "SELECT error, COUNT(*) FROM tasks WHERE priority > 100 AND status = 'FAILED' AND ended_at > :since"
        " GROUP BY error ORDER BY COUNT(*) DESC",
        since=rows.at(-24 * HOUR),
    )
    found = [(one["error_message"], one["error_count"]) for one in said["error_analysis"]["top_errors"]]
    assert found == [tuple(row) for row in by_sql]
    assert found[0] == ("bad address", 6)
    assert "6 of 9: bad address" in said["recommendations"][1]


@pytest.mark.parametrize("report", ["rate", "errors", "flows", "owners", "indexes"])
def test_002_10_the_command_prints_each_report(
    report: str, sqlite_processor: DistributedProcessor, sqlite_rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed_history(sqlite_rows)
    put_claimed(sqlite_rows, 2, ago=5)
    monkeypatch.setenv("DATABASE_URL", sqlite_rows.url)
    shown = CliRunner().invoke(command.main, ["report", report, "--json"])
    rows_of = json.loads(shown.stdout)
    assert (shown.exit_code, len(rows_of) > 0) == (0, True)
    again = json.loads(json.dumps(command.REPORTS[report](sqlite_processor, 24)))
    for row in [*rows_of, *again]:
        row["oldest_claim_minutes"] = 0  # it grows meanwhile
    assert rows_of == again
    table = CliRunner().invoke(command.main, ["report", report]).stdout.splitlines()
    assert len(table) == len(rows_of) + 1
    assert set(table[0].split()) <= set(rows_of[0])


def test_002_10_the_comparison_of_flows_is_that_of_plain_sql(
    processor: DistributedProcessor, rows: Rows
) -> None:
    seed_history(rows)
    by_sql = rows.execute(
        "SELECT name, SUM(CASE WHEN status = 'COMPLETED' THEN 1 ELSE 0 END),"
        " SUM(CASE WHEN status = 'FAILED' THEN 1 ELSE 0 END) FROM tasks"
        " WHERE priority > 100 AND ended_at > :since GROUP BY name",
        since=rows.at(-24 * HOUR),
    )
    found = {
        row["flow_name"]: (row["records_completed"], row["records_failed"])
        for row in command.REPORTS["flows"](processor, 24)
    }
    assert found == {row[0]: (int(row[1]), int(row[2])) for row in by_sql}
    assert found.keys() == LANES.keys()


# --- databases and capacity -----------------------------------------------------------------------------


def test_001_17_the_use_of_the_pool_rises_with_what_is_in_hands(sqlite_rows: Rows) -> None:
    with processor_over(sqlite_rows, DB_POOL_SIZE=1, DB_MAX_OVERFLOW=1) as processor:
        engine = processor.system.store.database.engine
        use = []
        with ExitStack() as stack:
            for _ in range(3):
                use.append(monitoring.connection_pool_monitoring(processor=processor))
                if len(use) < 3:
                    stack.enter_context(engine.connect())
        freed = monitoring.connection_pool_monitoring(processor=processor)
    shown = [(one["utilization_percent"], one["level"]) for one in [*use, freed]]
    assert shown == [(0.0, "ok"), (50.0, "ok"), (100.0, "critical"), (0.0, "ok")]
    assert "DB_POOL_SIZE" in use[2]["recommendations"][0]


def test_002_16_a_slow_database_is_degraded(rows: Rows) -> None:
    with processor_over(rows) as processor:
        said = monitoring.database_health_check(processor=processor)
        assert (said["status"], said["connection"], said["level"]) == ("healthy", True, "ok")
    slow = {"ALERT_DATABASE_RESPONSE_WARNING": 0.0, "ALERT_DATABASE_RESPONSE_CRITICAL": 60_000.0}
    with processor_over(rows, **slow) as processor:
        said = monitoring.database_health_check(include_retry=False, processor=processor)
        assert (said["status"], said["level"], said["response_time_ms"] > 0) == ("degraded", "warning", True)


def test_000_14_the_use_of_each_index_is_listed(processor: DistributedProcessor, rows: Rows) -> None:
    found = monitoring.index_usage(processor=processor)
    names = {(one["table"], one["index"]) for one in found["indexes"]}
    assert ("tasks", "ix_tasks_waiting") in names
    counted = any(one["scans"] is not None for one in found["indexes"])
    assert counted or found["note"]


def test_002_14_the_figures_of_capacity_for_given_runs(processor: DistributedProcessor, rows: Rows) -> None:
    put_run(rows, instance="a", records=60, failed=10, seconds=90, ago=600)
    put_run(rows, instance="b", records=120, seconds=90, ago=60)
    put_run(rows, instance="c", records=1000, seconds=1, ago=2 * HOUR)
    put_records(rows, "QUEUED", 400, waiting_since=rows.at(-40 * 60))
    said = monitoring.calculate_capacity_utilization(processor=processor)
    assert said == {
        "current_load": 180,
        "theoretical_capacity": pytest.approx(7200, abs=1),  # a record a second, by two
        "utilization_percent": pytest.approx(2.5, abs=0.01),
        "active_instances": 2,
        "records_per_instance_hour": pytest.approx(3600, abs=1),
        "pending_records": 400,
        "workers_needed": 1,
        "scale_up": False,
    }
    put_records(rows, "QUEUED", 200, flow="invoices", waiting_since=rows.at(-40 * 60))
    assert monitoring.calculate_capacity_utilization(processor=processor)["scale_up"] is True


def test_002_14_many_that_have_just_come_ask_for_no_more_workers(
    sqlite_processor: DistributedProcessor, sqlite_rows: Rows
) -> None:
    put_records(sqlite_rows, "QUEUED", 10, waiting_since=sqlite_rows.at(-40 * 60))
    put_records(sqlite_rows, "QUEUED", 600)
    said = monitoring.calculate_capacity_utilization(processor=sqlite_processor)
    assert (said["scale_up"], said["workers_needed"], said["utilization_percent"]) == (False, None, 0.0)


@pytest.mark.parametrize(
    ("pending", "size", "rate", "workers"),
    [(0, 50, 2, 0), (1000, 50, 4, 5), (1001, 50, 4, 6), (7, 100, 0.5, 1)],
)
def test_002_14_workers_are_pending_by_batch_and_rate_rounded_up(
    pending: int, size: int, rate: float, workers: int
) -> None:
    assert monitoring.workers_needed(pending, batch_size=size, batches_per_hour=rate) == workers
    with pytest.raises(ValueError):
        monitoring.workers_needed(1, batch_size=0, batches_per_hour=1)
