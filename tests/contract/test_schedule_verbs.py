"""The verbs on schedules: what people and the code may ask for, and what is refused."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import text

from app.tasks.errors import InvalidTask, ScheduleNotFound, ScheduleRefused, UnknownTaskName
from app.tasks.model import ScheduleState
from app.tasks.store import Store
from tests.contract.parts import MakeQueue, MakeStore, at_once, make_queue_over
from tests.contract.planning import make_due, row, wanted
from tests.contract.rows import Rows


def test_run_now_leaves_the_plan_alone(make_queue: MakeQueue, rows: Rows) -> None:
    queue = make_queue()
    before = queue.schedules.create(wanted())
    submitted = queue.schedules.run_now("report")
    after = queue.schedules.get("report")
    assert (after.next_run_at, after.last_task_id) == (before.next_run_at, submitted.task_id)
    with pytest.raises(ScheduleRefused, match="still open") as refused:
        queue.schedules.run_now("report")
    assert refused.value.task_id == submitted.task_id
    assert (rows.count(), queue.schedules.get("report").skipped) == (1, 0)


def test_a_paused_schedule_is_not_due_and_makes_nothing_up_when_it_is_resumed(
    make_queue: MakeQueue, rows: Rows
) -> None:
    queue = make_queue()
    queue.schedules.create(wanted(enabled=False))
    assert queue.schedules.get("report").state is ScheduleState.PAUSED
    assert queue.store.looks.glance("s").next_run_seconds is None
    queue.schedules.resume("report")
    make_due(rows, 3600)
    queue.schedules.pause("report")
    assert queue.schedules.fire_due() == 0
    resumed = queue.schedules.resume("report")
    assert resumed.next_run_at is not None
    assert resumed.next_run_at > datetime.now(UTC)
    assert queue.schedules.run_now("report").created


def test_a_change_of_the_payload_keeps_the_next_time_and_one_of_the_beat_does_not(
    make_queue: MakeQueue, rows: Rows
) -> None:
    queue = make_queue()
    before = queue.schedules.create(wanted())
    changed = queue.schedules.change("report", {"payload": {"b": 2}})
    assert (changed.next_run_at, json.loads(changed.payload)) == (before.next_run_at, {"b": 2})
    slower = queue.schedules.change("report", {"interval_seconds": 3600})
    assert 3500 < rows.seconds_from_now(row(rows)["next_run_at"]) <= 3600
    assert slower.version == before.version + 2
    daily = queue.schedules.change("report", {"cron": "0 6 * * *"})
    assert daily.recurrence.cron == "0 6 * * *"


def test_a_change_that_meets_a_run_is_refused_and_the_run_counts(
    make_queue: MakeQueue, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = make_queue()
    stale = queue.schedules.create(wanted())
    queue.schedules.run_now("report")
    monkeypatch.setattr(queue.schedules, "get", lambda name: stale)
    with pytest.raises(ScheduleRefused, match="at this moment"):
        queue.schedules.change("report", {"payload": {}})
    with pytest.raises(ScheduleRefused, match="at this moment"):
        queue.schedules.remove("report")


def test_a_removed_schedule_leaves_its_tasks(make_queue: MakeQueue, rows: Rows) -> None:
    queue = make_queue()
    queue.schedules.create(wanted())
    queue.schedules.run_now("report")
    with pytest.raises(ScheduleRefused, match="taken"):
        queue.schedules.create(wanted())
    queue.schedules.remove("report")
    assert (queue.schedules.list(), rows.count()) == ([], 1)
    with pytest.raises(ScheduleNotFound):
        queue.schedules.pause("report")


def test_what_the_code_declares_begins_changes_and_is_withdrawn(make_queue: MakeQueue, rows: Rows) -> None:
    queue = make_queue()
    queue.schedules.sync([wanted("a"), wanted("b", enabled=False)])
    make_due(rows, 30, "a")
    first = queue.schedules.get("a")
    assert (first.state, queue.schedules.get("b").state) == ("active", "withdrawn")

    queue.schedules.sync([wanted("a"), wanted("b")])
    assert queue.schedules.get("a") == first  # not even its version
    assert queue.schedules.get("b").state is ScheduleState.ACTIVE

    queue.schedules.sync([wanted("a", payload={"new": 1}), wanted("b", interval_seconds=600)])
    assert queue.schedules.get("a").next_run_at == first.next_run_at
    assert 500 < rows.seconds_from_now(row(rows, "b")["next_run_at"]) <= 600

    queue.schedules.sync([wanted("b", interval_seconds=600)])
    gone = queue.schedules.get("a")
    assert (gone.state, gone.next_run_at) == (ScheduleState.WITHDRAWN, None)
    with pytest.raises(ScheduleRefused, match="not declare"):
        queue.schedules.resume("a")
    queue.schedules.remove("a")


def test_an_operators_pause_outlives_a_start_and_the_codes_definition_stays_its_own(
    make_queue: MakeQueue, rows: Rows
) -> None:
    queue = make_queue()
    queue.schedules.sync([wanted()])
    queue.schedules.pause("report")
    queue.schedules.sync([wanted(interval_seconds=90)])
    now = queue.schedules.get("report")
    assert (now.state, now.recurrence.interval_seconds) == (ScheduleState.PAUSED, 90)
    with pytest.raises(ScheduleRefused, match="code declares"):
        queue.schedules.change("report", {"payload": {}})
    with pytest.raises(ScheduleRefused, match="come back"):
        queue.schedules.remove("report")
    queue.schedules.resume("report")
    queue.schedules.create(wanted("mine"))
    queue.schedules.sync([wanted(), wanted("mine", task="test.other")])
    assert queue.schedules.get("mine").task == "test.noop"


def test_processes_that_start_together_declare_a_schedule_once(rows: Rows, make_store: MakeStore) -> None:
    queues = [make_queue_over(make_store(rows))() for _ in range(4)]
    declared = [wanted("a"), wanted("b", cron="0 6 * * *", interval_seconds=None)]
    assert at_once([lambda q=queue: q.schedules.sync(declared) for queue in queues]) == [None] * 4  # type: ignore[misc]
    assert [schedule.name for schedule in queues[0].schedules.list()] == ["a", "b"]


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"interval_seconds": None}, ["cron"]),
        ({"cron": "0 6 * * *"}, ["cron"]),
        ({"interval_seconds": 0}, ["interval_seconds"]),
        ({"interval_seconds": 0.5}, ["interval_seconds"]),
        ({"cron": "61 * * * *", "interval_seconds": None}, ["cron"]),
        ({"time_zone": "Mars/Olympus"}, ["time_zone"]),
        ({"name": "no blanks"}, ["name"]),
        ({"overlap": "maybe", "priority": "x"}, ["overlap", "priority"]),
        ({"payload": "x" * 300_000}, ["payload"]),
        ({"time_zone": "?", "task": "no.such"}, ["time_zone", "task"]),
    ],
)
def test_a_wrong_definition_names_its_fields(
    sqlite_store: Store, fields: dict[str, Any], wrong: list[str]
) -> None:
    queue = make_queue_over(sqlite_store)()
    with pytest.raises(InvalidTask) as refused:
        queue.schedules.create(wanted(**fields))
    assert [problem.field for problem in refused.value.problems] == wrong
    assert queue.schedules.list() == []


def test_an_unknown_task_is_told_from_other_mistakes(sqlite_store: Store) -> None:
    with pytest.raises(UnknownTaskName) as refused:
        make_queue_over(sqlite_store)().schedules.create(wanted(task="no.such"))
    assert refused.value.problems[0].field == "task"


def test_the_database_itself_refuses_a_schedule_without_or_with_two_rules(rows: Rows, store: Store) -> None:
    make_queue_over(store)().schedules.create(wanted())
    for change in ("cron = '* * * * *'", "interval_seconds = NULL"):
        with pytest.raises(Exception, match=r"(?i)check|constraint"), rows.engine.begin() as on:
            on.execute(text(f"UPDATE schedules SET {change}"))
