"""The import of a legacy table on three databases: every row is moved once, or named, with its bytes kept."""

from __future__ import annotations

import itertools
import json
import threading
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from app.tasks.errors import DatabaseUnavailable
from app.tasks.healing import Sweeper
from app.tasks.model import Priority
from app.tasks.queue import TaskQueue
from app.tasks.settings import CoreSettings
from app.tasks.store import Store
from app.tasks.tickets import RQQueueManager
from app.transfer import runs
from app.transfer.errors import NotPossible
from app.transfer.legacy.beginning import Consent, checked, plan_import
from app.transfer.legacy.importing import LegacyRows
from app.transfer.mover import Moving
from app.transfer.plans import Direction, Scope
from app.transfer.records import State, TransferRecords
from tests.contract.legacy.parts import (
    CAPTIONS,
    HANDLERS,
    ON_MARIADB,
    ON_SERVERS,
    ON_SQLITE,
    begun,
    by_key,
    imported,
    queue_over,
)
from tests.contract.moving import FAST, listed
from tests.contract.parts import failing_at
from tests.contract.rows import Rows
from tests.legacy_tables import CaptionQueue


def test_every_queued_row_becomes_one_task_in_the_order_of_the_table(
    rows: Rows, either_shape: CaptionQueue, queue: TaskQueue
) -> None:
    keys = either_shape.put(either_shape.row(number) for number in range(230))
    done = either_shape.put(either_shape.row(number, status="COMPLETED") for number in (1000, 1001))
    running = either_shape.put([either_shape.row(1002, status="RUNNING")])
    before = either_shape.all()
    moving = imported(queue)
    assert (moving.moved, moving.quarantined) == (230, 0)
    tasks = by_key(rows)
    assert set(tasks) == set(keys)
    in_order = sorted(keys, key=lambda key: (before[key]["created_at"], key))
    assert sorted(tasks, key=lambda key: tasks[key]["id"]) == in_order
    after = either_shape.all()
    assert {key: after[key]["status"] for key in keys} == dict.fromkeys(keys, "MOVED")
    assert {key: row | {"status": "QUEUED"} for key, row in after.items() if key in keys} == {
        key: before[key] for key in keys
    }
    assert [after[key] for key in (*done, *running)] == [before[key] for key in (*done, *running)]
    one = tasks[keys[0]]
    assert (one["status"], one["name"], one["user_id"]) == ("QUEUED", "generate_captions", "1")
    assert json.loads(one["payload"]) == {
        "caption_task_id": keys[0],
        "user_id": 1,
        "platform_connection_id": 1,
        "settings": {"max_posts_per_run": 10, "reprocess_existing": 0},
    }


def test_a_second_import_moves_nothing(rows: Rows, legacy: CaptionQueue, queue: TaskQueue) -> None:
    legacy.put(legacy.row(number) for number in range(50))
    imported(queue)
    seen = rows.all()
    assert imported(queue).moved == 0
    assert rows.all() == seen


def test_priorities_attempts_and_retries_come_along(
    rows: Rows, legacy: CaptionQueue, queue: TaskQueue
) -> None:
    words = ["low", "urgent", "high", "normal", None]
    keys = legacy.put(legacy.row(n, priority=word) for n, word in enumerate(words))
    tried = legacy.put([legacy.row(10, retry_count=5, max_retries=3), legacy.row(11, retry_count=None)])
    imported(queue)
    tasks = by_key(rows)
    assert [tasks[key]["priority"] for key in keys] == [3, 0, 1, 2, 2]
    assert [tasks[key]["failures"] for key in tried] == [5, 0]
    assert [tasks[key]["max_retries"] for key in tried] == [3, 3]
    first = min(tasks.values(), key=lambda row: row["id"])
    assert first["priority"] == Priority.URGENT.rank


