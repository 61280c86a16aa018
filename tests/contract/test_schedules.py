"""Schedules: each planned time is fired once, whoever looks and whoever dies; a missed one is made up for."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from app.tasks.errors import InvalidTask, ScheduleNotFound, ScheduleRefused, UnknownTaskName
from app.tasks.healing import Sweeper
from app.tasks.model import Completed, Schedule, ScheduleState, Status
from app.tasks.queue import TaskQueue
from app.tasks.routing import Intake
from app.tasks.schedule_requests import ScheduleRequest
from app.tasks.store import Store
from app.tasks.tickets import RQQueueManager
from tests.contract.parts import MakeQueue, MakeStore, at_once, counted, make_queue_over
from tests.contract.rows import Rows
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]


def wanted(name: str = "report", **fields: Any) -> ScheduleRequest:
    defaults: dict[str, Any] = {"task": "test.noop", "interval_seconds": 60, "payload": {"a": 1}}
    return ScheduleRequest(name=name, **(defaults | fields))


def make_due(rows: Rows, seconds_ago: float = 1, name: str = "report") -> datetime:
    """Let a schedule's next time be past; returns it."""
    moment = (datetime.now(UTC) - timedelta(seconds=seconds_ago)).replace(microsecond=0)
    text_of = moment.strftime("%Y-%m-%d %H:%M:%S.%f") + ("+00" if rows.kind == "postgresql" else "")
    rows.execute("UPDATE schedules SET next_run_at = :at WHERE name = :name", at=text_of, name=name)
    return moment


def row(rows: Rows, name: str = "report") -> dict[str, Any]:
    return dict(rows.execute("SELECT * FROM schedules WHERE name = :name", name=name)[0]._mapping)


def run_keys(rows: Rows) -> list[str]:
    return sorted(row["idempotency_key"] for row in rows.all().values())


def test_a_due_schedule_becomes_a_task_and_has_its_next_time(make_queue: MakeQueue, rows: Rows) -> None:
    queue = make_queue()
    created = queue.schedules.create(wanted(user_id="ada", max_retries=2, timeout_seconds=5, priority="high"))
    assert rows.seconds_from_now(row(rows)["next_run_at"]) == pytest.approx(60, abs=5)
    assert queue.schedules.fire_due() == 0
    planned = make_due(rows)
    assert queue.schedules.fire_due() == 1
    assert queue.schedules.fire_due() == 0
    [task_id] = rows.all()
    task = queue.store.queries.task(task_id)
    assert (task.name, task.payload, task.priority, task.user_id) == ("test.noop", {"a": 1}, "high", "ada")
    assert (task.max_retries, task.timeout_seconds, task.status) == (2, 5, Status.DISPATCHED)
    assert task.planned_run is not None
    assert (task.planned_run.schedule, task.planned_run.planned_at) == ("report", planned)
    now = queue.schedules.get("report")
    assert (now.last_task_id, now.last_run_at, now.skipped) == (task_id, planned, 0)
    assert now.next_run_at == planned + timedelta(seconds=60)
    assert now.recurrence == created.recurrence


def test_the_claim_tells_the_handler_for_what_time_it_was_planned(make_store: MakeStore, rows: Rows) -> None:
    store = make_store(rows, redis_percent=0)
    queue = make_queue_over(store)()
    queue.schedules.create(wanted())
    planned = make_due(rows)
    queue.schedules.fire_due()
    [claim] = store.claims.queued(holder="w", limit=1, lease_seconds=30)
    assert claim.planned_run is not None
    assert claim.planned_run.planned_at == planned


def test_several_missed_runs_are_made_up_for_once_and_the_beat_stays(
    make_queue: MakeQueue, rows: Rows
) -> None:
    queue = make_queue()
    queue.schedules.create(wanted())
    first_missed = make_due(rows, seconds_ago=3610)
    assert queue.schedules.fire_due() == 1
    assert queue.schedules.fire_due() == 0
    assert rows.count() == 1
    now = queue.schedules.get("report")
    assert now.last_run_at == first_missed
    assert now.next_run_at is not None
    assert (now.next_run_at - first_missed) % timedelta(seconds=60) == timedelta(0)
    assert 0 < rows.seconds_from_now(row(rows)["next_run_at"]) <= 61


