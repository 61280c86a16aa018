"""The ticket window: a queue in Redis holds so many tickets; what lies beyond waits its turn in the rows."""

from __future__ import annotations

from typing import Any

import pytest

from app.tasks.healing import Healed, Sweeper
from app.tasks.model import Priority, Ticket
from app.tasks.queue import TaskQueue
from app.tasks.settings import CoreSettings
from app.tasks.store import Store
from app.tasks.tickets import RQQueueManager
from app.tasks.tickets.manager import Ended
from tests.contract.parts import HANDLERS, counted, request
from tests.contract.rows import Rows

WINDOW = 20
FULL = WINDOW - 1  # what a refill fills: the last one is for what belongs before the backlog
NORMAL = [Priority.NORMAL]
WORKER = "here:1"
HIGH_ID = 2**62  # a double tells such ids from their neighbours no more


class Setting:
    def __init__(self, store: Store, rows: Rows, tickets: RQQueueManager, raw: Any) -> None:
        self.store, self.rows, self.tickets, self.raw = store, rows, tickets, raw
        tickets.window = WINDOW
        self.now = 0.0
        self.queue = TaskQueue(store, HANDLERS, tickets, CoreSettings(ticket_grace_seconds=30))
        self.sweeper = self.other_sweeper()

    def other_sweeper(self) -> Sweeper:
        return Sweeper(self.queue, holder="the sweeper", clock=lambda: self.now)

    def submit(self, count: int = 1) -> list[int]:
        answers = self.queue.submit_many([request() for _ in range(count)])
        return [answer.task_id for answer in answers]  # type: ignore[union-attr]

    def tickets_in(self) -> list[str]:
        return list(self.raw.lrange("rq:queue:normal", 0, -1))

    def overflows(self) -> bool:
        return bool(self.raw.exists("twintrack:overflow:normal"))

    def step(self, *, later: float = 0.0) -> Healed:
        self.now += later
        healed = self.sweeper.step()
        assert healed is not None
        return healed

    def sweep(self, *, later: float = 0.0) -> Healed:
        self.now += later
        healed = self.sweeper.full_pass()
        assert healed is not None
        return healed

    def serve(self, count: int) -> list[int]:
        """Take and claim up to `count`, as a worker does; the ids in the order of service."""
        taken = self.tickets.take(WORKER, NORMAL, count)
        pairs = [ticket.reference for ticket in taken if ticket.reference]
        if not pairs:
            return []
        answer = self.store.claims.tickets(pairs, holder=WORKER, lease_seconds=30)
        self.tickets.finish(WORKER, [Ended(ticket.job_id, ticket.priority, True) for ticket in taken])
        return [claim.task_id for claim in answer.won]

    def serve_all(self, *, at_a_time: int = 7) -> list[int]:
        served = []
        while True:
            batch = self.serve(at_a_time)
            served += batch
            assert len(self.tickets_in()) <= WINDOW
            if not self.step().refilled and not batch:
                return served

    def grow_old(self) -> None:
        """Every row has waited for longer than the grace."""
        self.rows.execute("UPDATE tasks SET waiting_since = :since", since=self.rows.at(-100))


@pytest.fixture
def setting(store: Store, rows: Rows, tickets: RQQueueManager, raw: Any) -> Setting:
    """On each database."""
    return Setting(store, rows, tickets, raw)


@pytest.fixture
def one(sqlite_store: Store, sqlite_rows: Rows, tickets: RQQueueManager, raw: Any) -> Setting:
    """For what does not depend on the database."""
    return Setting(sqlite_store, sqlite_rows, tickets, raw)


def test_a_backlog_beyond_the_window_is_served_wholly_and_in_order(setting: Setting) -> None:
    ids = setting.submit(120)
    assert len(setting.tickets_in()) == WINDOW
    assert setting.rows.count("DISPATCHED") == 120
    assert setting.serve_all() == ids
    assert not setting.overflows()


