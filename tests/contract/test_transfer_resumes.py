"""Transfers that were cut short: none reads as complete, and a resume finds whatever was left."""

from __future__ import annotations

from typing import Any

import pytest

from app.tasks.errors import DatabaseUnavailable, RedisUnavailable
from app.tasks.healing import Sweeper
from app.tasks.model import PRIORITIES, Priority
from app.tasks.queue import TaskQueue
from app.tasks.store import Store
from app.tasks.tickets import RQQueueManager
from app.transfer import runs
from app.transfer.batches import BatchRecord, BatchRecords
from app.transfer.delivery import Delivery
from app.transfer.errors import Incomplete
from app.transfer.plans import Direction, Limits, Scope, make_plan
from app.transfer.records import State, TransferRecords
from tests.contract.moving import FAST, dispatch, listed
from tests.contract.parts import MakeQueue, MakeStore, failing_at, make_queue_over
from tests.contract.rows import Rows


@pytest.fixture
def store(rows: Rows, make_store: MakeStore) -> Store:
    """Everything goes by the database until a transfer says otherwise."""
    return make_store(rows, redis_percent=0)


def test_rows_that_stay_locked_end_the_run_as_incomplete_never_as_complete(
    server_rows: Rows, make_store: MakeStore, tickets: Any
) -> None:
    queue = make_queue_over(make_store(server_rows, redis_percent=0))(tickets)
    task_id = server_rows.put()
    mover = dispatch(queue, Scope((Priority.NORMAL,)), Limits(patience_seconds=0.3))
    with server_rows.locked(task_id), pytest.raises(Incomplete):
        mover.run()
    transfer = TransferRecords(queue.store.database).get(mover.transfer_id)
    assert transfer.state is State.FAILED
    assert runs.resume(queue, Direction.DISPATCH).run().moved == 1


