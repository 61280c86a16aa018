"""Who has a transfer, and with it its priorities, until it is paused, aborted, taken over or dead."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import pytest

from app.tasks.model import Priority
from app.tasks.queue import TaskQueue
from app.tasks.store import Store
from app.tasks.store.routing import hold_routing
from app.tasks.tickets import RQQueueManager
from app.transfer.batches import BatchRecords
from app.transfer.courtesy import Courtesy
from app.transfer.errors import HolderLives, NotPossible, PriorityTaken, Superseded
from app.transfer.holders import is_dead, this_process
from app.transfer.mover import Mover
from app.transfer.plans import Direction, Limits, Scope, make_plan
from app.transfer.records import State, Transfer, TransferRecords
from app.transfer.steering import Steering
from app.transfer.throttle import Throttle
from tests.contract.moving import FAST, dispatch, recall
from tests.contract.parts import InBackground, MakeStore, at_once, make_queue_over
from tests.contract.rows import Rows
from tests.waiting import wait_until


@pytest.fixture
def store(rows: Rows, make_store: MakeStore) -> Store:
    """Everything goes by the database until a transfer says otherwise."""
    return make_store(rows, redis_percent=0)


def test_pause_reaches_a_running_mover_and_holds_until_resume(
    rows: Rows, queue: TaskQueue, records: TransferRecords
) -> None:
    rows.put(count=60)
    mover = dispatch(queue, Scope((Priority.NORMAL,)))
    assert records.pause(mover.transfer_id)
    running = InBackground(mover.run)
    wait_until(
        lambda: records.get(mover.transfer_id).phase != "beginning", deadline_seconds=60, what="it runs"
    )
    assert rows.count("DISPATCHED") == 0
    assert records.resume(mover.transfer_id)
    assert running.answer().moved == 60


def test_a_pause_costs_no_patience(
    server_rows: Rows, make_store: MakeStore, tickets: RQQueueManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row is locked, the run is paused for 100 of its seconds, and its patience is 60."""
    queue = make_queue_over(make_store(server_rows, redis_percent=0))(tickets)
    records = TransferRecords(queue.store.database)
    task_id = server_rows.put()
    mover = dispatch(queue, Scope((Priority.NORMAL,)), Limits(patience_seconds=60))
    hours = Hours()
    monkeypatch.setattr(mover, "_steering", hours.steer(mover, records, queue))
    with ExitStack() as locks:
        locks.enter_context(server_rows.locked(task_id))
        hours.at(1, lambda: records.pause(mover.transfer_id))
        hours.at(101, lambda: records.resume(mover.transfer_id))
        hours.at(103, locks.close)
        assert mover.run().moved == 1


class Hours:
    """A clock that only sleeping moves, and what happens at which of its seconds."""

    def __init__(self) -> None:
        self._now = 0.0
        self._plan: list[tuple[float, Callable[[], object]]] = []

    def at(self, second: float, act: Callable[[], object]) -> None:
        self._plan.append((second, act))

    def sleep(self, seconds: float) -> None:
        self._now += seconds
        while self._plan and self._plan[0][0] <= self._now:
            self._plan.pop(0)[1]()

    def steer(self, mover: Mover, records: TransferRecords, queue: TaskQueue) -> Steering:
        transfer = records.get(mover.transfer_id)
        limits = Limits(database_threads=None, lock_waits=None, database_milliseconds=None)
        throttle = Throttle(queue.store.database, None, limits)
        return Steering(
            records,
            transfer,
            holder=this_process(),
            throttle=throttle,
            courtesy=Courtesy(lambda: None, rise_percent=None),
            sleep=self.sleep,
            clock=lambda: self._now,
        )


def test_an_aborted_mover_stops_and_the_routing_stays_as_it_was(
    rows: Rows, queue: TaskQueue, records: TransferRecords
) -> None:
    rows.put(count=60)
    mover = dispatch(queue)
    assert records.abort(mover.transfer_id, reason="changed our mind")
    with pytest.raises(Superseded, match="changed our mind"):
        mover.run()
    assert rows.count("QUEUED") == 60
    route = queue.store.routing.refresh()[Priority.NORMAL]
    assert (route.redis_percent, route.transfer_id, route.moving_to) == (0, None, None)
    assert records.get(mover.transfer_id).state is State.ABORTED


