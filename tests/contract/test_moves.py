"""Moves of waiting rows: what is due, what was held, what stands on the wrong track, what people ask for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from app.tasks.errors import TaskNotFound, UserLimitReached, WrongState
from app.tasks.ids import bucket_of, first_id_of
from app.tasks.model import PRIORITIES, Cancelled, Completed, Priority, Status
from app.tasks.routing import Intake
from app.tasks.store import Store, misplaced
from tests.contract.parts import InBackground, MakeQueue, MakeStore
from tests.contract.rows import Rows

SHARE_STEP = 1 << 14  # ids that far apart have buckets of their own


# --- due -------------------------------------------------------------------------------------------------


def test_a_task_is_due_by_the_databases_clock_and_not_before(store: Store, rows: Rows) -> None:
    late = rows.put("SCHEDULED", run_at=rows.at(-10))
    later = rows.put("SCHEDULED", run_at=rows.at(-5))
    rows.put("SCHEDULED", run_at=rows.at(60))
    moves = store.moves.due(limit=9)
    assert [move.task_id for move in moves] == [late, later]
    assert [move.status for move in moves] == [Status.DISPATCHED] * 2
    assert rows.count("SCHEDULED") == 1


def test_due_tasks_go_in_batches_the_longest_overdue_first(store: Store, rows: Rows) -> None:
    second = rows.put("SCHEDULED", run_at=rows.at(-10))
    first = rows.put("SCHEDULED", run_at=rows.at(-20))
    assert [move.task_id for move in store.moves.due(limit=1)] == [first]
    assert [move.task_id for move in store.moves.due(limit=1)] == [second]
    assert store.moves.due(limit=1) == []


def test_due_tasks_of_all_priorities_go_each_by_its_own_routing(store: Store, rows: Rows) -> None:
    store.routing.change([Priority.LOW, Priority.HIGH], redis_percent=0)
    ids = {p: rows.put("SCHEDULED", run_at=rows.at(-5), priority=p.value) for p in PRIORITIES}
    tickets = {move.task_id: move.ticket for move in store.moves.due(limit=9)}
    for priority, task_id in ids.items():
        by_redis = priority in (Priority.URGENT, Priority.NORMAL)
        assert rows.status(task_id) == ("DISPATCHED" if by_redis else "QUEUED")
        ticket = tickets[task_id]
        assert (ticket is not None) == by_redis
        assert ticket is None or (ticket.priority, ticket.epoch) == (priority, 4)


def test_a_due_task_that_is_being_cancelled_is_left_to_the_cancel(
    server_rows: Rows, make_store: MakeStore
) -> None:
    store = make_store(server_rows)
    task_id = server_rows.put("SCHEDULED", run_at=server_rows.at(-5))
    with server_rows.holding("UPDATE tasks SET status = 'CANCELLED' WHERE id = :id", id=task_id):
        assert store.moves.due(limit=9) == []
    assert store.moves.due(limit=9) == []
    assert server_rows.status(task_id) == "CANCELLED"


# --- holds -----------------------------------------------------------------------------------------------


def test_a_held_task_whose_time_has_come_still_waits_for_the_end_of_the_hold(
    store: Store, rows: Rows
) -> None:
    task_id = rows.put("SCHEDULED", held=True, run_at=rows.at(-5))
    assert store.moves.due(limit=9) == []
    (move,) = store.moves.lift_holds(PRIORITIES, limit=9)
    assert (move.task_id, move.status) == (task_id, Status.DISPATCHED)
    assert not rows.row(task_id)["held"]


def test_a_held_task_with_a_later_time_waits_for_it(store: Store, rows: Rows) -> None:
    task_id = rows.put("SCHEDULED", held=True, run_at=rows.at(60))
    assert [move.status for move in store.moves.lift_holds(PRIORITIES, limit=9)] == [Status.SCHEDULED]
    assert store.moves.lift_holds(PRIORITIES, limit=9) == []  # it is an ordinary scheduled task now
    assert store.moves.due(limit=9) == []
    rows.change(task_id, run_at=rows.at(-1))
    assert [move.task_id for move in store.moves.due(limit=9)] == [task_id]


def test_holds_are_lifted_only_for_the_priorities_that_are_open_oldest_first(
    store: Store, rows: Rows
) -> None:
    rows.put("SCHEDULED", held=True, run_at=None, priority="low")
    first = rows.put("SCHEDULED", held=True, run_at=None, priority="high")
    second = rows.put("SCHEDULED", held=True, run_at=None, priority="high")
    moves = store.moves.lift_holds([Priority.HIGH], limit=9)
    assert [move.task_id for move in moves] == [first, second]
    assert rows.count("SCHEDULED") == 1


# --- the right track -------------------------------------------------------------------------------------


def put_over_all_buckets(rows: Rows, *, count: int = 100, name: str = "test.noop") -> list[int]:
    """Rows on both tracks in turn, with buckets all over the scale."""
    start = 5_000_000 * SHARE_STEP
    ids = [start + n * SHARE_STEP for n in range(count)]
    if name != "test.noop":
        ids = [task_id + 1 for task_id in ids]
    for n, task_id in enumerate(ids):
        rows.put("QUEUED" if n % 2 else "DISPATCHED", id=task_id, name=name)
    return ids


@pytest.mark.parametrize("percent", [0, 1, 30, 99, 100])
def test_every_waiting_row_ends_on_the_track_of_its_share(percent: int, store: Store, rows: Rows) -> None:
    ids = put_over_all_buckets(rows, count=40)
    store.routing.change(redis_percent=percent)
    moved = {move.task_id for move in store.moves.to_right_track(Priority.NORMAL, limit=500)}
    after = rows.all()
    for n, task_id in enumerate(ids):
        wanted = "DISPATCHED" if bucket_of(task_id) < percent else "QUEUED"
        assert after[task_id]["status"] == wanted
        assert (task_id in moved) == (wanted != ("QUEUED" if n % 2 else "DISPATCHED"))
        assert after[task_id]["epoch"] == 3 + (task_id in moved)
    assert store.moves.to_right_track(Priority.NORMAL, limit=500) == []


def test_a_long_backlog_is_searched_for_misplaced_rows_in_stretches_until_all_are_found(
    store: Store, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(misplaced, "STRETCH_ROWS", 3)
    monkeypatch.setattr(misplaced, "STRETCHES_PER_LOOK", 2)
    ids = put_over_all_buckets(rows, count=40)
    rows.execute("UPDATE tasks SET confirmed_in = 5 WHERE status = 'DISPATCHED' AND id > :id", id=ids[25])
    store.routing.change(redis_percent=50)
    for _ in range(12):
        store.moves.to_right_track(Priority.NORMAL, limit=4)
    after = rows.all()
    assert {i: after[i]["status"] for i in ids} == {
        i: "DISPATCHED" if bucket_of(i) < 50 else "QUEUED" for i in ids
    }


def test_a_task_name_can_have_a_share_of_its_own(store: Store, rows: Rows) -> None:
    plain = put_over_all_buckets(rows, count=30)
    special = put_over_all_buckets(rows, count=30, name="test.other")
    store.routing.change(redis_percent=70, name_percents={"test.other": 20, "test.unknown": 3})
    while store.moves.to_right_track(Priority.NORMAL, limit=7):
        pass
    after = rows.all()
    for ids, percent in ((plain, 70), (special, 20)):
        expected = {i: "DISPATCHED" if bucket_of(i) < percent else "QUEUED" for i in ids}
        assert {i: after[i]["status"] for i in ids} == expected


def test_a_fallback_puts_every_share_on_the_database(store: Store, rows: Rows) -> None:
    put_over_all_buckets(rows, count=20)
    store.routing.change(redis_percent=100, name_percents={"test.noop": 100}, fallback=True)
    moves = store.moves.to_right_track(Priority.NORMAL, limit=500)
    assert {move.status for move in moves} == {Status.QUEUED}
    assert rows.count("QUEUED") == 20


def test_a_batch_of_moves_is_bounded_and_keeps_the_order_of_service(store: Store, rows: Rows) -> None:
    first = rows.put("QUEUED", count=7)
    batches = [store.moves.to_right_track(Priority.NORMAL, limit=3) for _ in range(4)]
    assert [len(batch) for batch in batches] == [3, 3, 1, 0]
    assert [move.task_id for batch in batches for move in batch] == list(range(first, first + 7))


def test_a_recall_is_recorded_and_a_dispatch_is_not(store: Store, rows: Rows) -> None:
    task_id = rows.put("QUEUED")
    store.moves.to_right_track(Priority.NORMAL, limit=9)
    assert rows.events(task_id) == []
    store.routing.change(redis_percent=0)
    store.moves.to_right_track(Priority.NORMAL, limit=9)
    assert rows.events(task_id) == ["recall"]


def test_a_row_that_is_being_claimed_is_not_moved(server_rows: Rows, make_store: MakeStore) -> None:
    store = make_store(server_rows)
    task_id, other = server_rows.put("QUEUED"), server_rows.put("QUEUED")
    with server_rows.locked(task_id):
        moves = store.moves.to_right_track(Priority.NORMAL, limit=9)
    assert [move.task_id for move in moves] == [other]


# --- what people ask for ----------------------------------------------------------------------------------


def test_verbs_on_a_task_that_is_not_there_say_so(store: Store, rows: Rows) -> None:
    for verb in (
        lambda: store.moves.cancel(1),
        lambda: store.moves.retry(1, active_key=None),
        lambda: store.moves.reprioritise(1, Priority.LOW),
    ):
        with pytest.raises(TaskNotFound):
            verb()


def test_a_refused_verb_names_the_status_that_it_met(store: Store, rows: Rows) -> None:
    task_id = rows.put("COMPLETED")
    with pytest.raises(WrongState) as refused:
        store.moves.cancel(task_id)
    assert (refused.value.status, refused.value.verb) == ("COMPLETED", "cancel")


def test_a_cancel_that_waited_for_a_claim_leaves_a_request(store: Store, rows: Rows) -> None:
    task_id = rows.put("QUEUED")
    claimed = "UPDATE tasks SET status = 'PROCESSING', token = 5, attempt = 1 WHERE id = :id"
    with rows.holding(claimed, id=task_id):
        cancel = InBackground(lambda: store.moves.cancel(task_id))
        cancel.must_wait(rows)
    assert cancel.answer().status is Status.PROCESSING
    row = rows.row(task_id)
    assert (row["status"], bool(row["cancel_requested"])) == ("PROCESSING", True)


def test_a_priority_change_obeys_the_routing_of_the_new_priority(store: Store, rows: Rows) -> None:
    store.routing.change([Priority.LOW], redis_percent=0)
    task_id = rows.put("DISPATCHED", priority="high", user_id="ann", active_key="ann#1")
    moved, was = store.moves.reprioritise(task_id, Priority.LOW)
    row = rows.row(task_id)
    assert (was, moved.status, moved.ticket) == (Priority.HIGH, Status.QUEUED, None)
    assert (row["status"], row["priority"], row["active_key"]) == ("QUEUED", 3, "ann#1")

    moved, was = store.moves.reprioritise(task_id, Priority.URGENT)
    assert moved.ticket is not None
    assert (was, moved.ticket.priority, moved.ticket.epoch) == (Priority.LOW, Priority.URGENT, 5)
    assert rows.status(task_id) == "DISPATCHED"


def test_a_scheduled_task_keeps_its_time_and_its_hold_when_its_priority_changes(
    store: Store, rows: Rows
) -> None:
    task_id = rows.put("SCHEDULED", run_at=rows.at(60), held=True)
    before = rows.row(task_id)
    store.moves.reprioritise(task_id, Priority.LOW)
    after = rows.row(task_id)
    assert (after["status"], after["priority"], bool(after["held"])) == ("SCHEDULED", 3, True)
    assert after["run_at"] == before["run_at"]


def test_an_operators_retry_forgets_the_failures_and_the_result(store: Store, rows: Rows) -> None:
    task_id = rows.put(
        "FAILED", failures=4, attempt=4, error="it broke", result="1", progress_percent=50, progress_step="x"
    )
    store.moves.retry(task_id, active_key=None)
    row = rows.row(task_id)
    cleared = ("failures", "error", "result", "ended_at", "progress_percent", "progress_step", "started_at")
    assert [row[name] for name in cleared] == [0, None, None, None, 0, None, None]
    assert row["attempt"] == 4
    assert rows.events(task_id) == ["operator's retry"]


def test_a_task_that_was_cancelled_in_mid_run_can_be_retried_to_its_end(store: Store, rows: Rows) -> None:
    store.routing.change(redis_percent=0)
    rows.put("QUEUED")
    (first,) = store.claims.queued(holder="w", limit=1, lease_seconds=30)
    store.moves.cancel(first.task_id)
    store.settlements.settle([Cancelled(first)])
    store.moves.retry(first.task_id, active_key=None)
    (second,) = store.claims.queued(holder="w", limit=1, lease_seconds=30)
    assert store.claims.wishes([second]) == {first.task_id: False}
    store.settlements.settle([Completed(second, "1")])
    assert rows.status(first.task_id) == "COMPLETED"


def test_an_operators_retry_during_a_hold_waits_for_its_end(store: Store, rows: Rows) -> None:
    task_id = rows.put("CANCELLED")
    store.routing.change(intake=Intake.HOLD)
    assert store.moves.retry(task_id, active_key=None).status is Status.SCHEDULED
    row = rows.row(task_id)
    assert (row["status"], bool(row["held"]), row["epoch"]) == ("SCHEDULED", True, 4)
    assert [move.task_id for move in store.moves.lift_holds(PRIORITIES, limit=9)] == [task_id]


def test_an_operators_retry_respects_the_users_limit(store: Store, rows: Rows, make_queue: MakeQueue) -> None:
    failed = rows.put("FAILED", user_id="ann")
    active = rows.put("QUEUED", user_id="ann", active_key="ann#1")
    before = rows.row(failed)
    with pytest.raises(UserLimitReached) as refused:
        make_queue(active_tasks_per_user=1).retry(failed)
    assert refused.value.active_task_id == active
    assert rows.row(failed) == before
    make_queue(active_tasks_per_user=2).retry(failed)
    assert rows.row(failed)["active_key"] == "ann#2"


def test_clearing_a_queue_cancels_what_waits_in_it_and_nothing_else(store: Store, rows: Rows) -> None:
    rows.put("QUEUED", count=5, priority="low")
    rows.put("DISPATCHED", count=2, priority="low")
    rows.put("SCHEDULED", priority="low")
    running = rows.put("PROCESSING", priority="low")
    other = rows.put("QUEUED", priority="high")
    assert [store.moves.cancel_waiting(Priority.LOW, limit=5) for _ in range(3)] == [5, 3, 0]
    assert rows.count("CANCELLED") == 8
    assert (rows.status(running), rows.status(other)) == ("PROCESSING", "QUEUED")


def test_waiting_tasks_of_a_key_are_cancelled_in_batches_and_their_stale_tickets_named(
    store: Store, rows: Rows
) -> None:
    ours = [rows.put("DISPATCHED", priority="low", idempotency_key=f"ours_%:{n}") for n in range(8)]
    others = [rows.put("DISPATCHED", idempotency_key="oursx:1"), rows.put("DISPATCHED")]
    ended = rows.put("COMPLETED", idempotency_key="ours_%:9")
    batches = [store.moves.cancel_keyed("ours_%:", limit=5) for _ in range(3)]
    assert [len(batch) for batch in batches] == [5, 3, 0]
    stale = [ticket for batch in batches for ticket in batch]
    assert {(t.task_id, t.epoch, t.priority) for t in stale} == {(i, 3, Priority.LOW) for i in ours}
    assert {rows.status(task_id) for task_id in ours} == {"CANCELLED"}
    assert {rows.status(task_id) for task_id in others} == {"DISPATCHED"}
    assert rows.status(ended) == "COMPLETED"
    assert rows.events(ours[0]) == ["cancelled"]


# --- purges ------------------------------------------------------------------------------------------------


def test_dead_letters_are_purged_in_batches_or_one_by_one(store: Store, rows: Rows) -> None:
    rows.put("FAILED", count=4)
    one = rows.put("FAILED")
    kept = [rows.put(status) for status in ("CANCELLED", "COMPLETED", "QUEUED", "PROCESSING", "QUARANTINED")]
    assert store.moves.purge_failed(limit=9, task_id=one) == 1
    assert store.moves.purge_failed(limit=9, task_id=kept[0]) == 0
    assert [store.moves.purge_failed(limit=3) for _ in range(3)] == [3, 1, 0]
    assert sorted(rows.all()) == sorted(kept)


def test_old_ends_are_purged_and_newer_ones_and_dead_letters_stay(store: Store, rows: Rows) -> None:
    before = datetime.now(UTC) - timedelta(days=30)
    old_id = first_id_of(before - timedelta(days=1))
    purged = [
        rows.put("COMPLETED", id=old_id + 1, ended_at=rows.at(-31 * 86_400)),
        rows.put("CANCELLED", id=old_id + 2, ended_at=rows.at(-31 * 86_400)),
    ]
    rows.put("COMPLETED", id=old_id + 3, ended_at=rows.at(-29 * 86_400))
    rows.put("FAILED", id=old_id + 4, ended_at=rows.at(-31 * 86_400))
    rows.put("PROCESSING", id=old_id + 5)
    rows.put("COMPLETED", id=first_id_of(datetime.now(UTC)), ended_at=rows.at(-1))
    assert [store.moves.purge_ended(before=before, limit=1) for _ in range(3)] == [1, 1, 0]
    assert rows.count() == 4
    assert not set(purged) & set(rows.all())


def test_a_purge_takes_the_history_of_what_it_deletes(store: Store, rows: Rows) -> None:
    gone, kept = rows.put("QUEUED"), rows.put("QUEUED")
    for task_id in (gone, kept):
        store.moves.cancel(task_id)
    rows.change(gone, status="FAILED")
    store.moves.purge_failed(limit=9)
    assert rows.events(gone) == []
    assert rows.events(kept) == ["cancelled"]
