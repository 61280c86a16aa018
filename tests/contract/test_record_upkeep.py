"""Upkeep of records: what is brought back, reset and deleted, and what a dry run says of it. A test of a
feature row begins with its number."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner

from app.distributed import DistributedProcessor
from core import monitoring
from scripts import records as command
from tests.contract.record_rows import (
    UNHURRIED,
    open_lanes,
    processor_over,
    put_claimed,
    put_ended,
    put_records,
)
from tests.contract.rows import Rows

HOUR, DAY = 3600, 86_400


@pytest.fixture
def processor(rows: Rows) -> Iterator[DistributedProcessor]:
    open_lanes(rows)
    with processor_over(rows) as made:
        yield made


def seed_losses(rows: Rows) -> None:
    put_claimed(rows, 3, ago=2 * HOUR, lease=-60)
    put_claimed(rows, 2, ago=HOUR / 2, lease=-60)  # too young
    put_claimed(rows, 2, ago=3 * HOUR, lease=HOUR)  # alive
    last: dict[str, Any] = {"max_retries": 0, "started_at": rows.at(-2 * HOUR), "lease_until": rows.at(-60)}
    put_records(rows, "PROCESSING", 1, **last)  # no retry is left: it ends as failed
    put_ended(rows, "FAILED", 4, ago=60, failures=2)
    put_ended(rows, "FAILED", 1, flow="invoices", ago=60, failures=1)
    put_ended(rows, "FAILED", 5, ago=60, failures=3)  # at the limit
    put_ended(rows, "FAILED", 1, ago=60, failures=1, max_retries=0)  # never to be repeated


def test_002_04_a_dry_run_changes_nothing_and_predicts_the_exact_numbers(
    processor: DistributedProcessor, rows: Rows
) -> None:
    seed_losses(rows)
    before = rows.all()
    said = monitoring.distributed_system_maintenance(dry_run=True, processor=processor)
    assert rows.all() == before
    assert said["cleanup_results"]["records_cleaned"] == 4
    assert said["reset_results"]["by_flow"] == {"survey": 4, "invoices": 1}
    later = monitoring.distributed_system_maintenance(processor=processor)
    assert {**later, "dry_run": True} == said
    assert (rows.count("QUEUED"), rows.count("PROCESSING"), rows.count("FAILED")) == (8, 4, 7)
    again = monitoring.distributed_system_maintenance(processor=processor)
    assert (again["cleanup_results"]["records_cleaned"], again["reset_results"]["records_reset"]) == (0, 0)


def test_002_04_each_part_can_be_left_out(processor: DistributedProcessor, rows: Rows) -> None:
    seed_losses(rows)
    said = monitoring.distributed_system_maintenance(False, False, processor=processor)
    assert (said["cleanup_results"]["records_cleaned"], said["reset_results"]["records_reset"]) == (0, 0)
    said = monitoring.distributed_system_maintenance(False, True, max_retries=2, processor=processor)
    assert said["reset_results"]["by_flow"] == {"invoices": 1}
    said = monitoring.distributed_system_maintenance(True, False, 0.25, processor=processor)
    assert said["cleanup_results"] == {"records_cleaned": 6, "timeout_hours": 0.25}
    with pytest.raises(ValueError, match="orphaned_timeout_hours"):
        monitoring.distributed_system_maintenance(orphaned_timeout_hours=-1, processor=processor)


def test_002_06_the_rules_of_the_purge_hold_at_their_boundaries(
    processor: DistributedProcessor, rows: Rows
) -> None:
    kept = [
        put_ended(rows, "COMPLETED", ago=30 * DAY - 600),
        put_ended(rows, "FAILED", ago=7 * DAY - 600, failures=5),
        put_ended(rows, "FAILED", ago=90 * DAY, failures=4),
        put_ended(rows, "CANCELLED", ago=90 * DAY),
        put_records(rows, "QUEUED", created_at=rows.at(-90 * DAY)),
        rows.put("COMPLETED", ended_at=rows.at(-90 * DAY)),  # a task of a queue
        rows.put("FAILED", failures=9, ended_at=rows.at(-90 * DAY)),
    ]
    put_ended(rows, "COMPLETED", 3, ago=30 * DAY + 600)
    put_ended(rows, "FAILED", ago=7 * DAY + 600, failures=5)
    put_ended(rows, "FAILED", flow="invoices", ago=8 * DAY, failures=6)
    said = monitoring.purge_records(dry_run=True, processor=processor)
    assert said == {"dry_run": True, "completed_deleted": 3, "failed_deleted": 2}
    assert rows.count() == len(kept) + 5
    assert monitoring.purge_records(processor=processor) == {**said, "dry_run": False}
    assert sorted(rows.all()) == sorted(kept)


def test_002_06_one_flow_can_be_purged(processor: DistributedProcessor, rows: Rows) -> None:
    put_ended(rows, "COMPLETED", 2, ago=31 * DAY)
    other = put_ended(rows, "COMPLETED", 1, flow="invoices", ago=31 * DAY)
    assert monitoring.purge_records(flow="unheard of", processor=processor)["completed_deleted"] == 0
    assert monitoring.purge_records(flow="survey", processor=processor)["completed_deleted"] == 2
    assert list(rows.all()) == [other]


def test_000_15_completed_records_older_than_a_week_go_and_are_counted(
    processor: DistributedProcessor, rows: Rows
) -> None:
    put_ended(rows, "COMPLETED", 1200, ago=7 * DAY + 600)  # more than one batch
    young = put_ended(rows, "COMPLETED", ago=7 * DAY - 600)
    assert monitoring.purge_records(completed_days=7, processor=processor)["completed_deleted"] == 1200
    assert list(rows.all()) == [young]


def test_002_13_one_command_cleans_up_in_an_emergency(
    sqlite_rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_lanes(sqlite_rows)
    seed_losses(sqlite_rows)
    monkeypatch.setenv("DATABASE_URL", sqlite_rows.url)
    run = CliRunner().invoke
    line = ["maintain", "--timeout-hours", "0", "--max-retries", "100"]
    predicted = json.loads(run(command.main, [*line, "--dry-run", "--json"]).stdout)
    done = run(command.main, line)
    assert (done.exit_code, done.stdout) == (
        0,
        "6 orphaned records brought back, 10 failed ones reset\n",
    )
    assert predicted["cleanup_results"]["records_cleaned"] == 6
    assert predicted["reset_results"]["records_reset"] == 10


def test_the_exit_code_of_each_command_says_what_was_found(
    sqlite_rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_lanes(sqlite_rows)
    monkeypatch.setenv("DATABASE_URL", sqlite_rows.url)
    for name, value in UNHURRIED.items():
        monkeypatch.setenv(name, str(value))

    def codes() -> list[int]:
        lines = (["status"], ["diagnose"], ["capacity"], ["report", "owners"], ["purge", "--dry-run"])
        return [CliRunner().invoke(command.main, line).exit_code for line in lines]

    assert codes() == [0, 0, 0, 0, 0]
    put_claimed(sqlite_rows, 60, ago=2 * HOUR, lease=-60)
    put_records(sqlite_rows, "QUEUED", 501, waiting_since=sqlite_rows.at(-HOUR))
    assert codes() == [1, 1, 1, 1, 0]
    assert CliRunner().invoke(command.main, ["report", "everything"]).exit_code == 2
    monkeypatch.setenv("DATABASE_URL", "postgresql+psycopg://127.0.0.1:1/none")
    assert codes() == [1, 2, 2, 2, 2]