def test_a_second_mover_is_refused_and_told_what_it_found(rows: Rows, queue: TaskQueue) -> None:
    mover = dispatch(queue, Scope((Priority.HIGH, Priority.LOW)))
    with pytest.raises(PriorityTaken) as refused:
        dispatch(queue, Scope((Priority.LOW,)))
    assert refused.value.transfer_id == mover.transfer_id
    assert refused.value.holder == this_process()
    dispatch(queue, Scope((Priority.URGENT,))).run()


def test_of_four_that_begin_at_once_one_does_and_the_others_name_it(
    rows: Rows, queue: TaskQueue, records: TransferRecords
) -> None:
    plan = make_plan(queue.store, Direction.DISPATCH, Scope())
    begin = [lambda n=n: records.begin(plan, FAST, holder=f"mover {n}") for n in range(4)]
    answers = at_once(begin)
    won = [answer for answer in answers if isinstance(answer, Transfer)]
    refused = [answer for answer in answers if isinstance(answer, PriorityTaken)]
    assert (len(won), len(refused)) == (1, 3)
    assert {refusal.holder for refusal in refused} == {won[0].holder}
    assert rows.scalar("SELECT COUNT(*) FROM transfers") == 1


def test_a_rollback_takes_the_priorities_from_a_running_dispatch(
    rows: Rows, queue: TaskQueue, records: TransferRecords
) -> None:
    rows.put(count=800)  # for twenty seconds, of which this takes the first
    mover = dispatch(queue, limits=Limits(batch_rows=10, rows_per_second=40))
    running = InBackground(mover.run)
    wait_until(lambda: rows.count("DISPATCHED") >= 10, deadline_seconds=60, what="a batch is moved")
    back = recall(queue, take_over=True)
    done = back.run()
    with pytest.raises(Superseded):
        running.answer()
    assert done.moved >= 10
    assert rows.count("QUEUED") == 800
    assert records.get(mover.transfer_id).state is State.ABORTED
    assert records.get(back.transfer_id).state is State.COMPLETED


def test_only_a_transfer_whose_holder_is_gone_can_be_taken(
    rows: Rows, queue: TaskQueue, records: TransferRecords
) -> None:
    rows.put(count=20)
    mover = dispatch(queue)
    with pytest.raises(HolderLives):
        records.take(mover.transfer_id, holder="another", is_dead=is_dead)
    taken = records.take(mover.transfer_id, holder="another", is_dead=lambda holder: True)
    with pytest.raises(Superseded):
        mover.run()
    Mover(queue, taken, holder="another").run()
    with pytest.raises(NotPossible, match="nothing to resume"):
        records.take(mover.transfer_id, holder="third", is_dead=lambda holder: True)


def test_a_mover_that_was_frozen_while_its_transfer_was_taken_marks_nothing(
    rows: Rows, queue: TaskQueue, records: TransferRecords, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its look at the record and its batch, where no beat can tell it."""
    rows.put(count=20)
    mover = dispatch(queue, Scope((Priority.NORMAL,)))
    look = Steering.batch_rows

    def look_and_freeze(steering: Steering) -> int:
        limit = look(steering)
        records.take(mover.transfer_id, holder="another", is_dead=lambda holder: True)
        return limit

    with monkeypatch.context() as frozen:
        frozen.setattr(Steering, "batch_rows", look_and_freeze)
        with pytest.raises(Superseded):
            mover.run()
    assert rows.count("QUEUED") == 20
    assert BatchRecords(queue.store.database).totals(mover.transfer_id).batches == 0


def test_a_taking_waits_for_the_batch_of_the_holder_before(
    server_rows: Rows, make_store: MakeStore, tickets: RQQueueManager
) -> None:
    queue = make_queue_over(make_store(server_rows, redis_percent=0))(tickets)
    records, transfer_id = TransferRecords(queue.store.database), dispatch(queue).transfer_id
    with queue.store.database.engine.begin() as on:
        hold_routing(on, [Priority.NORMAL])
        taking = InBackground(
            lambda: records.take(transfer_id, holder="another", is_dead=lambda holder: True)
        )
        taking.must_wait(server_rows)
    assert taking.answer().holder == "another"


def test_the_lease_of_a_running_mover_is_kept_while_it_waits(
    rows: Rows, queue: TaskQueue, records: TransferRecords
) -> None:
    mover = dispatch(queue)
    rows.execute("UPDATE transfers SET lease_until = :then", then=rows.at(1))
    records.pause(mover.transfer_id)
    running = InBackground(mover.run)
    wait_until(
        lambda: records.get(mover.transfer_id).lease_left_seconds > 5,
        deadline_seconds=60,
        what="the lease is renewed",
    )
    records.resume(mover.transfer_id)
    running.answer()