def test_with_redis_the_tasks_have_their_tickets_in_order_and_confirmed(
    rows: Rows, legacy: CaptionQueue, store: Store, tickets: RQQueueManager, raw: Any
) -> None:
    store.routing.change(redis_percent=100)
    queue = TaskQueue(store, HANDLERS, tickets, CoreSettings())
    legacy.put(legacy.row(number) for number in range(130))
    moving = imported(queue)
    assert (moving.moved, moving.pushed, moving.confirmed) == (130, 130, 130)
    ids = sorted(row["id"] for row in by_key(rows).values())
    assert listed(raw, "normal") == [f"t{task_id}-e1" for task_id in ids]
    assert rows.count("DISPATCHED") == 130


def test_a_ticket_that_was_seen_is_confirmed_in_its_row_and_what_has_none_is_not(
    rows: Rows, legacy: CaptionQueue, store: Store, tickets: RQQueueManager
) -> None:
    store.routing.change(redis_percent=100)
    queue = TaskQueue(store, HANDLERS, tickets, CoreSettings(active_tasks_per_user=1))
    legacy.put([*map(legacy.row, range(4)), legacy.row(4, settings_json="{")])
    done = imported(queue)
    seen = tickets.look(Priority.NORMAL).incarnation
    confirmed = {(row["status"], row["confirmed_in"]) for row in rows.all().values()}
    assert (done.moved, done.confirmed) == (4, 2)
    assert confirmed == {("DISPATCHED", seen), ("SCHEDULED", 0), ("QUARANTINED", 0)}


@ON_MARIADB
def test_a_column_that_cannot_hold_the_word_is_refused_with_the_statement(
    rows: Rows, legacy: CaptionQueue, queue: TaskQueue
) -> None:
    with pytest.raises(NotPossible, match=r"--alter:\n  ALTER TABLE .*'CANCELLED','MOVED'\) .* NULL$"):
        imported(queue, consent=Consent(old_workers_stopped=True))
    assert rows.scalar("SELECT COUNT(*) FROM transfers") == 0
    assert imported(queue).moved == 0
    assert imported(queue, consent=Consent(old_workers_stopped=True)).moved == 0  # the word is there now


@ON_SERVERS
def test_a_locked_row_is_left_for_a_later_pass(rows: Rows, legacy: CaptionQueue, queue: TaskQueue) -> None:
    legacy.put(legacy.row(number) for number in range(30))
    imported(queue)  # the word is there from now on: nobody has to wait for its statement
    keys = legacy.put(legacy.row(100 + number) for number in range(30))
    held = "SELECT id FROM caption_generation_tasks WHERE id = :id FOR UPDATE"
    seen: list[int] = []
    with rows.holding(held, id=keys[7]) as on:

        def watch(moving: Moving) -> None:
            seen.append(moving.moved)
            if moving.moved == 29:
                on.commit()

        assert begun(queue, limits=replace(FAST, patience_seconds=60), watcher=watch).run().moved == 30
    assert 29 in seen
    assert legacy.status(keys[7]) == "MOVED"


def test_rows_beyond_a_users_limit_wait_and_follow_one_by_one(
    rows: Rows, legacy: CaptionQueue, store: Store
) -> None:
    queue = queue_over(store, active_tasks_per_user=1)
    keys = legacy.put(legacy.row(2 * number) for number in range(4))  # all of user 1
    imported(queue)
    order = sorted(keys, key=lambda key: by_key(rows)[key]["id"])
    assert [by_key(rows)[key]["status"] for key in order] == ["QUEUED", *["SCHEDULED"] * 3]
    sweeper = Sweeper(queue, holder="the test")
    for number in range(1, 4):
        sweeper.full_pass()
        assert [by_key(rows)[key]["status"] for key in order[number:]] == ["SCHEDULED"] * (4 - number)
        queue.cancel(by_key(rows)[order[number - 1]]["id"])
        sweeper.full_pass()
        sweeper.full_pass()
        assert by_key(rows)[order[number]]["status"] == "QUEUED"
        assert by_key(rows)[order[number]]["active_key"] == "1#1"
    assert rows.scalar("SELECT COUNT(*) FROM slot_waits") == 0