def test_a_task_submitted_into_a_backlog_waits_its_turn_though_there_is_room(one: Setting) -> None:
    first = one.submit(WINDOW + 5)
    served = one.serve(10)
    newest = [*one.submit(1), one.queue.submit(request()).task_id]
    assert len(one.tickets_in()) == WINDOW - 10
    served += one.serve_all()
    assert served == first + newest
    one.submit(1)
    assert len(one.tickets_in()) == 1  # the backlog is over: a submission's own push again


def test_a_full_queue_whose_rows_all_have_a_ticket_takes_the_next_as_soon_as_there_is_room(
    one: Setting,
) -> None:
    first = one.submit(WINDOW)
    assert not one.overflows()
    next_one = one.submit(1)
    assert one.overflows()
    served = one.serve(10)
    assert one.step().refilled == 1
    assert served + one.serve_all() == first + next_one


def test_other_queues_are_not_held_up(one: Setting) -> None:
    one.submit(WINDOW + 1)
    one.queue.submit(request(priority=Priority.LOW))
    assert one.raw.llen("rq:queue:low") == 1


def test_what_comes_to_the_front_goes_in_though_the_window_is_full(one: Setting) -> None:
    one.submit(WINDOW + 5)
    back = Ticket(5, 7, Priority.NORMAL, "test.noop")
    assert one.tickets.push([back], front=True) == 1
    assert one.tickets_in()[0] == back.job_id
    assert len(one.tickets_in()) == WINDOW + 1


def test_a_task_that_falls_due_and_is_older_than_the_backlog_is_not_put_behind_it(one: Setting) -> None:
    due = one.rows.put("SCHEDULED", id=7, run_at=one.rows.at(3600))
    one.submit(3 * WINDOW)
    one.serve(5)
    one.rows.change(due, run_at=one.rows.at(-1))
    one.step()
    assert one.tickets_in()[WINDOW - 5] == f"t{due}-e4"
    assert len(one.serve_all()) == 3 * WINDOW - 5 + 1


def test_older_tasks_than_the_backlog_are_served_though_they_find_the_window_full(one: Setting) -> None:
    old = one.rows.put("SCHEDULED", id=10, count=1, run_at=one.rows.at(3600))
    for task_id in range(11, 18):
        one.rows.put("SCHEDULED", id=task_id, run_at=one.rows.at(3600))
    ids = one.submit(2 * WINDOW)
    one.rows.execute("UPDATE tasks SET run_at = :past WHERE id < 18", past=one.rows.at(-1))
    one.step()
    assert len(one.tickets_in()) == WINDOW
    served = one.serve_all()
    assert sorted(served) == [*range(old, 18), *ids]
    assert len(served) == len(set(served))


def test_tickets_in_flight_do_not_count(one: Setting) -> None:
    one.submit(3 * WINDOW)
    one.tickets.take(WORKER, NORMAL, 12)
    assert one.step().refilled == 12 - 1  # all but the reserve
    assert len(one.tickets_in()) == FULL


def test_ids_that_a_double_would_round_are_told_apart(one: Setting) -> None:
    ids = [HIGH_ID + n for n in range(WINDOW + 6)]
    one.rows.put("DISPATCHED", id=ids[0], epoch=1, confirmed_in=0)
    for task_id in ids[1:]:
        one.rows.put("DISPATCHED", id=task_id, epoch=1, confirmed_in=0)
    one.tickets.push([Ticket(task_id, 1, Priority.NORMAL, "test.noop") for task_id in ids[:-1]])
    assert one.raw.hgetall("twintrack:overflow:normal") == {"from": str(ids[WINDOW])}
    one.serve(10)
    one.tickets.push([Ticket(ids[WINDOW - 1], 2, Priority.NORMAL, "test.noop")])  # before the overflow
    assert one.tickets_in()[-1] == f"t{ids[WINDOW - 1]}-e2"
    one.tickets.push([Ticket(ids[WINDOW], 2, Priority.NORMAL, "test.noop")])  # its first
    assert f"t{ids[WINDOW]}-e2" not in one.tickets_in()


