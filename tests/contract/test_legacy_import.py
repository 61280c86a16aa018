"""The import of a legacy table on three databases: every row is moved once, or named, with its bytes kept."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import event

from app.tasks.errors import DatabaseUnavailable
from app.tasks.handlers import load_handlers
from app.tasks.healing import Sweeper
from app.tasks.model import Priority
from app.tasks.queue import TaskQueue
from app.tasks.settings import CoreSettings
from app.tasks.store import Store
from app.tasks.tickets import RQQueueManager
from app.transfer import runs
from app.transfer.errors import NotPossible
from app.transfer.legacy.beginning import Consent, checked, plan_import, start_import
from app.transfer.legacy.importing import LegacyRows
from app.transfer.legacy.mapping import Mapping, read_mapping
from app.transfer.mover import Moving
from app.transfer.plans import Direction, Limits, Scope
from app.transfer.records import State, TransferRecords
from config import ROOT
from tests.contract.moving import FAST, listed
from tests.contract.parts import MakeStore
from tests.contract.rows import Rows
from tests.legacy_tables import CaptionQueue

CAPTIONS = read_mapping(ROOT / "mappings" / "caption_tasks.toml")
HANDLERS = load_handlers(["app.handlers"])
ALLOWED = Consent(alter=True, old_workers_stopped=True)


@pytest.fixture(params=[False, True], ids=["new shape", "old shape"])
def legacy(request: pytest.FixtureRequest, rows: Rows) -> Iterator[CaptionQueue]:
    made = CaptionQueue(rows.engine, old_shape=request.param)
    yield made
    made.drop()


@pytest.fixture
def new_shape(rows: Rows) -> Iterator[CaptionQueue]:
    made = CaptionQueue(rows.engine)
    yield made
    made.drop()


@pytest.fixture
def store(rows: Rows, make_store: MakeStore) -> Store:
    return make_store(rows, redis_percent=0)


@pytest.fixture
def captions(store: Store) -> TaskQueue:
    """A queue in database mode that knows the shipped handlers."""
    return TaskQueue(store, HANDLERS, None, CoreSettings())


def imported(
    queue: TaskQueue, mapping: Mapping = CAPTIONS, limits: Limits = FAST, consent: Consent = ALLOWED
) -> Moving:
    table = checked(queue, mapping)
    plan = plan_import(queue, table, Scope())
    return start_import(queue, table, plan, limits, consent, watcher=lambda moving: None).run()


def by_key(rows: Rows) -> dict[str, dict[str, Any]]:
    """The task rows by the key of the legacy row that they name."""
    start = "legacy:caption_tasks:"
    found = [row for row in rows.all().values() if (row["idempotency_key"] or "").startswith(start)]
    assert len({row["idempotency_key"] for row in found}) == len(found)
    return {row["idempotency_key"].removeprefix(start): row for row in found}


def test_every_queued_row_becomes_one_task_in_the_order_of_the_table(
    rows: Rows, legacy: CaptionQueue, captions: TaskQueue
) -> None:
    keys = legacy.put(legacy.row(number) for number in range(230))
    done = legacy.put(legacy.row(number, status="COMPLETED") for number in (1000, 1001))
    running = legacy.put([legacy.row(1002, status="RUNNING")])
    before = legacy.all()
    moving = imported(captions)
    assert (moving.moved, moving.quarantined) == (230, 0)
    tasks = by_key(rows)
    assert set(tasks) == set(keys)
    in_order = sorted(keys, key=lambda key: (before[key]["created_at"], key))
    assert sorted(tasks, key=lambda key: tasks[key]["id"]) == in_order
    after = legacy.all()
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


def test_a_second_import_moves_nothing(rows: Rows, new_shape: CaptionQueue, captions: TaskQueue) -> None:
    new_shape.put(new_shape.row(number) for number in range(50))
    imported(captions)
    seen = rows.all()
    assert imported(captions).moved == 0
    assert rows.all() == seen


def test_priorities_attempts_and_retries_come_along(
    rows: Rows, new_shape: CaptionQueue, captions: TaskQueue
) -> None:
    words = ["low", "urgent", "high", "normal", None]
    keys = new_shape.put(new_shape.row(n, priority=word) for n, word in enumerate(words))
    tried = new_shape.put(
        [new_shape.row(10, retry_count=5, max_retries=3), new_shape.row(11, retry_count=None)]
    )
    imported(captions)
    tasks = by_key(rows)
    assert [tasks[key]["priority"] for key in keys] == [3, 0, 1, 2, 2]
    assert [tasks[key]["failures"] for key in tried] == [5, 0]
    assert [tasks[key]["max_retries"] for key in tried] == [3, 3]
    first = min(tasks.values(), key=lambda row: row["id"])
    assert first["priority"] == Priority.URGENT.rank


def test_with_redis_the_tasks_have_their_tickets_in_order_and_confirmed(
    rows: Rows, new_shape: CaptionQueue, store: Store, tickets: RQQueueManager, raw: Any
) -> None:
    store.routing.change(redis_percent=100)
    queue = TaskQueue(store, HANDLERS, tickets, CoreSettings())
    new_shape.put(new_shape.row(number) for number in range(130))
    moving = imported(queue)
    assert (moving.moved, moving.pushed, moving.confirmed) == (130, 130, 130)
    ids = sorted(row["id"] for row in by_key(rows).values())
    assert listed(raw, "normal") == [f"t{task_id}-e1" for task_id in ids]
    assert rows.count("DISPATCHED") == 130


FAULTS: dict[str, tuple[dict[str, Any], str, bool]] = {
    "broken JSON": ({"settings_json": '{"max_posts'}, "a column of the payload is not JSON", True),
    "extra key": ({"settings_json": '{"colour": 1}'}, "the handler refuses the payload", True),
    "wrong type": (
        {"settings_json": '{"max_posts_per_run": "ten"}'},
        "the handler refuses the payload",
        True,
    ),
    "missing user": ({"user_id": 99}, "the user is missing or inactive", True),
    "inactive user": ({"user_id": 3, "platform_connection_id": 3}, "the user is missing or inactive", True),
    "missing connection": ({"platform_connection_id": 99}, "the connection is missing or inactive", True),
    "another's connection": ({"platform_connection_id": 2, "user_id": 1}, "the connection is another", True),
    "status NULL": ({"status": None}, "the status is NULL", False),
    "key with a tab": ({"id": "a\tb"}, "the row's key cannot be part", True),
}


def test_every_fault_is_named_once_with_its_bytes_untouched(
    rows: Rows, new_shape: CaptionQueue, captions: TaskQueue
) -> None:
    sound = new_shape.put([new_shape.row(1), new_shape.row(2)])
    faulty = [new_shape.row(3 + n, **changes) for n, (changes, _, _) in enumerate(FAULTS.values())]
    keys = dict(zip(FAULTS, new_shape.put(faulty), strict=True))
    before = new_shape.all()
    moving = imported(captions)
    assert (moving.moved, moving.quarantined) == (len(sound), len(FAULTS))
    assert {new_shape.status(one) for one in sound} == {"MOVED"}
    after, tasks = new_shape.all(), by_key(rows)
    for fault, (_, reason, fenced) in FAULTS.items():
        key = keys[fault]
        named = tasks.pop(key, None) or next(row for name, row in tasks.items() if name.startswith("#"))
        assert (fault, named["status"]) == (fault, "QUARANTINED")
        assert (fault, named["error"][: len(reason)]) == (fault, reason)
        assert (fault, after[key]) == (fault, before[key] | ({"status": "MOVED"} if fenced else {}))
    seen = rows.all()
    assert imported(captions).quarantined == 0
    assert rows.all() == seen


STRANGE: dict[str, dict[str, Any]] = {
    "four-byte characters": {"settings_json": '{"max_posts_per_run": 5}', "current_step": "\U0001f600" * 50},
    "no settings": {"settings_json": None},
    "long settings": {"settings_json": '{"max_posts_per_run": 5' + " " * 65_000 + "}"},
    "no time": {"created_at": None},
    "the future": {"created_at": "2031-01-01 00:00:00"},
    "not a UUID": {"id": "row number seven"},
    "upper case": {"id": "0C9F0C9F-ABCD"},
    "trailing blank": {"id": "trailing "},
    "started before": {"progress_percent": 40, "started_at": "2026-01-01 00:00:00"},
    "ended before": {"completed_at": "2026-01-01 00:00:00"},
    "no retry count": {"retry_count": None, "max_retries": None, "priority": None},
}


def test_what_is_only_strange_is_moved(rows: Rows, new_shape: CaptionQueue, captions: TaskQueue) -> None:
    keys = new_shape.put(new_shape.row(n, **changes) for n, changes in enumerate(STRANGE.values()))
    assert imported(captions).moved == len(STRANGE)
    tasks = by_key(rows)
    assert {strange: new_shape.status(key) for strange, key in zip(STRANGE, keys, strict=True)} == (
        dict.fromkeys(STRANGE, "MOVED")
    )
    assert set(tasks) == set(keys)
    assert all(rows.seconds_from_now(row["created_at"]) < 60 for row in tasks.values())


def test_a_row_whose_table_refuses_the_mark_is_named_and_spoils_no_other(
    prepared_mariadb: Rows, make_store: MakeStore
) -> None:
    rows = prepared_mariadb
    rows.empty()
    legacy = CaptionQueue(rows.engine)
    try:
        queue = TaskQueue(make_store(rows, redis_percent=0), HANDLERS, None, CoreSettings())
        keys = legacy.put(legacy.row(number) for number in range(40))
        dangling = legacy.put([legacy.row(50, user_id=77), legacy.row(51, user_id=78)])
        legacy.with_foreign_keys()
        blind = CAPTIONS.model_copy(update={"fault": ()})
        moving = imported(queue, blind)
        assert (moving.moved, moving.quarantined) == (40, 2)
        assert {legacy.status(key) for key in keys} == {"MOVED"}
        assert {legacy.status(key) for key in dangling} == {"QUEUED"}
        named = {key for key, row in by_key(rows).items() if row["status"] == "QUARANTINED"}
        assert named == set(dangling)
        assert imported(queue, blind).moved == 0
    finally:
        legacy.drop()


def test_a_column_that_cannot_hold_the_word_is_refused_with_the_statement(
    prepared_mariadb: Rows, make_store: MakeStore
) -> None:
    rows = prepared_mariadb
    rows.empty()
    legacy = CaptionQueue(rows.engine)
    try:
        queue = TaskQueue(make_store(rows, redis_percent=0), HANDLERS, None, CoreSettings())
        with pytest.raises(NotPossible, match=r"--alter:\n  ALTER TABLE .*'CANCELLED','MOVED'\) .* NULL$"):
            imported(queue, consent=Consent(old_workers_stopped=True))
        assert rows.scalar("SELECT COUNT(*) FROM transfers") == 0
        assert imported(queue).moved == 0
        assert imported(queue, consent=Consent(old_workers_stopped=True)).moved == 0  # the word is there now
    finally:
        legacy.drop()


def test_rows_beyond_a_users_limit_wait_and_follow_one_by_one(
    rows: Rows, new_shape: CaptionQueue, store: Store
) -> None:
    queue = TaskQueue(store, HANDLERS, None, CoreSettings(active_tasks_per_user=1))
    keys = new_shape.put(new_shape.row(2 * number) for number in range(4))  # all of user 1
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


def test_a_locked_row_is_left_for_a_later_pass(server_rows: Rows, make_store: MakeStore) -> None:
    legacy = CaptionQueue(server_rows.engine)
    try:
        queue = TaskQueue(make_store(server_rows, redis_percent=0), HANDLERS, None, CoreSettings())
        keys = legacy.put(legacy.row(number) for number in range(30))
        imported(queue)  # the word is there from now on: nobody has to wait for its statement
        keys = legacy.put(legacy.row(100 + number) for number in range(30))
        held = "SELECT id FROM caption_generation_tasks WHERE id = :id FOR UPDATE"
        table = checked(queue, CAPTIONS)
        plan = plan_import(queue, table, Scope())
        seen: list[int] = []
        limits = replace(FAST, patience_seconds=60)
        with server_rows.holding(held, id=keys[7]) as on:

            def watch(moving: Moving) -> None:
                seen.append(moving.moved)
                if moving.moved == 29:
                    on.commit()

            mover = start_import(queue, table, plan, limits, ALLOWED, watcher=watch)
            assert mover.run().moved == 30
        assert 29 in seen
        assert legacy.status(keys[7]) == "MOVED"
    finally:
        legacy.drop()


def test_an_import_that_was_cut_short_is_resumed_without_its_file(
    rows: Rows, new_shape: CaptionQueue, captions: TaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = new_shape.put(new_shape.row(number) for number in range(120))
    table = checked(captions, CAPTIONS)
    mover = start_import(
        captions, table, plan_import(captions, table, Scope()), FAST, ALLOWED, watcher=_stop_after(40)
    )
    with pytest.raises(KeyboardInterrupt):
        mover.run()
    records = TransferRecords(captions.store.database)
    assert records.get(mover.transfer_id).state is State.FAILED
    assert 0 < rows.count("QUEUED") < 120
    resumed = runs.resume(captions, Direction.IMPORT)
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
    rows: Rows, new_shape: CaptionQueue, captions: TaskQueue
) -> None:
    [key] = new_shape.put([new_shape.row(1)])
    imported(captions)
    first = by_key(rows)[key]["id"]
    captions.cancel(first)
    assert new_shape.status(key) == "CANCELLED"
    new_shape.set(key, status="QUEUED")
    assert imported(captions).moved == 1
    again = by_key(rows)[key]
    assert again["id"] != first
    assert (again["status"], rows.status(first)) == ("QUEUED", "CANCELLED")


def test_a_row_that_was_queued_anew_while_its_task_waits_is_marked_again(
    rows: Rows, new_shape: CaptionQueue, captions: TaskQueue
) -> None:
    [key] = new_shape.put([new_shape.row(1)])
    imported(captions)
    new_shape.set(key, status="QUEUED")
    assert imported(captions).moved == 0
    assert new_shape.status(key) == "MOVED"
    assert rows.count() == 1


def test_two_imports_at_once_are_kept_apart(new_shape: CaptionQueue, captions: TaskQueue) -> None:
    table = checked(captions, CAPTIONS)
    plan = plan_import(captions, table, Scope())
    start_import(captions, table, plan, FAST, ALLOWED, watcher=lambda moving: None)
    with pytest.raises(NotPossible, match="has these priorities"):
        start_import(captions, table, plan, FAST, ALLOWED, watcher=lambda moving: None)


def test_the_plan_counts_and_changes_nothing(rows: Rows, legacy: CaptionQueue, captions: TaskQueue) -> None:
    legacy.put(legacy.row(number) for number in range(7))
    before = legacy.all()
    plan = plan_import(captions, checked(captions, CAPTIONS), Scope())
    assert dict(plan.rows) == {Priority.URGENT: 0, Priority.HIGH: 0, Priority.NORMAL: 7, Priority.LOW: 0}
    assert (legacy.all(), rows.count()) == (before, 0)
    with pytest.raises(NotPossible, match="whole priorities"):
        plan_import(captions, checked(captions, CAPTIONS), Scope(percent=10))


def test_a_mapping_whose_table_column_or_handler_is_missing_says_so(
    new_shape: CaptionQueue, captions: TaskQueue
) -> None:
    for change, said in (
        ({"table": "nowhere"}, "no table nowhere"),
        ({"key": "number"}, "has no column number"),
        ({"task": "unheard_of"}, "no handler is registered for 'unheard_of'"),
    ):
        with pytest.raises(NotPossible, match=said):
            plan_import(captions, checked(captions, CAPTIONS.model_copy(update=change)), Scope())


def test_rows_that_keep_coming_do_not_keep_an_import_from_its_end(
    rows: Rows, new_shape: CaptionQueue, captions: TaskQueue
) -> None:
    new_shape.put(new_shape.row(number) for number in range(60))
    cargo = LegacyRows(captions, checked(captions, CAPTIONS), transfer_id=1)
    aim = plan_import(captions, checked(captions, CAPTIONS), Scope()).aim(
        captions.store.routing.refresh()[Priority.NORMAL]
    )
    assert cargo.count(aim) == 60
    assert cargo.count(aim) == 60  # all of them were there before
    new_shape.execute("UPDATE caption_generation_tasks SET status = 'RUNNING'")
    new_shape.put([new_shape.row(100)])
    assert cargo.count(aim) == 0  # it came since: a next import's
    assert cargo.count(aim) == 1
    assert rows.count() == 0


@pytest.mark.timeout(600)
def test_an_error_at_any_statement_never_reads_as_complete_and_is_resumed_without_a_double(
    sqlite_rows: Rows, make_store: MakeStore
) -> None:
    """The n-th statement fails, for every second n until a run has fewer."""
    rows, legacy = sqlite_rows, CaptionQueue(sqlite_rows.engine)
    queue = TaskQueue(
        make_store(rows, redis_percent=0), HANDLERS, None, CoreSettings(active_tasks_per_user=3)
    )
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
        with failing_at(rows, failing) as seen, suppress(DatabaseUnavailable):
            mover.run()
        count = seen["statements"]
        complete = records.get(mover.transfer_id).state is State.COMPLETED
        assert complete == (count < failing), f"statement {failing} of {count}"
        if not complete:
            runs.resume(queue, Direction.IMPORT, transfer_id=mover.transfer_id).run()
        assert set(by_key(rows)) == set(keys), f"statement {failing} of {count}"
        assert rows.count("QUARANTINED") == 1
        failing += 2
    legacy.drop()
    assert failing > 20


@contextmanager
def failing_at(rows: Rows, number: int) -> Iterator[Counter[str]]:
    """Have the statement of this number fail."""
    seen: Counter[str] = Counter()

    def fail(*_: Any) -> None:
        seen["statements"] += 1
        if seen["statements"] == number:
            raise DatabaseUnavailable("injected")

    engines = (rows.database.engine, rows.database._auto)
    for engine in engines:
        event.listen(engine, "before_cursor_execute", fail)
    try:
        yield seen
    finally:
        for engine in engines:
            event.remove(engine, "before_cursor_execute", fail)
