"""Canaries on three databases: a few rows are moved and looked at before the rest, and before the flip."""

from __future__ import annotations

import pytest

from app.tasks.model import PRIORITIES, Priority
from app.tasks.queue import TaskQueue
from app.tasks.store import Store
from app.transfer import runs
from app.transfer.canaries import Canaries
from app.transfer.errors import Incomplete
from app.transfer.plans import Direction, Scope, make_plan
from app.transfer.records import State, TransferRecords
from tests.contract.moving import FAST
from tests.contract.parts import MakeStore
from tests.contract.rows import Rows


@pytest.fixture
def store(rows: Rows, make_store: MakeStore) -> Store:
    return make_store(rows, redis_percent=0)


def test_each_step_is_looked_at_before_the_next_and_the_rest_follows(
    rows: Rows, queue: TaskQueue, records: TransferRecords
) -> None:
    rows.put(count=300, priority="high")
    rows.put(count=5, priority="low")
    looks: list[tuple[int, int, int]] = []

    def look(moved: int) -> None:
        looks.append(
            (moved, rows.count("DISPATCHED"), queue.store.routing.refresh()[Priority.HIGH].redis_percent)
        )

    plan = make_plan(queue.store, Direction.DISPATCH, Scope())
    mover = runs.start(queue, plan, FAST, canaries=Canaries((1, 10, 100), look))
    assert mover.run().moved == 305
    assert looks == [(1, 1, 0), (10, 11, 0), (100, 111, 0)]
    assert rows.count("QUEUED") == 0
    noted = [detail for _, kind, detail in records.events(mover.transfer_id) if kind == "canaries"]
    assert [(detail["priority"], detail["moved"]) for detail in noted] == [
        ("high", 1),
        ("high", 10),
        ("high", 100),
    ]


def test_a_priority_with_fewer_rows_than_a_step_hands_the_next_step_on(rows: Rows, queue: TaskQueue) -> None:
    rows.put(count=4, priority="urgent")
    rows.put(count=40, priority="normal")
    looks: list[int] = []
    plan = make_plan(queue.store, Direction.DISPATCH, Scope())
    runs.start(queue, plan, FAST, canaries=Canaries((1, 10, 100), looks.append)).run()
    assert looks == [1, 3, 40]
    assert rows.count("QUEUED") == 0


def test_a_step_that_is_found_wrong_ends_the_run_before_the_flip_and_can_be_resumed(
    rows: Rows, queue: TaskQueue, records: TransferRecords
) -> None:
    rows.put(count=60)

    def refuse(moved: int) -> None:
        raise Incomplete("a ticket is missing")

    plan = make_plan(queue.store, Direction.DISPATCH, Scope())
    mover = runs.start(queue, plan, FAST, canaries=Canaries((1, 10), refuse))
    with pytest.raises(Incomplete):
        mover.run()
    assert rows.count("DISPATCHED") == 1
    assert {queue.store.routing.refresh()[priority].redis_percent for priority in PRIORITIES} == {0}
    assert records.get(mover.transfer_id).state is State.FAILED
    looks: list[int] = []
    resumed = runs.resume(queue, Direction.DISPATCH, canaries=Canaries((10,), looks.append))
    assert resumed.run().moved == 59
    assert looks == [10]