def test_a_paused_queue_is_not_refilled(one: Setting) -> None:
    one.submit(3 * WINDOW)
    one.serve(10)
    one.queue.pause()
    assert one.step().refilled == 0
    one.queue.resume()
    assert one.step().refilled == 9


# --- rows without tickets are no missing tickets -------------------------------------------------------


def test_what_waits_beyond_the_window_is_not_taken_for_lost(setting: Setting) -> None:
    setting.submit(3 * WINDOW)
    setting.grow_old()
    for _ in range(3):
        assert setting.sweep(later=40).pushed == 0
    assert len(setting.tickets_in()) == WINDOW
    confirmed = "SELECT COUNT(*) FROM tasks WHERE confirmed_in > 0"
    assert setting.rows.scalar(confirmed) == WINDOW


def test_a_ticket_that_was_just_refilled_is_left_alone_for_a_grace(one: Setting) -> None:
    one.submit(3 * WINDOW)
    one.grow_old()
    one.sweep()
    one.serve(10)
    one.step()
    one.tickets.take("a worker that dies", NORMAL, 12)
    assert one.sweep(later=5).pushed < 12
    one.sweep(later=31)
    one.sweep(later=31)
    served = one.serve_all()
    for _ in range(6):
        one.sweep(later=31)
        served += one.serve_all()
    assert len(set(served)) == 3 * WINDOW - 10


def test_tickets_that_are_lost_out_of_a_window_are_found(setting: Setting) -> None:
    ids = setting.submit(3 * WINDOW)
    setting.grow_old()
    setting.tickets.take("a worker that dies", NORMAL, 8)
    served = []
    for _ in range(8):
        setting.sweep(later=31)
        served += setting.serve_all()
    assert sorted(served) == ids


def test_a_push_that_never_came_is_made_up_for(one: Setting) -> None:
    one.submit(WINDOW + 5)
    lost = one.rows.put("DISPATCHED", id=9, confirmed_in=0, waiting_since=one.rows.at(-100))
    one.sweep()
    one.serve(5)
    one.sweep(later=31)
    assert f"t{lost}-e3" in one.tickets_in()


# --- what is lost, and who is late --------------------------------------------------------------------


def test_a_redis_that_lost_everything_is_filled_again_in_order_up_to_its_window(setting: Setting) -> None:
    ids = setting.submit(3 * WINDOW)
    setting.grow_old()
    setting.sweep(later=40)
    setting.raw.flushall()
    setting.sweep()
    assert setting.tickets_in() == [f"t{task_id}-e1" for task_id in ids[:WINDOW]]
    assert setting.serve_all() == ids


@pytest.mark.parametrize("waited", [True, False], ids=["old rows", "young rows"])
def test_without_its_mark_a_backlog_is_found_by_its_rows(waited: bool, one: Setting) -> None:
    ids = one.submit(3 * WINDOW)
    one.raw.delete("twintrack:overflow:normal")
    overtaking = one.submit(1)  # refused: the queue is full
    one.serve(WINDOW)
    if waited:
        one.grow_old()
    served = ids[:WINDOW]
    for _ in range(4):
        one.sweep(later=31)
        served += one.serve_all()
    if not waited:
        one.grow_old()
        for _ in range(4):
            one.sweep(later=31)
            served += one.serve_all()
    assert sorted(served) == ids + overtaking


def test_a_mark_that_somebody_spoilt_stops_nobody_and_its_rows_are_found(one: Setting) -> None:
    ids = one.submit(3 * WINDOW)
    one.raw.hset("twintrack:overflow:normal", "from", "seventeen")
    assert one.tickets.overflows() == {}
    one.serve(WINDOW)
    one.grow_old()
    served = ids[:WINDOW]
    for _ in range(4):
        one.sweep(later=31)
        served += one.serve_all()
    assert sorted(served) == ids


