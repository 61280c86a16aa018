"""How an import finds its rows: by one look the keys of many batches, each row judged when it is locked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from app.tasks.queue import TaskQueue
from app.transfer.legacy import finding
from app.transfer.mover import MARKERS, Moving
from tests.contract.legacy.parts import begun, by_key, imported
from tests.contract.moving import FAST
from tests.contract.parts import statements_of
from tests.contract.rows import Rows
from tests.legacy_tables import CaptionQueue


@pytest.fixture
def old_shape(rows: Rows) -> Iterator[CaptionQueue]:
    made = CaptionQueue(rows.engine, old_shape=True)
    yield made
    made.drop()


def test_many_batches_are_found_by_one_sort_of_the_table(
    rows: Rows, old_shape: CaptionQueue, queue: TaskQueue
) -> None:
    old_shape.put(old_shape.row(number) for number in range(200))
    mover = begun(queue, limits=replace(FAST, batch_rows=10))
    with statements_of(rows.database) as seen:
        assert mover.run().moved == 200
    sorts = [s for s in seen if f"{old_shape.table} legacy" in s and " ORDER BY " in s]
    stretches = 4  # queued or not, with a time or without; of the empty ones each marker may see for itself
    assert 0 < len(sorts) <= stretches * MARKERS


def test_rows_beyond_one_look_are_found_by_the_next_in_their_order(
    rows: Rows, either_shape: CaptionQueue, queue: TaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finding, "AHEAD_ROWS", 50)
    keys = either_shape.put(either_shape.row(number) for number in range(170))
    timeless = either_shape.put(either_shape.row(1000 + number, created_at=None) for number in range(70))
    assert imported(queue).moved == 240
    tasks, before = by_key(rows), either_shape.all()
    in_order = [*sorted(timeless), *sorted(keys, key=lambda key: (before[key]["created_at"], key))]
    assert sorted(tasks, key=lambda key: tasks[key]["id"]) == in_order


def test_rows_that_are_named_already_do_not_hide_new_ones(
    rows: Rows, legacy: CaptionQueue, queue: TaskQueue
) -> None:
    legacy.put(legacy.row(number, status=None) for number in range(5))
    imported(queue)
    new = legacy.put(legacy.row(1000 + number, status=None) for number in range(2))
    assert imported(queue).quarantined == 2
    assert set(new) <= set(by_key(rows))


def test_a_row_that_was_found_ahead_is_judged_as_it_is_when_its_batch_comes(
    rows: Rows, legacy: CaptionQueue, queue: TaskQueue
) -> None:
    keys = legacy.put(legacy.row(number) for number in range(230))
    running, cancelled, gone, urgent, broken = keys[200:205]
    first_batch = iter([True])

    def meanwhile(moving: Moving) -> None:
        if next(first_batch, False):
            legacy.set(running, status="RUNNING")
            legacy.set(cancelled, status="CANCELLED")
            legacy.execute(f"DELETE FROM {legacy.table} WHERE id = :key", key=gone)
            legacy.set(urgent, priority="urgent")
            legacy.set(broken, settings_json="{")

    done = begun(queue, watcher=meanwhile).run()
    assert (done.moved, done.quarantined) == (225, 1)
    tasks = by_key(rows)
    assert set(keys) - set(tasks) == {running, cancelled, gone, urgent}
    assert [legacy.status(key) for key in (running, cancelled, urgent)] == ["RUNNING", "CANCELLED", "QUEUED"]
    assert tasks[broken]["status"] == "QUARANTINED"
    imported(queue)
    assert by_key(rows)[urgent]["priority"] == 0
