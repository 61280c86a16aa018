"""The schedules that ship for records: when they run, that installing them is safe to repeat, and what each
does. A test of a feature row begins with its number."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from click.testing import CliRunner

from app.distributed import DistributedProcessor
from app.monitoring import rounds
from app.tasks.model import Status
from app.tasks.recurrence import Recurrence
from app.tasks.runner import LiveTask, Runner, boot_clock
from scripts import records as command
from tests.contract.planning import make_due
from tests.contract.planning import row as schedule_row
from tests.contract.record_rows import open_lanes, processor_over, put_claimed, put_ended, put_records
from tests.contract.rows import Rows

MODULES = "app.handlers,app.monitoring.rounds"
HOUR, DAY = 3600, 86_400
QUARTER = timedelta(minutes=15)


def first_sunday(at: datetime) -> bool:
    return at.weekday() == 6 and at.day <= 7


# When each is to run, as a predicate over the quarters of an hour: nothing here reads a cron expression.
WHEN: dict[str, Callable[[datetime], bool]] = {
    "records.monitoring": lambda at: True,
    "records.orphans": lambda at: at.minute == 0 and at.hour in (0, 4, 8, 12, 16, 20),
    "records.performance": lambda at: (at.hour, at.minute) == (6, 0),
    "records.failed_reset": lambda at: at.weekday() == 6 and (at.hour, at.minute) == (2, 0),
    "records.database_review": lambda at: at.weekday() == 0 and (at.hour, at.minute) == (8, 0),
    "records.purge": lambda at: first_sunday(at) and (at.hour, at.minute) == (3, 0),
}


def quarters(after: datetime) -> Iterator[datetime]:
    """Every quarter of an hour after a moment."""
    at = after.replace(minute=after.minute // 15 * 15, second=0, microsecond=0)
    while True:
        at += QUARTER
        yield at


def next_by_hand(name: str, after: datetime) -> datetime:
    return next(at for at in quarters(after) if WHEN[name](at))


@pytest.fixture
def processor(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> Iterator[DistributedProcessor]:
    open_lanes(rows)
    with processor_over(rows, TASK_MODULES=MODULES) as made:
        made.system.prepare()
        monkeypatch.setattr(rounds, "own_processor", lambda: made)
        yield made


def installed(rows: Rows) -> list[dict[str, Any]]:
    return [dict(row._mapping) for row in rows.execute("SELECT * FROM schedules ORDER BY name")]


@pytest.mark.parametrize("name", WHEN)
def test_002_09_runs_are_planned_as_the_calendar_says(name: str) -> None:
    begin, end = datetime(2027, 12, 20, 0, 0, 1, tzinfo=UTC), datetime(2029, 1, 10, tzinfo=UTC)
    if name == "records.monitoring":
        end = begin + timedelta(days=10)
    by_hand = []
    for at in quarters(begin):
        if at > end:
            break
        if WHEN[name](at):
            by_hand.append(at)
    rule = Recurrence(rounds.CRONS[name])
    planned = [rule.first_after(begin)]
    while planned[-1] <= end:
        planned.append(rule.next_after(planned[-1], planned[-1]))
    assert planned[:-1] == by_hand
    assert len(by_hand) >= 12


def test_002_09_the_command_installs_them_once_and_lists_their_next_runs(
    sqlite_rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", sqlite_rows.url)
    refused = CliRunner().invoke(command.main, ["schedules", "install"])
    assert (refused.exit_code, f"TASK_MODULES={MODULES}" in refused.output) == (2, True)
    assert installed(sqlite_rows) == []
    monkeypatch.setenv("TASK_MODULES", MODULES)
    unknown = CliRunner().invoke(command.main, ["schedules", "install", "--time-zone", "Mars/Olympus"])
    assert (unknown.exit_code, installed(sqlite_rows)) == (2, [])

    before = datetime.now(UTC)
    assert CliRunner().invoke(command.main, ["schedules", "install"]).exit_code == 0
    after = datetime.now(UTC)

    listed = json.loads(CliRunner().invoke(command.main, ["schedules", "--json"]).stdout)
    assert [one["next_run_at"] for one in listed] == sorted(one["next_run_at"] for one in listed)
    shown = {one["name"]: datetime.fromisoformat(one["next_run_at"]) for one in listed}
    assert shown.keys() == WHEN.keys()
    for name, at in shown.items():
        assert at in {next_by_hand(name, moment) for moment in (before, after)}

    sqlite_rows.execute("UPDATE schedules SET cron = '7 * * * *' WHERE name = 'records.orphans'")
    kept = installed(sqlite_rows)
    again = CliRunner().invoke(command.main, ["schedules", "install", "--time-zone", "Europe/Berlin"])
    assert (again.exit_code, again.output) == (0, "0 schedules are new.\n")
    assert installed(sqlite_rows) == kept
    assert CliRunner().invoke(command.main, ["schedules", "remove"]).exit_code == 0
    assert installed(sqlite_rows) == []


def test_002_09_a_missed_run_is_caught_up_once(processor: DistributedProcessor, rows: Rows) -> None:
    schedules = processor.system.queue.schedules
    rounds.install(processor.system)
    missed = make_due(rows, 3 * DAY, "records.orphans")
    assert [schedules.fire_due(), schedules.fire_due()] == [1, 0]
    (key,) = [row[0] for row in rows.execute("SELECT idempotency_key FROM tasks")]
    assert key.startswith("schedule:records.orphans:")
    plan = schedule_row(rows, "records.orphans")
    assert -rows.seconds_from_now(plan["last_run_at"]) == pytest.approx(3 * DAY, abs=HOUR)
    assert missed.hour == schedules.get("records.orphans").last_run_at.hour  # type: ignore[union-attr]
    assert -HOUR < rows.seconds_from_now(plan["next_run_at"]) <= 4 * HOUR


def run(processor: DistributedProcessor, name: str) -> dict[str, Any]:
    """As a worker does it: the schedule starts a task, which is claimed, run and ended."""
    system = processor.system
    rounds.install(system)
    task_id = system.queue.schedules.run_now(name).task_id
    (claim,) = system.store.claims.queued(holder="a worker", limit=5, lease_seconds=600)
    runner = Runner(system.store, system.handlers, system.settings)
    settled = runner.run(LiveTask(claim, system.store, lease_ends=boot_clock() + 600))
    assert settled is not None
    assert settled.recorded == {task_id: Status.COMPLETED}
    result: dict[str, Any] = system.store.queries.task(task_id).result
    return result


def records(rows: Rows) -> dict[str, int]:
    found = rows.execute("SELECT status, COUNT(*) FROM processing_queue GROUP BY status")
    return {str(row[0]): int(row[1]) for row in found}


def seed(rows: Rows) -> None:
    put_claimed(rows, 2, ago=2 * HOUR, lease=-60)
    put_ended(rows, "FAILED", 3, ago=60, failures=1, error="no ledger")
    put_ended(rows, "FAILED", 4, ago=8 * DAY, failures=5)
    put_ended(rows, "COMPLETED", 5, ago=31 * DAY)
    put_ended(rows, "COMPLETED", 6, ago=60)


def test_002_09_each_round_does_what_it_is_for(processor: DistributedProcessor, rows: Rows) -> None:
    seed(rows)
    looked = run(processor, "records.monitoring")
    assert looked["queue_health_assessment"]["queue_health"] == "critical"  # 6 of 9 in a day
    assert looked["overall_queue_status"]["total_records"] == 20

    day = run(processor, "records.performance")
    assert (day["overall_metrics"]["records_completed"], day["overall_metrics"]["records_failed"]) == (6, 3)

    review = run(processor, "records.database_review")
    assert (review["database"]["connection"], review["pool"]["level"]) == (True, "ok")
    assert "ix_tasks_waiting" in {one["index"] for one in review["index_usage"]["indexes"]}
    assert records(rows) == {"processing": 2, "failed": 7, "completed": 11}

    assert run(processor, "records.orphans")["cleanup_results"]["records_cleaned"] == 2
    assert records(rows) == {"pending": 2, "failed": 7, "completed": 11}

    assert run(processor, "records.failed_reset")["reset_results"]["records_reset"] == 3
    assert records(rows) == {"pending": 5, "failed": 4, "completed": 11}

    purged = run(processor, "records.purge")
    assert (purged["completed_deleted"], purged["failed_deleted"]) == (5, 4)
    assert records(rows) == {"pending": 5, "completed": 6}


def test_rounds_do_not_take_the_place_of_what_has_their_name(
    processor: DistributedProcessor, rows: Rows
) -> None:
    put_records(rows, "QUEUED", 1)
    assert rounds.install(processor.system) == list(rounds.CRONS)
    processor.system.queue.schedules.pause("records.purge")
    assert rounds.install(processor.system) == []
    assert [one.name for one in rounds.installed(processor.system)][-1] == "records.purge"