def test_of_eight_schedulers_at_once_one_fires(rows: Rows, make_store: MakeStore) -> None:
    queues = [make_queue_over(make_store(rows))() for _ in range(8)]
    queues[0].schedules.create(wanted(overlap="allow"))
    for round_number in range(3):
        make_due(rows, seconds_ago=10 - round_number)
        answers = at_once([queue.schedules.fire_due for queue in queues])
        assert sorted(answers, key=str) == [0] * 7 + [1], answers
    assert len(set(run_keys(rows))) == rows.count() == 3


def test_two_that_read_the_same_planned_time_fire_it_once(rows: Rows, make_store: MakeStore) -> None:
    """Also where nothing but the guard keeps them apart: both have read before either writes."""
    one, other = (make_queue_over(make_store(rows))() for _ in range(2))
    one.schedules.create(wanted(overlap="allow"))
    make_due(rows)
    seen, now = one.store.schedules.due(limit=5)
    same, _ = other.store.schedules.due(limit=5)
    assert one.schedules._fire_planned(seen[0], now)
    assert not other.schedules._fire_planned(same[0], now)
    assert rows.count() == 1


KILLED_IN_MID_RUN = """
import os, signal, sys
from app.tasks.database import Database
from app.tasks.store import Store
from app.tasks.store.submitting import Submissions
from tests.contract.parts import make_queue_over
insert = Submissions.insert_many
def insert_and_die(self, *arguments):
    insert(self, *arguments)
    os.kill(os.getpid(), signal.SIGKILL)
Submissions.insert_many = insert_and_die
make_queue_over(Store.over(Database(sys.argv[1])))().schedules.fire_due()
"""


def test_a_scheduler_killed_between_its_writes_neither_loses_nor_doubles_a_run(
    rows: Rows, make_queue: MakeQueue
) -> None:
    queue = make_queue()
    queue.schedules.create(wanted())
    planned = make_due(rows)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_IN_MID_RUN, rows.url], cwd=ROOT, capture_output=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    wait_until(lambda: queue.schedules.fire_due() == 1, deadline_seconds=20, what="the run is fired")
    assert rows.count() == 1
    assert queue.schedules.get("report").last_run_at == planned


def test_a_ticket_that_a_killed_scheduler_did_not_push_is_the_sweepers(
    rows: Rows, make_queue: MakeQueue, tickets: RQQueueManager
) -> None:
    make_queue().schedules.create(wanted())
    make_due(rows)
    make_queue().schedules.fire_due()  # a queue without Redis: what is committed stays without a ticket
    [task_id] = rows.all()
    assert rows.status(task_id) == "DISPATCHED"
    sweeper = Sweeper(make_queue(tickets, ticket_grace_seconds=0), holder="s")
    healed = sweeper.full_pass()
    assert healed is not None
    assert healed.pushed == 1


def test_a_run_whose_predecessor_is_open_is_skipped_and_told(make_queue: MakeQueue, rows: Rows) -> None:
    queue = make_queue()
    queue.schedules.create(wanted())
    make_due(rows, 200)
    queue.schedules.fire_due()
    [first] = rows.all()
    make_due(rows, 100)
    assert queue.schedules.fire_due() == 1
    skipped = queue.schedules.get("report")
    assert (rows.count(), skipped.skipped, skipped.last_task_id) == (1, 1, first)
    assert str(first) in str(skipped.skip_reason)
    assert skipped.next_run_at is not None
    queue.cancel(first)
    make_due(rows, 1)
    queue.schedules.fire_due()
    again = queue.schedules.get("report")
    assert (rows.count(), again.skipped, again.skip_reason) == (2, 1, None)


def test_runs_may_overlap_where_the_schedule_allows_it(make_queue: MakeQueue, rows: Rows) -> None:
    queue = make_queue()
    queue.schedules.create(wanted(overlap="allow"))
    for seconds in (200, 100):
        make_due(rows, seconds)
        queue.schedules.fire_due()
    assert rows.count() == 2


def test_a_run_whose_user_is_at_the_limit_is_skipped_and_told(make_queue: MakeQueue, rows: Rows) -> None:
    queue = make_queue(active_tasks_per_user=1)
    queue.schedules.create(wanted(user_id="ada", overlap="allow"))
    for seconds in (200, 100):
        make_due(rows, seconds)
        assert queue.schedules.fire_due() == 1
    now = queue.schedules.get("report")
    assert (rows.count(), now.skipped) == (1, 1)
    assert "ada" in str(now.skip_reason)
    with pytest.raises(ScheduleRefused, match="ada"):
        queue.schedules.run_now("report")