def test_a_backlog_that_nobody_pushed_is_left_to_the_refiller(
    one: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.tasks.missing_tickets.ROWS_PER_PASS", 10)
    first = one.rows.put("DISPATCHED", count=50, confirmed_in=0, waiting_since=one.rows.at(-100))
    one.sweep()
    assert one.overflows()
    assert one.serve_all() == list(range(first, first + 50))


def test_a_task_that_is_refused_while_the_last_rows_are_read_is_pushed_at_once(
    one: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = one.submit(WINDOW + 3)
    one.serve(WINDOW)
    read = one.store.dispatched.unpushed
    meanwhile: list[int] = []

    def read_and_be_late(*args: Any, **named: Any) -> list[Ticket]:
        rows = read(*args, **named)
        if not meanwhile:
            meanwhile.extend(one.submit(2))
        return rows

    monkeypatch.setattr(one.store.dispatched, "unpushed", read_and_be_late)
    assert one.step().refilled == 5
    assert not one.overflows()
    assert one.tickets_in() == [f"t{task_id}-e1" for task_id in first[WINDOW:] + meanwhile]


def test_a_task_whose_commit_was_late_is_not_passed_over(
    one: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its id lies among rows that the refiller has just read without it."""
    ids = one.submit(WINDOW)
    for task_id in range(ids[-1] + 10, ids[-1] + 100, 2):
        one.rows.put("DISPATCHED", id=task_id, epoch=1, confirmed_in=0)
    one.tickets.open_overflow(Priority.NORMAL, ids[-1] + 1)
    late = ids[-1] + 13
    read = one.store.dispatched.unpushed

    def read_and_be_late(*args: Any, **named: Any) -> list[Ticket]:
        rows = read(*args, **named)
        if not one.rows.execute("SELECT id FROM tasks WHERE id = :id", id=late):
            one.rows.put("DISPATCHED", id=late, epoch=1, confirmed_in=0)
            one.tickets.push([Ticket(late, 1, Priority.NORMAL, "test.noop")])
        return rows

    one.serve(10)
    monkeypatch.setattr(one.store.dispatched, "unpushed", read_and_be_late)
    served = one.serve_all()
    assert late in served
    assert len(served) == len(set(served)) == 10 + 45 + 1


def test_of_two_refillers_one_counts_and_no_ticket_is_doubled(
    one: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    one.submit(3 * WINDOW)
    one.serve(12)
    read = one.store.dispatched.unpushed

    def read_and_freeze(*args: Any, **named: Any) -> list[Ticket]:
        rows = read(*args, **named)
        monkeypatch.setattr(one.store.dispatched, "unpushed", read)
        assert one.other_sweeper().step() is not None
        return rows

    monkeypatch.setattr(one.store.dispatched, "unpushed", read_and_freeze)
    one.step()
    found = one.tickets_in()
    assert len(found) == len(set(found)) == FULL


# --- what it costs -------------------------------------------------------------------------------------


def test_a_step_takes_as_many_statements_whatever_waits_beyond_the_window(one: Setting) -> None:
    def of_a_step(waiting: int) -> int:
        one.rows.empty()
        one.raw.flushall()
        one.store.routing.ensure(redis_percent=100)
        one.sweep()
        one.submit(waiting)
        one.serve(WINDOW)
        with counted(one.store.database) as seen:
            one.step()
        return seen["statements"]

    assert of_a_step(3 * WINDOW) == of_a_step(60 * WINDOW)


def test_a_submission_is_one_call_to_redis_with_a_backlog_and_without(one: Setting) -> None:
    calls = []
    call = one.tickets._call
    one.tickets._call = lambda *args: calls.append(args[0]) or call(*args)  # type: ignore[method-assign,func-returns-value]
    one.queue.submit(request())
    one.submit(2 * WINDOW)
    one.queue.submit(request())
    assert calls == ["push"] * 3


def test_a_queue_that_runs_dry_between_two_steps_is_looked_after_sooner(one: Setting) -> None:
    one.submit(5 * WINDOW)
    one.serve(3)
    assert not one.step().hurry
    one.serve(WINDOW - 2)
    assert one.step().hurry
