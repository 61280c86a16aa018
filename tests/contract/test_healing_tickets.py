"""Healing of tickets: what was lost is pushed again, what is there is left alone, what is stale goes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from app.tasks.healing import Healed, Sweeper
from app.tasks.model import PRIORITIES, Priority, Ticket
from app.tasks.queue import TaskQueue
from app.tasks.routing import Intake
from app.tasks.settings import CoreSettings
from app.tasks.store import Store
from app.tasks.tickets import Look, RQQueueManager
from app.tasks.tickets.manager import Ended
from tests.contract.parts import HANDLERS, statements_of
from tests.contract.rows import Rows

GRACE = 30
OLD, YOUNG = -100, -5
WORKER = "here:1"


class Setting:
    """A sweeper over one database and one Redis, whose pushes can be made to look older."""

    def __init__(self, store: Store, rows: Rows, tickets: RQQueueManager, raw: Any) -> None:
        self.store, self.rows, self.tickets, self.raw = store, rows, tickets, raw
        self.skew = 0.0
        tickets.database_clock = lambda: time.time() + self.skew
        settings = CoreSettings(ticket_grace_seconds=GRACE)
        self.queue = TaskQueue(store, HANDLERS, tickets, settings)
        self.sweeper = Sweeper(self.queue, holder="the sweeper")

    def put(self, *, waiting: float = OLD, count: int = 1, **columns: Any) -> int:
        since = self.rows.at(waiting)
        return self.rows.put(
            "DISPATCHED", count=count, **({"confirmed_in": 0, "waiting_since": since} | columns)
        )

    def push(self, *task_ids: int, ago: float = 0, epoch: int = 3) -> None:
        self.skew = -ago
        self.tickets.push([Ticket(i, epoch, Priority.NORMAL, "test.noop") for i in task_ids])
        self.skew = 0

    def sweep(self) -> Healed:
        healed = self.sweeper.full_pass()
        assert healed is not None
        return healed

    def queue_list(self, priority: str = "normal") -> list[str]:
        return list(self.raw.lrange(f"rq:queue:{priority}", 0, -1))

    @property
    def incarnation(self) -> int:
        return self.tickets.look(Priority.NORMAL).incarnation

    def confirmed_in(self, task_id: int) -> int:
        return int(self.rows.row(task_id)["confirmed_in"])


@pytest.fixture
def setting(sqlite_store: Store, sqlite_rows: Rows, tickets: RQQueueManager, raw: Any) -> Setting:
    return Setting(sqlite_store, sqlite_rows, tickets, raw)


# --- the first look ----------------------------------------------------------------------------------


def test_a_ticket_that_was_never_pushed_is_pushed_with_the_rows_epoch(setting: Setting) -> None:
    task_id = setting.put(epoch=7)
    assert setting.sweep().pushed == 1
    assert setting.queue_list() == [f"t{task_id}-e7"]
    assert setting.rows.row(task_id)["epoch"] == 7
    assert setting.sweep().confirmed == 1
    assert setting.confirmed_in(task_id) == setting.incarnation
    assert setting.queue_list() == [f"t{task_id}-e7"]


def test_a_row_younger_than_the_grace_is_left_to_whoever_submitted_it(setting: Setting) -> None:
    setting.put(waiting=YOUNG)
    healed = setting.sweep()
    assert (healed.pushed, healed.confirmed) == (0, 0)
    assert setting.queue_list() == []


def test_a_ticket_that_is_there_is_confirmed_and_not_doubled(setting: Setting) -> None:
    task_id = setting.put()
    setting.push(task_id)
    healed = setting.sweep()
    assert (healed.pushed, healed.confirmed) == (0, 1)
    assert setting.queue_list() == [f"t{task_id}-e3"]
    assert setting.confirmed_in(task_id) == setting.incarnation


def test_a_ticket_that_was_popped_and_lost_is_pushed_again_though_its_hash_exists(setting: Setting) -> None:
    task_id = setting.put()
    setting.push(task_id)
    setting.raw.lpop("rq:queue:normal")  # as a stock worker that dies before it records the job
    assert setting.raw.exists(f"rq:job:t{task_id}-e3")
    assert setting.sweep().pushed == 1
    assert setting.queue_list() == [f"t{task_id}-e3"]


def test_a_dead_workers_in_flight_list_does_not_count_as_the_queue(setting: Setting) -> None:
    task_id = setting.put()
    setting.push(task_id)
    setting.tickets.take(WORKER, PRIORITIES, 1)
    assert setting.sweep().pushed == 1
    assert setting.queue_list() == [f"t{task_id}-e3"]


def test_missing_tickets_are_pushed_in_order_and_each_to_its_own_queue(setting: Setting) -> None:
    low = setting.put(priority="low", count=2)
    normal = setting.put(count=3)
    setting.push(normal + 1)
    assert setting.sweep().pushed == 4
    assert setting.queue_list("low") == [f"t{low}-e3", f"t{low + 1}-e3"]
    assert setting.queue_list() == [f"t{normal + 1}-e3", f"t{normal}-e3", f"t{normal + 2}-e3"]


def test_more_lost_tickets_than_one_batch_are_all_pushed_once(setting: Setting) -> None:
    first = setting.put(count=1300)
    for _ in range(3):
        setting.sweep()
    assert setting.queue_list() == [f"t{task_id}-e3" for task_id in range(first, first + 1300)]
    assert setting.rows.scalar("SELECT COUNT(*) FROM tasks WHERE confirmed_in = 0") == 0


def test_a_claimed_row_gets_no_second_ticket(setting: Setting) -> None:
    task_id = setting.put()
    setting.store.claims.tickets([(task_id, 3)], holder=WORKER, lease_seconds=30)
    assert setting.sweep().pushed == 0


@pytest.mark.parametrize(
    "change",
    [{"paused": True}, {"fenced_track": "redis"}],
    ids=["paused", "fenced"],
)
def test_nothing_is_pushed_to_a_queue_that_is_shut_until_it_opens(
    change: dict[str, Any], setting: Setting
) -> None:
    setting.put()
    setting.store.routing.change(**change)
    assert setting.sweep().pushed == 0
    setting.store.routing.change(paused=False, fenced_track=None)
    assert setting.sweep().pushed == 1


def test_a_ticket_refused_by_a_pause_is_pushed_again_after_it(setting: Setting) -> None:
    task_id = setting.put()
    setting.push(task_id)
    setting.sweep()
    setting.store.routing.change(paused=True)
    (taken,) = setting.tickets.take(WORKER, PRIORITIES, 1)
    answer = setting.store.claims.tickets([(task_id, 3)], holder=WORKER, lease_seconds=30)
    setting.store.dispatched.unconfirm(answer.refused)
    setting.tickets.finish(WORKER, [Ended(taken.job_id, taken.priority, None)])
    assert setting.confirmed_in(task_id) == 0
    setting.store.routing.change(paused=False)
    setting.sweep()
    assert setting.queue_list() == [f"t{task_id}-e3"]


def test_a_ticket_that_is_taken_and_claimed_during_the_comparison_is_not_doubled(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    task_id = setting.put()
    setting.push(task_id)
    look = setting.tickets.look

    def look_late(priority: Priority, **span: int) -> Look:
        if priority is Priority.NORMAL and not span:
            setting.tickets.take(WORKER, PRIORITIES, 1)
        found = look(priority, **span)
        if priority is Priority.NORMAL and not span:
            setting.store.claims.tickets([(task_id, 3)], holder=WORKER, lease_seconds=30)
        return found

    monkeypatch.setattr(setting.tickets, "look", look_late)
    assert setting.sweep().pushed == 0
    assert setting.queue_list() == []
    assert setting.rows.row(task_id)["status"] == "PROCESSING"


# --- the second look ---------------------------------------------------------------------------------


def test_a_confirmed_row_whose_queue_is_empty_has_lost_its_ticket(setting: Setting) -> None:
    task_id = setting.put(confirmed_in=setting.incarnation)
    assert setting.sweep().pushed == 1
    assert setting.queue_list() == [f"t{task_id}-e3"]


def test_a_confirmed_row_is_suspected_once_the_head_is_younger_than_it_by_the_grace(setting: Setting) -> None:
    lost = setting.put(waiting=-100, confirmed_in=setting.incarnation)
    head = setting.put(waiting=YOUNG)
    setting.push(head, ago=60)  # 40 s after the lost row began to wait
    assert setting.sweep().pushed == 1
    assert setting.queue_list() == [f"t{head}-e3", f"t{lost}-e3"]


def test_a_confirmed_row_behind_an_older_head_is_not_suspected(setting: Setting) -> None:
    setting.put(waiting=-100, confirmed_in=setting.incarnation)
    head = setting.put(waiting=YOUNG)
    setting.push(head, ago=80)  # 20 s after the row began to wait: less than the grace
    assert setting.sweep().pushed == 0
    assert setting.queue_list() == [f"t{head}-e3"]


def test_a_confirmed_row_whose_ticket_still_stands_in_the_queue_is_left_alone(setting: Setting) -> None:
    ids = [setting.put(waiting=-100, confirmed_in=setting.incarnation) for _ in range(3)]
    setting.push(*ids, ago=1)
    assert setting.sweep().pushed == 0
    assert len(setting.queue_list()) == 3


def test_a_confirmed_row_younger_than_the_grace_is_not_suspected(setting: Setting) -> None:
    setting.put(waiting=YOUNG, confirmed_in=setting.incarnation)
    assert setting.sweep().pushed == 0


def test_ages_are_told_by_one_clock_however_wrong_this_hosts_is(setting: Setting) -> None:
    """The push time and the age of the head come from the same clock, so a skew cancels out."""
    lost = setting.put(waiting=-200, confirmed_in=setting.incarnation)
    head = setting.put(waiting=YOUNG)
    for skew in (-3600.0, 3600.0):
        setting.raw.delete("rq:queue:normal")
        setting.skew = skew
        setting.tickets.push([Ticket(head, 3, Priority.NORMAL, "test.noop")])
        assert setting.sweep().pushed == 1, f"host clock {skew:+g} s"
        assert f"t{lost}-e3" in setting.queue_list()
    setting.raw.delete("rq:queue:normal")
    young = setting.put(waiting=-10, confirmed_in=setting.incarnation)
    setting.tickets.push([Ticket(lost, 3, Priority.NORMAL, "test.noop")])
    assert setting.sweep().pushed == 0
    assert f"t{young}-e3" not in setting.queue_list()


def test_a_sweep_of_what_is_in_order_writes_nothing_and_pushes_nothing(setting: Setting) -> None:
    ids = [setting.put() for _ in range(3)]
    setting.push(*ids)
    setting.sweep()
    before = setting.rows.all()
    with statements_of(setting.store.database) as texts:
        healed = setting.sweep()
    assert healed == Healed()
    assert setting.rows.all() == before
    assert not [text for text in texts if "tasks" in text and not text.lstrip().upper().startswith("SELECT")]


# --- incarnations ------------------------------------------------------------------------------------


def test_a_server_that_lost_everything_is_filled_again_in_order(setting: Setting) -> None:
    first = setting.put(count=5)
    setting.push(*range(first, first + 5))
    setting.sweep()
    setting.raw.flushall()
    assert setting.sweep().pushed == 5
    assert setting.queue_list() == [f"t{task_id}-e3" for task_id in range(first, first + 5)]


def test_a_crash_in_the_middle_of_refilling_doubles_nothing_and_forgets_nothing(setting: Setting) -> None:
    first = setting.put(count=6, confirmed_in=12345)
    setting.push(first, first + 1, first + 2)  # as far as the one before came
    healed = setting.sweep()
    assert (healed.confirmed, healed.pushed) == (3, 3)
    assert sorted(setting.queue_list()) == sorted(f"t{n}-e3" for n in range(first, first + 6))


def test_a_second_loss_during_the_refill_is_noticed(setting: Setting) -> None:
    first = setting.put(count=3)
    setting.sweep()
    setting.sweep()
    setting.raw.flushall()
    setting.sweep()
    setting.raw.flushall()
    setting.sweep()
    setting.sweep()
    assert len(setting.queue_list()) == 3
    assert {setting.confirmed_in(first + n) for n in range(3)} == {setting.incarnation}


# --- stale tickets -----------------------------------------------------------------------------------


def test_tickets_that_name_no_waiting_row_are_taken_out_so_that_llen_is_true(setting: Setting) -> None:
    rows = setting.rows
    valid = setting.put(waiting=YOUNG)
    stale = [
        rows.put("SCHEDULED"),
        rows.put("PROCESSING"),
        rows.put("COMPLETED"),
        rows.put("CANCELLED"),
        987_654_321,
    ]
    setting.push(*stale, valid)
    setting.push(valid, epoch=2)
    setting.raw.rpush("rq:queue:normal", "somebody-elses-job")
    assert setting.sweep().stale == 6
    assert setting.queue_list() == [f"t{valid}-e3", "somebody-elses-job"]
    assert setting.raw.keys("rq:job:*") == [f"rq:job:t{valid}-e3"]


def test_only_the_head_of_a_long_queue_is_searched_for_stale_tickets_at_a_time(setting: Setting) -> None:
    setting.push(*range(700_000, 700_450))
    assert [setting.sweep().stale for _ in range(4)] == [200, 200, 50, 0]


# --- the verbs of the queue ---------------------------------------------------------------------------


Verb = Callable[[TaskQueue, int], object]


@pytest.mark.parametrize(
    ("verb", "left"),
    [
        (lambda queue, task_id: queue.cancel(task_id), {}),
        (lambda queue, task_id: queue.reprioritise(task_id, Priority.LOW), {"low": 4}),
        (lambda queue, task_id: queue.reprioritise(task_id, Priority.NORMAL), {"normal": 4}),
        (lambda queue, task_id: queue.recall([Priority.NORMAL]), {}),
        (lambda queue, task_id: queue.clear(Priority.NORMAL), {}),
    ],
    ids=["cancel", "lower", "same priority", "recall", "clear"],
)
def test_after_a_verb_and_a_sweep_the_queues_hold_exactly_the_tickets_that_are_worth_something(
    verb: Verb, left: dict[str, int], setting: Setting
) -> None:
    task_id = setting.put(waiting=YOUNG)
    setting.push(task_id)
    verb(setting.queue, task_id)
    setting.sweep()
    expected = {name: [f"t{task_id}-e{epoch}"] for name, epoch in left.items()}
    found = {name: setting.queue_list(name) for name in ("urgent", "high", "normal", "low")}
    assert {name: ids for name, ids in found.items() if ids} == expected
    assert setting.rows.row(task_id)["epoch"] == 4


def test_cancelling_a_running_task_leaves_its_job_to_whoever_runs_it(setting: Setting) -> None:
    task_id = setting.put(waiting=YOUNG)
    setting.push(task_id)
    (taken,) = setting.tickets.take(WORKER, PRIORITIES, 1)
    setting.store.claims.tickets([(task_id, 3)], holder=WORKER, lease_seconds=30)
    setting.queue.cancel(task_id)
    setting.tickets.finish(WORKER, [Ended(taken.job_id, taken.priority, False)])
    assert setting.raw.zrange("rq:failed:normal", 0, -1) == [f"t{task_id}-e3"]


def test_a_dispatch_pushes_a_ticket_for_every_row_that_it_moves(setting: Setting) -> None:
    first = setting.rows.put("QUEUED", count=7)
    setting.rows.put("QUEUED", count=2, priority="low")
    assert setting.queue.dispatch() == 9
    assert setting.queue_list() == [f"t{task_id}-e4" for task_id in range(first, first + 7)]
    assert len(setting.queue_list("low")) == 2


def test_held_tasks_get_their_tickets_when_the_hold_ends(setting: Setting) -> None:
    setting.store.routing.change(intake=Intake.HOLD)
    task_id = setting.rows.put("SCHEDULED", held=True, run_at=None)
    assert setting.sweep().held == 0
    setting.queue.resume_intake()
    assert setting.sweep().held == 1
    assert setting.queue_list() == [f"t{task_id}-e4"]