@pytest.mark.parametrize("mode", [Intake.HOLD, Intake.REFUSE])
def test_a_run_during_a_pause_of_intake_is_held_until_its_end(
    make_queue: MakeQueue, rows: Rows, mode: Intake
) -> None:
    queue = make_queue()
    queue.schedules.create(wanted())
    make_due(rows)
    queue.pause_intake(reason="moving", mode=mode)
    queue.schedules.fire_due()
    [task_id] = rows.all()
    assert rows.status(task_id) == "SCHEDULED"
    queue.resume_intake()
    sweeper = Sweeper(queue, holder="s")
    sweeper.full_pass()
    assert rows.status(task_id) == "DISPATCHED"


def test_a_planned_time_that_has_its_task_already_gets_no_second_one(
    make_queue: MakeQueue, rows: Rows
) -> None:
    """As after a clock that was put back."""
    queue = make_queue()
    queue.schedules.create(wanted(overlap="allow"))
    planned = make_due(rows, 100)
    queue.schedules.fire_due()
    [first] = rows.all()
    back = planned.strftime("%Y-%m-%d %H:%M:%S.%f") + ("+00" if rows.kind == "postgresql" else "")
    rows.execute("UPDATE schedules SET next_run_at = :at", at=back)
    assert queue.schedules.fire_due() == 1
    now = queue.schedules.get("report")
    assert (rows.count(), now.last_task_id, now.skipped) == (1, first, 0)


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
    assert queue.store.schedules.seconds_to_next() is None
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


def test_a_schedule_whose_zone_this_machine_does_not_know_holds_up_no_other(
    sqlite_rows: Rows, sqlite_store: Store
) -> None:
    queue = make_queue_over(sqlite_store)()
    for name in ("broken", "good"):
        queue.schedules.create(wanted(name, cron="0 6 * * *", interval_seconds=None))
        make_due(sqlite_rows, 5, name)
    sqlite_rows.execute("UPDATE schedules SET time_zone = 'Mars/Olympus' WHERE name = 'broken'")
    assert queue.schedules.fire_due() == 1
    broken = queue.schedules.get("broken")
    assert (broken.state, broken.next_run_at) == (ScheduleState.PAUSED, None)
    assert "cannot be told" in str(broken.skip_reason)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_sweeper_with_nothing_due_asks_once_and_sleeps_until_the_next_run(
    rows: Rows, make_queue: MakeQueue
) -> None:
    clock, queue = Clock(), make_queue()
    sweeper = Sweeper(queue, holder="s", clock=clock)
    sweeper.step()
    asleep = sweeper.pause_seconds
    with counted(rows.database) as seen:
        sweeper.step()
    assert seen["statements"] == 1
    queue.schedules.create(wanted())
    make_soon(rows, 2)
    sweeper.step()
    assert 0 < sweeper.pause_seconds <= 2 < asleep


def make_soon(rows: Rows, seconds: float) -> None:
    rows.execute("UPDATE schedules SET next_run_at = :at", at=rows.at(seconds))


def test_the_sweeper_fires_what_is_due(rows: Rows, make_queue: MakeQueue) -> None:
    queue: TaskQueue = make_queue()
    queue.schedules.create(wanted())
    make_due(rows)
    sweeper = Sweeper(queue, holder="s")
    healed = sweeper.step()
    assert healed is not None
    assert healed.fired == 1
    assert Sweeper(queue, holder="another").step() is None


def test_an_ended_run_does_not_stand_in_the_way(rows: Rows, make_store: MakeStore) -> None:
    store = make_store(rows, redis_percent=0)
    queue = make_queue_over(store)()
    queue.schedules.create(wanted())
    for seconds in (100, 50):
        make_due(rows, seconds)
        queue.schedules.fire_due()
        [claim] = store.claims.queued(holder="w", limit=1, lease_seconds=30)
        store.settlements.settle([Completed(claim, "null")])
    seen: Schedule = queue.schedules.get("report")
    assert (rows.count("COMPLETED"), seen.skipped) == (2, 0)


def test_the_database_itself_refuses_a_schedule_without_or_with_two_rules(rows: Rows, store: Store) -> None:
    make_queue_over(store)().schedules.create(wanted())
    for change in ("cron = '* * * * *'", "interval_seconds = NULL"):
        with pytest.raises(Exception, match=r"(?i)check|constraint"), rows.engine.begin() as on:
            on.execute(text(f"UPDATE schedules SET {change}"))