def test_an_import_that_was_cut_short_is_resumed_without_its_file(
    rows: Rows, legacy: CaptionQueue, queue: TaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = legacy.put(legacy.row(number) for number in range(120))
    mover = begun(queue, watcher=_stop_after(40))
    with pytest.raises(KeyboardInterrupt):
        mover.run()
    records = TransferRecords(queue.store.database)
    assert records.get(mover.transfer_id).state is State.FAILED
    assert 0 < rows.count("QUEUED") < 120
    resumed = runs.resume(queue, Direction.IMPORT)
    assert resumed.transfer_id == mover.transfer_id
    resumed.run()
    assert records.get(mover.transfer_id).state is State.COMPLETED
    assert set(by_key(rows)) == set(keys)
    assert rows.count("QUEUED") == 120


def _stop_after(moved: int) -> Any:
    def watch(moving: Moving) -> None:
        if moving.moved >= moved:
            raise KeyboardInterrupt

    return watch


def test_a_row_that_was_queued_anew_after_its_task_ended_is_moved_again(
    rows: Rows, legacy: CaptionQueue, queue: TaskQueue
) -> None:
    [key] = legacy.put([legacy.row(1)])
    imported(queue)
    first = by_key(rows)[key]["id"]
    queue.cancel(first)
    assert legacy.status(key) == "CANCELLED"
    legacy.set(key, status="QUEUED")
    assert imported(queue).moved == 1
    again = by_key(rows)[key]
    assert again["id"] != first
    assert (again["status"], rows.status(first)) == ("QUEUED", "CANCELLED")


def test_a_row_that_was_queued_anew_while_its_task_waits_is_marked_again(
    rows: Rows, legacy: CaptionQueue, queue: TaskQueue
) -> None:
    [key] = legacy.put([legacy.row(1)])
    imported(queue)
    legacy.set(key, status="QUEUED")
    assert imported(queue).moved == 0
    assert legacy.status(key) == "MOVED"
    assert rows.count() == 1


def test_two_imports_at_once_are_kept_apart(legacy: CaptionQueue, queue: TaskQueue) -> None:
    begun(queue)
    with pytest.raises(NotPossible, match="has these priorities"):
        begun(queue)


def test_the_plan_counts_and_changes_nothing(
    rows: Rows, either_shape: CaptionQueue, queue: TaskQueue
) -> None:
    either_shape.put(either_shape.row(number) for number in range(7))
    before = either_shape.all()
    plan = plan_import(queue, checked(queue, CAPTIONS), Scope())
    assert dict(plan.rows) == {Priority.URGENT: 0, Priority.HIGH: 0, Priority.NORMAL: 7, Priority.LOW: 0}
    assert (either_shape.all(), rows.count()) == (before, 0)
    with pytest.raises(NotPossible, match="whole priorities"):
        plan_import(queue, checked(queue, CAPTIONS), Scope(percent=10))


def test_a_mapping_whose_table_column_or_handler_is_missing_says_so(
    legacy: CaptionQueue, queue: TaskQueue
) -> None:
    for change, said in (
        ({"table": "nowhere"}, "no table nowhere"),
        ({"key": "number"}, "has no column number"),
        ({"task": "unheard_of"}, "no handler is registered for 'unheard_of'"),
    ):
        with pytest.raises(NotPossible, match=said):
            plan_import(queue, checked(queue, CAPTIONS.model_copy(update=change)), Scope())


def test_rows_that_keep_coming_do_not_keep_an_import_from_its_end(
    rows: Rows, legacy: CaptionQueue, queue: TaskQueue
) -> None:
    legacy.put(legacy.row(number) for number in range(60))
    cargo = LegacyRows(queue, checked(queue, CAPTIONS), transfer_id=1)
    aim = plan_import(queue, checked(queue, CAPTIONS), Scope()).aim(
        queue.store.routing.refresh()[Priority.NORMAL]
    )
    assert cargo.count(aim) == 60
    assert cargo.count(aim) == 60  # all of them were there before
    legacy.execute("UPDATE caption_generation_tasks SET status = 'RUNNING'")
    legacy.put([legacy.row(100)])
    assert cargo.count(aim) == 0  # it came since: a next import's
    assert cargo.count(aim) == 1
    assert rows.count() == 0


class Deadlock(Exception):
    sqlstate = "40P01"


def test_rows_whose_transaction_is_repeated_keep_their_place_in_the_order(
    rows: Rows, legacy: CaptionQueue, queue: TaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = legacy.put(legacy.row(number) for number in range(100))
    pick, mark, picks = LegacyRows.pick, LegacyRows.mark, itertools.count(1)
    second, fails = threading.Event(), iter([True])

    def picking(self: LegacyRows, *given: Any) -> Any:
        picked = pick(self, *given)
        if next(picks) == 2:
            second.set()
        return picked

    def marking(self: LegacyRows, *given: Any) -> Any:
        if next(fails, False):
            if rows.kind != "sqlite":  # which has one writer at a time
                assert second.wait(60)
            raise OperationalError("UPDATE", {}, Deadlock())
        return mark(self, *given)

    monkeypatch.setattr(LegacyRows, "pick", picking)
    monkeypatch.setattr(LegacyRows, "mark", marking)
    assert begun(queue, limits=replace(FAST, batch_rows=20)).run().moved == 100
    assert next(fails, None) is None
    tasks, before = by_key(rows), legacy.all()
    in_order = sorted(keys, key=lambda key: (before[key]["created_at"], key))
    assert sorted(tasks, key=lambda key: tasks[key]["id"]) == in_order


def test_an_import_that_rows_outrun_moves_those_that_stood_there_and_ends(
    rows: Rows, legacy: CaptionQueue, queue: TaskQueue
) -> None:
    keys = legacy.put(legacy.row(number) for number in range(60))
    numbers = itertools.count(100)
    batches = itertools.count(1)

    def more_than_was_moved(moving: Moving) -> None:
        assert next(batches) < 50, f"{moving.moved} of 60 rows moved, and no end of it"
        legacy.put(legacy.row(next(numbers)) for _ in range(FAST.batch_rows + 5))

    begun(queue, watcher=more_than_was_moved).run()
    assert {legacy.status(key) for key in keys} == {"MOVED"}
    assert set(keys) <= set(by_key(rows))


@ON_SQLITE
@pytest.mark.timeout(600)
def test_an_error_at_any_statement_never_reads_as_complete_and_is_resumed_without_a_double(
    rows: Rows, store: Store, legacy: CaptionQueue
) -> None:
    """The n-th statement fails, for every second n until a run has fewer."""
    queue = queue_over(store, active_tasks_per_user=3)
    records, table = TransferRecords(rows.database), checked(queue, CAPTIONS)
    queue.store.imports.remember(table.source())
    failing, count = 1, 1
    while count >= failing:
        rows.execute("DELETE FROM tasks")
        rows.execute("DELETE FROM slot_waits")
        legacy.execute("DELETE FROM caption_generation_tasks")
        keys = legacy.put([*(legacy.row(n) for n in range(5)), legacy.row(8, settings_json="{")])
        plan = plan_import(queue, table, Scope((Priority.NORMAL,)))
        mover = runs.start(queue, plan, FAST)
        with failing_at(rows.database, failing) as seen, suppress(DatabaseUnavailable):
            mover.run()
        count = seen["statements"]
        complete = records.get(mover.transfer_id).state is State.COMPLETED
        assert complete == (count < failing), f"statement {failing} of {count}"
        if not complete:
            runs.resume(queue, Direction.IMPORT, transfer_id=mover.transfer_id).run()
        assert set(by_key(rows)) == set(keys), f"statement {failing} of {count}"
        assert rows.count("QUARANTINED") == 1
        failing += 2
    assert failing > 20
