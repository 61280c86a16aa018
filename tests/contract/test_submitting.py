"""Submission: one row per wish, whoever races for it, and no row where the rules say no."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.tasks.errors import IdempotencyConflict, IntakePaused, QueueFull, UserLimitReached
from app.tasks.ids import IdSource
from app.tasks.model import PRIORITIES, Priority, Status, Submitted
from app.tasks.queue import TaskQueue
from app.tasks.routing import Intake
from app.tasks.store import Store
from app.tasks.tickets import RQQueueManager, connect
from tests.clocks import WallClock
from tests.contract.parts import HANDLERS, MakeQueue, MakeStore, at_once, make_queue_over, request
from tests.contract.rows import Rows

# --- what is stored --------------------------------------------------------------------------------------


def test_a_submission_is_stored_as_it_was_asked_for(rows: Rows, make_queue: MakeQueue) -> None:
    answer = make_queue().submit(
        request(
            name="test.other",
            payload={"text": "☃ 𝄞", "n": [1, None, True]},
            priority="high",
            user_id="Zoë",
            idempotency_key="order 7",
            max_retries=0,
            timeout_seconds=12,
        )
    )
    row = rows.row(answer.task_id)
    assert answer == Submitted(answer.task_id, Status.DISPATCHED, Priority.HIGH)
    assert row["payload"] == '{"text":"☃ 𝄞","n":[1,null,true]}'
    named = ("name", "priority", "user_id", "idempotency_key", "max_retries", "timeout_seconds")
    assert [row[name] for name in named] == ["test.other", 1, "Zoë", "order 7", 0, 12]
    assert [row[name] for name in ("epoch", "attempt", "failures", "confirmed_in")] == [1, 0, 0, 0]
    assert rows.seconds_from_now(row["created_at"]) == pytest.approx(0, abs=5)
    assert rows.seconds_from_now(row["waiting_since"]) == pytest.approx(0, abs=5)


def test_the_ticket_of_a_stored_row_is_in_its_queue(
    rows: Rows, make_queue: MakeQueue, tickets: RQQueueManager, raw: Any
) -> None:
    answer = make_queue(tickets).submit(request(priority="urgent"))
    assert raw.lrange("rq:queue:urgent", 0, -1) == [f"t{answer.task_id}-e1"]


def test_a_row_of_the_database_track_gets_no_ticket(
    store: Store, rows: Rows, make_queue: MakeQueue, tickets: RQQueueManager, raw: Any
) -> None:
    store.routing.change(redis_percent=0)
    assert make_queue(tickets).submit(request()).status is Status.QUEUED
    assert raw.keys("rq:*") == []


def test_a_task_for_later_waits_unseen_until_then(
    rows: Rows, make_queue: MakeQueue, tickets: RQQueueManager, raw: Any
) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    answer = make_queue(tickets).submit(request(run_at=later))
    assert answer.status is Status.SCHEDULED
    assert rows.seconds_from_now(rows.row(answer.task_id)["run_at"]) == pytest.approx(3600, abs=5)
    assert raw.keys("rq:*") == []


def test_a_time_that_has_passed_means_now(rows: Rows, make_queue: MakeQueue) -> None:
    answer = make_queue().submit(request(run_at=datetime.now(UTC) - timedelta(seconds=1)))
    assert answer.status is Status.DISPATCHED
    assert rows.row(answer.task_id)["run_at"] is None


def test_a_submission_is_taken_while_redis_is_away(rows: Rows, make_queue: MakeQueue) -> None:
    client = connect("redis://127.0.0.1:1/0")
    answer = make_queue(RQQueueManager(client)).submit(request())
    client.close()
    assert rows.status(answer.task_id) == "DISPATCHED"


def test_an_id_that_another_process_drew_is_drawn_again(
    rows: Rows, make_queue: MakeQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = rows.put("COMPLETED")
    ids = iter([taken, taken, 77_000])
    monkeypatch.setattr(IdSource, "next", lambda self: next(ids))
    assert make_queue().submit(request()).task_id == 77_000
    assert rows.status(taken) == "COMPLETED"


# --- idempotency keys ------------------------------------------------------------------------------------


def test_the_same_wish_twice_is_one_task(rows: Rows, make_queue: MakeQueue) -> None:
    queue = make_queue()
    first = queue.submit(request(idempotency_key="k", payload={"n": 1}))
    again = queue.submit(request(idempotency_key="k", payload={"n": 1}))
    assert (again.task_id, again.created, first.created) == (first.task_id, False, True)
    assert rows.count() == 1


def test_a_key_answers_with_the_present_status_even_after_the_end(rows: Rows, make_queue: MakeQueue) -> None:
    queue = make_queue()
    first = queue.submit(request(idempotency_key="k"))
    rows.change(first.task_id, status="COMPLETED", priority=0)
    again = queue.submit(request(idempotency_key="k"))
    assert again == Submitted(first.task_id, Status.COMPLETED, Priority.URGENT, created=False)


@pytest.mark.parametrize(
    "other", [{"payload": {"n": 2}}, {"name": "test.other"}, {"user_id": "bob"}, {"user_id": None}]
)
def test_one_key_for_two_wishes_is_a_conflict(
    other: dict[str, Any], rows: Rows, make_queue: MakeQueue
) -> None:
    queue = make_queue()
    wish = {"idempotency_key": "k", "payload": {"n": 1}, "user_id": "ann"}
    first = queue.submit(request(**wish))
    with pytest.raises(IdempotencyConflict) as conflict:
        queue.submit(request(**(wish | other)))
    assert (conflict.value.key, conflict.value.task_id) == ("k", first.task_id)
    assert rows.count() == 1


def test_keys_differ_by_case_and_accent(rows: Rows, make_queue: MakeQueue) -> None:
    queue = make_queue()
    answers = [queue.submit(request(idempotency_key=key)) for key in ("key", "Key", "kéy", "ke\u0301y")]
    assert all(answer.created for answer in answers)
    assert rows.count() == 4


def test_of_twelve_racing_submissions_with_one_key_one_is_stored(rows: Rows, make_store: MakeStore) -> None:
    queues = [make_queue_over(make_store(rows))() for _ in range(12)]
    answers = at_once([lambda q=q: q.submit(request(idempotency_key="k")) for q in queues])  # type: ignore[misc]
    assert all(isinstance(answer, Submitted) for answer in answers), answers
    stored = [answer for answer in answers if isinstance(answer, Submitted)]
    assert sum(answer.created for answer in stored) == 1
    assert {answer.task_id for answer in stored} == set(rows.all())
    assert rows.count() == 1


# --- the limit of active tasks ---------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 3])
def test_of_twenty_racing_submissions_the_limit_lets_exactly_so_many_in(
    limit: int, rows: Rows, make_store: MakeStore
) -> None:
    queues = [make_queue_over(make_store(rows))(active_tasks_per_user=limit) for _ in range(20)]
    answers = at_once([lambda q=q: q.submit(request(user_id="ann")) for q in queues])  # type: ignore[misc]
    stored = [answer.task_id for answer in answers if isinstance(answer, Submitted)]
    refused = [answer for answer in answers if isinstance(answer, UserLimitReached)]
    assert (len(stored), len(refused)) == (limit, 20 - limit), answers
    assert sorted(rows.all()) == sorted(stored)
    assert {error.active_task_id for error in refused} <= set(stored)
    assert {error.limit for error in refused} == {limit}


def test_a_place_comes_free_when_its_task_ends(store: Store, rows: Rows, make_queue: MakeQueue) -> None:
    queue = make_queue(active_tasks_per_user=1)
    first = queue.submit(request(user_id="ann"))
    with pytest.raises(UserLimitReached):
        queue.submit(request(user_id="ann"))
    queue.cancel(first.task_id)
    assert queue.submit(request(user_id="ann")).created


def test_a_task_that_runs_or_waits_for_a_retry_keeps_its_place(
    store: Store, rows: Rows, make_queue: MakeQueue
) -> None:
    queue = make_queue(active_tasks_per_user=1)
    first = queue.submit(request(user_id="ann"))
    for status in ("PROCESSING", "SCHEDULED", "QUEUED"):
        rows.change(first.task_id, status=status)
        with pytest.raises(UserLimitReached) as refused:
            queue.submit(request(user_id="ann"))
        assert refused.value.active_task_id == first.task_id


def test_the_limit_counts_each_user_alone_and_no_task_without_one(rows: Rows, make_queue: MakeQueue) -> None:
    queue = make_queue(active_tasks_per_user=1)
    for user_id in ("ann", "Ann", "bob", None, None):
        assert queue.submit(request(user_id=user_id)).created
    assert rows.count() == 5


def test_a_repeated_wish_is_answered_while_its_own_task_fills_the_limit(
    rows: Rows, make_queue: MakeQueue
) -> None:
    queue = make_queue(active_tasks_per_user=1)
    first = queue.submit(request(user_id="ann", idempotency_key="k"))
    again = queue.submit(request(user_id="ann", idempotency_key="k"))
    assert (again.task_id, again.created) == (first.task_id, False)


# --- intake -----------------------------------------------------------------------------------------------


def queue_with(store: Store, clock: WallClock) -> TaskQueue:
    return TaskQueue(store, HANDLERS, None, now=clock)


def test_a_held_submission_waits_and_follows_when_the_hold_ends(store: Store, rows: Rows) -> None:
    queue = queue_with(store, WallClock())
    queue.pause_intake(reason="upgrade")
    answer = queue.submit(request())
    row = rows.row(answer.task_id)
    assert (answer.status, bool(row["held"]), row["run_at"]) == (Status.SCHEDULED, True, None)
    assert store.moves.due(limit=9) == []
    queue.resume_intake()
    assert queue.submit(request()).status is Status.DISPATCHED
    store.moves.lift_holds(PRIORITIES, limit=9)
    assert rows.status(answer.task_id) == "DISPATCHED"


def test_a_refused_submission_says_why_and_for_how_long(store: Store, rows: Rows) -> None:
    clock = WallClock()
    queue = queue_with(store, clock)
    queue.pause_intake(reason="upgrade", mode=Intake.REFUSE, duration=timedelta(minutes=5))
    clock.now += timedelta(minutes=1)
    with pytest.raises(IntakePaused) as paused:
        queue.submit(request())
    assert (paused.value.reason, paused.value.retry_after_seconds) == ("upgrade", 240)
    assert paused.value.until == clock.now + timedelta(minutes=4)
    assert rows.count() == 0


@pytest.mark.parametrize("mode", [Intake.HOLD, Intake.REFUSE])
def test_a_pause_of_intake_with_an_end_ends_by_itself(mode: Intake, store: Store, rows: Rows) -> None:
    clock = WallClock()
    queue = queue_with(store, clock)
    queue.pause_intake(reason="upgrade", mode=mode, duration=timedelta(minutes=5))
    clock.now += timedelta(minutes=5)
    assert queue.submit(request()).status is Status.DISPATCHED


def test_a_repeated_wish_is_refused_during_a_pause_like_a_new_one(store: Store, rows: Rows) -> None:
    queue = queue_with(store, WallClock())
    queue.submit(request(idempotency_key="k"))
    queue.pause_intake(reason="upgrade", mode=Intake.REFUSE)
    with pytest.raises(IntakePaused):
        queue.submit(request(idempotency_key="k"))


def test_a_full_system_refuses_new_tasks_until_some_have_left(rows: Rows, make_queue: MakeQueue) -> None:
    queue = make_queue(queue_size_limit=3)
    waiting = rows.put("SCHEDULED")
    rows.put("QUEUED")
    rows.put("DISPATCHED")
    rows.put("PROCESSING", count=5)
    with pytest.raises(QueueFull):
        queue.submit(request())
    with pytest.raises(QueueFull):
        queue.submit_many([request()])
    rows.change(waiting, status="COMPLETED")
    assert queue.submit(request()).created


# --- many threads at the same moment ---------------------------------------------------------------------


def test_submissions_of_many_threads_are_each_stored_once_with_their_own_answer(
    rows: Rows, make_queue: MakeQueue, tickets: RQQueueManager, raw: Any
) -> None:
    queue = make_queue(tickets)

    def submit(number: int) -> list[tuple[str, Submitted]]:
        wishes = [f"{number}/{turn}" for turn in range(10)]
        return [(wish, queue.submit(request(payload={"wish": wish}, user_id=wish))) for wish in wishes]

    with ThreadPoolExecutor(16) as pool:
        answers = [pair for pairs in pool.map(submit, range(16)) for pair in pairs]

    assert len({answer.task_id for _, answer in answers}) == 160
    for wish, answer in answers:
        row = rows.row(answer.task_id)
        assert (row["user_id"], row["payload"]) == (wish, f'{{"wish":"{wish}"}}')
    queued = raw.lrange("rq:queue:normal", 0, -1)
    assert sorted(queued) == sorted(f"t{answer.task_id}-e1" for _, answer in answers)


def test_many_threads_with_keys_and_under_a_limit_get_each_what_they_would_get_alone(
    rows: Rows, make_queue: MakeQueue
) -> None:
    queue = make_queue(active_tasks_per_user=3)

    def submit(number: int) -> list[Submitted | UserLimitReached]:
        answers: list[Submitted | UserLimitReached] = []
        for turn in range(8):
            answers.append(queue.submit(request(idempotency_key=f"k{turn}", payload=turn)))
            try:
                answers.append(queue.submit(request(user_id=f"u{turn % 2}")))
            except UserLimitReached as error:
                answers.append(error)
        return answers

    with ThreadPoolExecutor(16) as pool:
        answers = [answer for each in pool.map(submit, range(16)) for answer in each]

    stored = [answer.task_id for answer in answers if isinstance(answer, Submitted) and answer.created]
    assert sorted(stored) == sorted(rows.all())
    by_key = {row["idempotency_key"]: task_id for task_id, row in rows.all().items()}
    assert set(by_key) == {None, *(f"k{turn}" for turn in range(8))}
    assert len(stored) == 8 + 2 * 3
    refused = [answer for answer in answers if isinstance(answer, UserLimitReached)]
    assert len(refused) == 16 * 8 - 2 * 3
    assert {answer.active_task_id for answer in refused} <= set(stored)


def test_a_pause_of_intake_refuses_every_one_of_many_threads(
    store: Store, rows: Rows, make_queue: MakeQueue
) -> None:
    queue = make_queue()
    queue.pause_intake(reason="moving house", mode=Intake.REFUSE)

    def submit(number: int) -> str:
        with pytest.raises(IntakePaused, match="moving house"):
            queue.submit(request(payload={"wish": number}))
        return "refused"

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(submit, range(64))) == ["refused"] * 64
    assert rows.count() == 0
