"""The routing: shares that stay, and flips that wait for what is under way and leave nothing behind."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import text

from app.tasks.ids import IdSource, bucket_of
from app.tasks.model import PRIORITIES, OnLost, Priority, Status, Track
from app.tasks.queue import TaskQueue
from app.tasks.routing import Route
from app.tasks.store import Store
from tests.contract.parts import InBackground, MakeQueue, MakeStore, at_once, make_queue_over, request
from tests.contract.rows import TOKEN, Rows
from tests.waiting import wait_until


def versions(rows: Rows) -> list[int]:
    return [row.version for row in rows.execute("SELECT version FROM routing ORDER BY priority")]


# --- the rules themselves ----------------------------------------------------------------------------------


def test_the_start_value_is_written_once_and_never_over_a_switch_made_at_run_time(
    store: Store, rows: Rows
) -> None:
    store.routing.change([Priority.HIGH], redis_percent=20)
    rules = store.routing.ensure(redis_percent=70)
    assert {p: rules[p].redis_percent for p in PRIORITIES} == dict.fromkeys(PRIORITIES, 100) | {
        Priority.HIGH: 20
    }
    assert versions(rows) == [1, 2, 1, 1]


def test_processes_that_start_together_create_one_set_of_rules(rows: Rows) -> None:
    answers = at_once([lambda: Store.over(rows.database).routing.ensure(redis_percent=50) for _ in range(6)])
    assert all(set(rules) == set(PRIORITIES) for rules in answers if isinstance(rules, dict))
    assert not [answer for answer in answers if isinstance(answer, BaseException)]
    assert versions(rows) == [1, 1, 1, 1]


def test_a_change_raises_the_versions_of_its_priorities_only(store: Store, rows: Rows) -> None:
    rules = store.routing.change([Priority.URGENT, Priority.LOW], paused=True)
    assert versions(rows) == [2, 1, 1, 2]
    assert [rules[p].paused for p in PRIORITIES] == [True, False, False, True]


def test_every_rule_survives_the_way_through_the_database(store: Store, rows: Rows) -> None:
    written = store.routing.change(
        [Priority.LOW],
        redis_percent=30,
        name_percents={"test.other": 5, "ä ☃": 100},
        paused=True,
        fenced_track=Track.REDIS,
        fallback=True,
    )
    read = Store.over(rows.database).routing.refresh()
    assert read == written
    assert read[Priority.LOW] == Route(
        Priority.LOW, 2, 30, {"test.other": 5, "ä ☃": 100}, True, Track.REDIS, True
    )


def test_two_changes_at_once_both_take_place(rows: Rows, make_store: MakeStore) -> None:
    stores = [make_store(rows) for _ in range(8)]
    at_once([lambda s=s: s.routing.change(paused=True) for s in stores])  # type: ignore[misc]
    assert versions(rows) == [9, 9, 9, 9]


def test_rules_may_be_a_second_old_and_no_older(rows: Rows, make_store: MakeStore) -> None:
    now = [100.0]
    store = make_store(rows)
    store.routing._clock = lambda: now[0]
    store.routing.refresh()
    make_store(rows).routing.change(redis_percent=10)
    now[0] += 1.0
    assert store.routing.current()[Priority.LOW].redis_percent == 100
    now[0] += 0.1
    assert store.routing.current()[Priority.LOW].redis_percent == 10


# --- shares ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("percent", [1, 10, 50, 90])
def test_the_share_of_tasks_on_redis_is_close_to_the_percentage(percent: int) -> None:
    source = IdSource()
    burst = source.take(20_000)
    now = [1_800_000_000.0]
    paced = IdSource(clock=lambda: now[0])
    spread = []
    for n in range(20_000):
        now[0] += 0.001 + 0.017 * (n % 3)
        spread.append(paced.next())
    for ids in (burst, spread):
        share = 100 * sum(bucket_of(task_id) < percent for task_id in ids) / len(ids)
        assert share == pytest.approx(percent, abs=1.5)


def test_a_growing_share_moves_no_task_back_to_the_database() -> None:
    ids = IdSource().take(2_000)
    on_redis: set[int] = set()
    for percent in (0, 10, 25, 50, 99, 100):
        route = Route(Priority.LOW, 1, percent)
        now = {i for i in ids if route.track_of(i, "test.noop") is Track.REDIS}
        assert on_redis <= now
        on_redis = now
    assert on_redis == set(ids)


def test_a_submitted_task_keeps_its_track_while_the_share_stays(
    store: Store, rows: Rows, make_queue: MakeQueue
) -> None:
    store.routing.change(redis_percent=50)
    make_queue().submit_many([request() for _ in range(200)])
    before = rows.all()
    assert store.moves.to_right_track(Priority.NORMAL, limit=500) == []
    assert rows.all() == before


# --- flips -------------------------------------------------------------------------------------------------


def test_a_flip_waits_for_a_submission_in_flight(store: Store, rows: Rows, make_queue: MakeQueue) -> None:
    queue = make_queue()
    with store.database.engine.connect() as connection:
        in_flight = queue.submit(request(), connection=connection)
        flip = InBackground(lambda: queue.route(redis_percent=0))
        flip.must_wait(rows)
        connection.commit()
    flip.answer()
    assert rows.status(in_flight.task_id) == "DISPATCHED"
    assert queue.submit(request()).status is Status.QUEUED


def test_a_flip_of_one_priority_does_not_wait_for_a_submission_of_another(
    server_rows: Rows, make_store: MakeStore
) -> None:
    store = make_store(server_rows)
    queue = make_queue_over(store)()
    with store.database.engine.connect() as connection:
        queue.submit(request(priority="high"), connection=connection)
        flip = InBackground(lambda: queue.route(redis_percent=0, priorities=[Priority.LOW]))
        assert flip.answer()[Priority.LOW].redis_percent == 0
        connection.rollback()


def test_two_submissions_do_not_wait_for_each_other(server_rows: Rows, make_store: MakeStore) -> None:
    store = make_store(server_rows)
    queue = make_queue_over(store)()
    with store.database.engine.connect() as connection:
        queue.submit(request(), connection=connection)
        assert InBackground(lambda: queue.submit(request())).answer().created
        connection.rollback()


MOVES: dict[str, tuple[str, Callable[[Store, int], Any]]] = {
    "due": ("SCHEDULED", lambda store, task_id: store.moves.due(limit=9)),
    "lift a hold": ("SCHEDULED", lambda store, task_id: store.moves.lift_holds(PRIORITIES, limit=9)),
    "reprioritise": ("DISPATCHED", lambda store, task_id: store.moves.reprioritise(task_id, Priority.LOW)),
    "retry": ("FAILED", lambda store, task_id: store.moves.retry(task_id, active_key=None)),
    "reclaim": (
        "PROCESSING",
        lambda store, task_id: store.moves.reclaim(
            task_id, TOKEN, on_lost=OnLost.RETRY, max_retries=3, reason="test"
        ),
    ),
    "to the right track": (
        "DISPATCHED",
        lambda store, task_id: store.moves.to_right_track(Priority.NORMAL, limit=9),
    ),
}


@pytest.mark.parametrize("verb", MOVES)
def test_a_move_waits_for_a_flip_in_flight_and_then_obeys_it(
    verb: str, server_rows: Rows, make_store: MakeStore
) -> None:
    status, move = MOVES[verb]
    store = make_store(server_rows)
    times: dict[str, Any] = {}
    if status == "SCHEDULED":
        times = {"run_at": server_rows.at(-5), "held": verb == "lift a hold"}
    task_id = server_rows.put(status, **times)
    with server_rows.holding("UPDATE routing SET redis_percent = 0, version = version + 1"):
        moving = InBackground(lambda: move(store, task_id))
        moving.must_wait(server_rows)
    moving.answer()
    assert server_rows.status(task_id) == "QUEUED"


def test_a_submission_waits_for_a_flip_in_flight_and_then_obeys_it(
    store: Store, rows: Rows, make_queue: MakeQueue
) -> None:
    queue = make_queue()
    queue.store.routing.current()
    with rows.holding("UPDATE routing SET redis_percent = 0, version = version + 1"):
        submission = InBackground(lambda: queue.submit(request()))
        submission.must_wait(rows)
    answer = submission.answer()
    assert (answer.status, rows.status(answer.task_id)) == (Status.QUEUED, "QUEUED")


def test_stale_rules_cost_a_submission_one_more_try(rows: Rows, make_store: MakeStore) -> None:
    stale = make_queue_over(make_store(rows))()
    make_store(rows).routing.change(redis_percent=0)
    answer = stale.submit(request())
    assert (answer.status, rows.status(answer.task_id)) == (Status.QUEUED, "QUEUED")


def test_no_row_of_the_old_track_appears_after_a_flip_while_others_submit(
    rows: Rows, make_store: MakeStore
) -> None:
    over = threading.Event()
    submitted = [0, 0, 0]

    def keep_submitting(number: int, submit: Callable[[TaskQueue], object]) -> None:
        queue = make_queue_over(make_store(rows))()
        while not over.is_set():
            submit(queue)
            submitted[number] += 1

    ways: list[Callable[[TaskQueue], object]] = [
        lambda queue: queue.submit(request()),
        lambda queue: queue.submit_many([request() for _ in range(5)]),
        _in_a_transaction,
    ]
    threads = [threading.Thread(target=keep_submitting, args=(n, way)) for n, way in enumerate(ways)]
    operator = make_store(rows)
    for thread in threads:
        thread.start()
    try:
        for percent, old_track in ((0, "DISPATCHED"), (100, "QUEUED"), (0, "DISPATCHED")):
            _wait_for_three_more_of_each(submitted)
            operator.routing.change(redis_percent=percent)
            present = rows.count(old_track)
            _wait_for_three_more_of_each(submitted)
            assert rows.count(old_track) == present
    finally:
        over.set()
        for thread in threads:
            thread.join(timeout=60)
    assert min(submitted) > 0


def _in_a_transaction(queue: TaskQueue) -> None:
    with queue.store.database.engine.begin() as connection:
        queue.submit(request(), connection=connection)
        connection.execute(text("SELECT COUNT(*) FROM tasks"))


def _wait_for_three_more_of_each(submitted: list[int]) -> None:
    before = list(submitted)
    wait_until(
        lambda: all(now >= then + 3 for now, then in zip(submitted, before, strict=True)),
        deadline_seconds=60,
        what="three more submissions of each kind",
    )


# --- the operator's two verbs ------------------------------------------------------------------------------


def test_a_recall_and_a_dispatch_move_every_waiting_row_there_and_back(
    rows: Rows, make_queue: MakeQueue
) -> None:
    queue = make_queue()
    for priority in PRIORITIES:
        rows.put("DISPATCHED", count=30, priority=priority.value)
    rows.put("SCHEDULED", count=3)
    rows.put("PROCESSING", count=3)
    assert queue.recall() == 120
    assert (rows.count("QUEUED"), rows.count("DISPATCHED")) == (120, 0)
    assert queue.dispatch([Priority.HIGH]) == 30
    assert (rows.count("QUEUED"), rows.count("DISPATCHED")) == (90, 30)
    assert (rows.count("SCHEDULED"), rows.count("PROCESSING")) == (3, 3)
