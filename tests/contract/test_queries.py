"""Reading: pages, filters, counts, ages and history."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from app.tasks.errors import TaskNotFound
from app.tasks.model import PRIORITIES, WAITING, Priority, Status
from app.tasks.store import Store, queries
from app.tasks.store.queries import PAGE_LIMIT, Filter, Queries
from tests.contract.rows import Rows


def test_a_task_is_read_as_it_is_stored_with_aware_times(store: Store, rows: Rows) -> None:
    task_id = rows.put(
        "PROCESSING",
        name="test.other",
        priority="high",
        payload='{"text":"☃"}',
        user_id="ann",
        failures=1,
        max_retries=5,
        timeout_seconds=60,
        progress_percent=30,
        progress_step="reading",
        cancel_requested=True,
        created_at=rows.at(-90),
    )
    task = store.queries.task(task_id)
    assert (task.task_id, task.name, task.status) == (task_id, "test.other", Status.PROCESSING)
    assert (task.priority, task.payload, task.user_id) == (Priority.HIGH, {"text": "☃"}, "ann")
    assert (task.attempt, task.failures, task.max_retries, task.timeout_seconds) == (1, 1, 5, 60)
    assert (task.progress_percent, task.progress_step) == (30, "reading")
    assert (task.cancel_requested, task.held, task.holder) == (True, False, "the old worker")
    assert (task.result, task.error, task.ended_at, task.run_at) == (None, None, None, None)
    assert datetime.now(UTC) - task.created_at == pytest.approx(
        timedelta(seconds=90), abs=timedelta(seconds=5)
    )
    assert task.created_at.tzinfo is UTC


def test_a_task_that_is_not_there_is_named(store: Store, rows: Rows) -> None:
    with pytest.raises(TaskNotFound, match="4242"):
        store.queries.task(4242)


def test_a_result_of_null_is_told_from_no_result(store: Store, rows: Rows) -> None:
    done = rows.put("COMPLETED", result="null")
    assert store.queries.task(done).result is None
    listed = rows.put("COMPLETED", result="[1]")
    assert store.queries.task(listed).result == [1]


def test_text_of_another_system_that_is_no_json_is_shown_as_it_is(store: Store, rows: Rows) -> None:
    task_id = rows.put("QUARANTINED", payload="<xml>", result="O:8:stdClass")
    task = store.queries.task(task_id)
    assert (task.payload, task.result) == ("<xml>", "O:8:stdClass")


def test_pages_follow_each_other_without_gap_or_double(store: Store, rows: Rows) -> None:
    first = rows.put("QUEUED", count=25)
    seen: list[int] = []
    before = None
    while page := store.queries.page(limit=10, before_id=before):
        seen += [task.task_id for task in page]
        before = seen[-1]
    assert seen == list(range(first + 24, first - 1, -1))


def test_a_page_is_bounded_whatever_is_asked_for(store: Store, rows: Rows) -> None:
    rows.put("QUEUED", count=PAGE_LIMIT + 5)
    assert len(store.queries.page(limit=10**9)) == PAGE_LIMIT


def test_every_filter_narrows_and_all_of_them_together(store: Store, rows: Rows) -> None:
    wanted = rows.put("FAILED", name="test.other", priority="low", user_id="ann")
    rows.put("FAILED", name="test.other", priority="low", user_id="bob")
    rows.put("FAILED", name="test.other", priority="high", user_id="ann")
    rows.put("FAILED", name="test.noop", priority="low", user_id="ann")
    rows.put("QUEUED", name="test.other", priority="low", user_id="ann")
    rows.put("QUEUED", user_id=None)
    for given, number in (
        (Filter(status=Status.FAILED), 4),
        (Filter(priority=Priority.LOW), 4),
        (Filter(name="test.other"), 4),
        (Filter(user_id="ann"), 4),
        (Filter(ids=[wanted, 1]), 1),
        (Filter(ids=[]), 0),
        (Filter(), 6),
    ):
        assert len(store.queries.page(given)) == number, given
    everything = Filter(Status.FAILED, Priority.LOW, "test.other", "ann")
    assert [task.task_id for task in store.queries.page(everything)] == [wanted]


def test_users_are_told_apart_by_case(store: Store, rows: Rows) -> None:
    rows.put("QUEUED", user_id="Ann")
    assert store.queries.page(Filter(user_id="ann")) == []


def test_counts_name_every_status_and_priority_zeros_included(store: Store, rows: Rows) -> None:
    rows.put("QUEUED", count=3, priority="urgent")
    rows.put("DISPATCHED", count=2, priority="low")
    rows.put("COMPLETED", priority="low")
    expected = {status: dict.fromkeys(PRIORITIES, 0) for status in Status}
    expected[Status.QUEUED][Priority.URGENT] = 3
    expected[Status.DISPATCHED][Priority.LOW] = 2
    expected[Status.COMPLETED][Priority.LOW] = 1
    assert store.queries.counts() == expected


def test_the_oldest_wait_is_told_by_the_databases_clock(store: Store, rows: Rows) -> None:
    assert store.queries.oldest_waiting_seconds(WAITING) is None
    rows.put("QUEUED", waiting_since=rows.at(-30))
    rows.put("DISPATCHED", waiting_since=rows.at(-90))
    assert store.queries.oldest_waiting_seconds([Status.QUEUED]) == pytest.approx(30, abs=5)
    assert store.queries.oldest_waiting_seconds(WAITING) == pytest.approx(90, abs=5)


def test_the_next_due_time_is_the_earliest(store: Store, rows: Rows) -> None:
    assert store.queries.next_run_at() is None
    rows.put("SCHEDULED", run_at=rows.at(600))
    rows.put("SCHEDULED", run_at=rows.at(120))
    moment = store.queries.next_run_at()
    assert moment is not None
    assert (moment - datetime.now(UTC)).total_seconds() == pytest.approx(120, abs=5)


def test_events_tell_a_tasks_history_in_order_with_details(store: Store, rows: Rows) -> None:
    task_id, other = rows.put("QUEUED"), rows.put("QUEUED")
    store.moves.reprioritise(task_id, Priority.LOW)
    store.moves.cancel(task_id)
    store.moves.retry(task_id, active_key=None)
    store.moves.cancel(other)
    events = store.queries.events(task_id)
    assert [event.kind for event in events] == ["reprioritised", "cancelled", "operator's retry"]
    assert events[0].detail == {"was": "normal", "now": "low"}
    assert events[1].detail == {"was": "DISPATCHED"}
    assert all(abs((datetime.now(UTC) - event.at).total_seconds()) < 10 for event in events)


def test_full_of_waiting_tasks_is_told_without_counting_them_all(store: Store, rows: Rows) -> None:
    rows.put("QUEUED", count=2)
    rows.put("SCHEDULED")
    rows.put("PROCESSING", count=4)
    answers = [store.submissions.at_least_waiting(limit) for limit in (1, 3, 4)]
    assert answers == [True, True, False]


def test_a_status_with_many_rows_is_counted_now_and_then_and_the_others_always(
    store: Store, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "LARGE_COUNT", 3)
    now = [0.0]

    def clock() -> float:
        now[0] += 1.0  # so long takes whatever is between two looks at the clock
        return now[0]

    counting = Queries(store.database, clock=clock)
    rows.put("DISPATCHED", count=4)
    rows.put("PROCESSING")
    assert counting.counts()[Status.DISPATCHED][Priority.NORMAL] == 4
    rows.put("DISPATCHED")
    rows.put("PROCESSING")
    found = counting.counts()
    assert found[Status.DISPATCHED][Priority.NORMAL] == 4
    assert found[Status.PROCESSING][Priority.NORMAL] == 2
    now[0] += 100
    assert counting.counts()[Status.DISPATCHED][Priority.NORMAL] == 5


def test_the_oldest_wait_is_found_behind_rows_that_were_seen_in_redis(store: Store, rows: Rows) -> None:
    rows.put("DISPATCHED", confirmed_in=7, waiting_since=rows.at(-300))
    rows.put("DISPATCHED", confirmed_in=0, waiting_since=rows.at(-90), priority="low")
    assert store.queries.oldest_waiting_seconds([Status.DISPATCHED]) == pytest.approx(300, abs=5)