def test_a_batch_that_was_marked_and_never_pushed_is_delivered_by_the_resume(
    rows: Rows, queue: TaskQueue, records: TransferRecords, raw: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows.put(count=30)
    mover = dispatch(queue, Scope((Priority.NORMAL,)))

    def away(*_: Any, **__: Any) -> Any:
        raise RedisUnavailable("gone")

    with monkeypatch.context() as broken:
        broken.setattr(RQQueueManager, "push", away)
        with pytest.raises(RedisUnavailable):
            mover.run()
    assert records.get(mover.transfer_id).state is State.FAILED
    assert rows.count("DISPATCHED") == 30
    assert listed(raw, "normal") == []
    runs.resume(queue, Direction.DISPATCH).run()
    assert len(set(listed(raw, "normal"))) == len(listed(raw, "normal")) == 30
    assert records.get(mover.transfer_id).state is State.COMPLETED
    assert BatchRecords(queue.store.database).undelivered(mover.transfer_id) == []


def test_a_batch_is_delivered_again_a_part_at_a_time_and_no_ticket_twice(
    rows: Rows,
    make_queue: MakeQueue,
    tickets: RQQueueManager,
    records: TransferRecords,
    raw: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The push arrived, its answer did not; a worker has taken some, and others stand before and behind."""
    queue = make_queue(tickets)
    monkeypatch.setattr("app.transfer.delivery.AGAIN_ROWS", 7)
    monkeypatch.setattr("app.transfer.delivery.SLICE_IDS", 4)
    raw.rpush("rq:queue:normal", *[f"t{number}-e1" for number in range(1, 10)])
    rows.put(count=30)
    push = RQQueueManager.push

    def push_unanswered(self: RQQueueManager, wanted: Any, **how: Any) -> int:
        push(self, wanted[:20], **how)
        raise DatabaseUnavailable("killed")

    with monkeypatch.context() as broken:
        broken.setattr(RQQueueManager, "push", push_unanswered)
        with pytest.raises(DatabaseUnavailable):
            dispatch(queue, Scope((Priority.NORMAL,))).run()
    raw.rpush("rq:queue:normal", "t10-e1")
    before = listed(raw, "normal")
    assert len(before) == 30
    assert runs.resume(queue, Direction.DISPATCH).run().moved == 0
    after = listed(raw, "normal")
    assert (after[:30], len(after), len(set(after))) == (before, 40, 40)
    last = records.latest(Direction.DISPATCH)
    assert last is not None
    totals = BatchRecords(queue.store.database).totals(last.transfer_id)
    assert (totals.marked, totals.pushed, totals.read_back) == (30, 10, 30)


def test_rows_are_not_confirmed_in_a_redis_that_lost_them_between_two_slices_of_a_look(
    sqlite_rows: Rows,
    make_store: MakeStore,
    tickets: RQQueueManager,
    raw: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("app.transfer.delivery.SLICE_IDS", 4)
    queue = make_queue_over(make_store(sqlite_rows))(tickets)
    batches, ids = BatchRecords(queue.store.database), range(1, 13)
    for task_id in ids:
        sqlite_rows.put("DISPATCHED", id=task_id, epoch=1)
    raw.rpush("rq:queue:normal", *[f"t{task_id}-e1" for task_id in ids])
    look, looks = RQQueueManager.look, 0

    def look_and_lose(self: RQQueueManager, *asked: Any, **bounds: Any) -> Any:
        nonlocal looks
        looks += 1
        if looks == 5:  # the first reading takes three: this is amid the second
            raw.flushall()
        return look(self, *asked, **bounds)

    monkeypatch.setattr(RQQueueManager, "look", look_and_lose)
    record = BatchRecord(1, Priority.NORMAL, 1, 12, 12, 0, "", 0.0)
    done = Delivery(queue.store, tickets, batches, transfer_id=1).deliver_again(record)
    assert (looks, done.read_back) == (5, 4)
    now = look(tickets, Priority.NORMAL).incarnation
    assert now not in {row["confirmed_in"] for row in sqlite_rows.all().values()}


def test_a_batch_that_nobody_delivers_again_is_found_by_the_sweeper(
    rows: Rows, make_queue: MakeQueue, tickets: RQQueueManager, raw: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = make_queue(tickets, ticket_grace_seconds=0)
    first = rows.put(count=30)
    with monkeypatch.context() as broken:
        broken.setattr(Delivery, "deliver", lambda *_: (_ for _ in ()).throw(DatabaseUnavailable("killed")))
        with pytest.raises(DatabaseUnavailable):
            dispatch(queue, Scope((Priority.NORMAL,))).run()
    assert rows.row(first)["confirmed_in"] != 0
    Sweeper(queue, holder="sweeper").full_pass()
    assert sorted(listed(raw, "normal")) == sorted(f"t{task_id}-e4" for task_id in range(first, first + 30))


def test_an_error_at_any_statement_never_reads_as_complete(
    sqlite_rows: Rows, make_store: MakeStore, tickets: RQQueueManager, raw: Any
) -> None:
    """The n-th statement fails, for every n until a run has fewer: then it is completed, and not before."""
    rows = sqlite_rows
    queue = make_queue_over(make_store(rows, redis_percent=0))(tickets)
    records = TransferRecords(queue.store.database)
    for direction in (Direction.DISPATCH, Direction.RECALL):
        failing, failed_runs = 1, 0
        while True:
            rows.execute("DELETE FROM tasks")
            raw.flushall()
            queue.store.routing.change(
                PRIORITIES, redis_percent=0, transfer_id=None, moving_to=None, fenced_track=None
            )
            rows.put("QUEUED" if direction is Direction.DISPATCH else "DISPATCHED", count=20)
            plan = make_plan(queue.store, direction, Scope((Priority.NORMAL,)))
            mover = runs.start(queue, plan, FAST)
            with failing_at(rows.database, failing) as seen:
                try:
                    mover.run()
                except DatabaseUnavailable:
                    failed_runs += 1
            count = seen["statements"]
            state = records.get(mover.transfer_id).state
            left = rows.count("QUEUED" if direction is Direction.DISPATCH else "DISPATCHED")
            assert (state is State.COMPLETED) == (count < failing), f"statement {failing} of {count}"
            assert left == 0 or state is not State.COMPLETED
            if count < failing:
                break
            failing += 1
        assert failed_runs >= 10
