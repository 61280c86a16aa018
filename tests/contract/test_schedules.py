"""Schedules: each planned time is fired once, whoever looks and whoever dies; a missed one is made up for."""

from __future__ import annotations

import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from app.tasks.errors import ScheduleRefused
from app.tasks.healing import Sweeper
from app.tasks.model import Completed, Schedule, ScheduleState, Status
from app.tasks.queue import TaskQueue
from app.tasks.routing import Intake
from app.tasks.store import Store
from app.tasks.tickets import RQQueueManager
from tests.clocks import Clock
from tests.contract.parts import MakeQueue, MakeStore, at_once, counted, make_queue_over
from tests.contract.planning import make_due, make_soon, row, wanted
from tests.contract.rows import Rows
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]


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
    wait_until(lambda: queue.schedules.fire_due() == 1, deadline_seconds=60, what="the run is fired")
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
    make_soon(rows, 15)
    sweeper.step()
    assert 0 < sweeper.pause_seconds <= 15 < asleep


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
