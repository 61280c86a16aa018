"""Many submissions in one call: each has its own answer, and all of them obey one set of rules."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.tasks import bulks
from app.tasks.errors import (
    DatabaseUnavailable,
    IdempotencyConflict,
    IntakePaused,
    InvalidTask,
    PayloadTooLarge,
    TaskError,
    UnknownPriority,
    UnknownTaskName,
    UserLimitReached,
)
from app.tasks.ids import IdSource, bucket_of
from app.tasks.model import PRIORITIES, Priority, Status, Submitted
from app.tasks.routing import Intake
from app.tasks.store import Store
from app.tasks.store.submitting import Submissions
from app.tasks.submission import TaskRequest
from app.tasks.tickets import RQQueueManager
from tests.contract.parts import (
    InBackground,
    MakeQueue,
    MakeStore,
    at_once,
    counted,
    make_queue_over,
    request,
)
from tests.contract.rows import Rows


def ids_of(answers: list[Submitted | TaskError]) -> list[int]:
    assert all(isinstance(answer, Submitted) for answer in answers), answers
    return [answer.task_id for answer in answers if isinstance(answer, Submitted)]


def test_each_request_has_its_own_answer_in_its_own_place(rows: Rows, make_queue: MakeQueue) -> None:
    queue = make_queue(active_tasks_per_user=1, payload_limit_bytes=50)
    wishes: list[tuple[TaskRequest, type[Submitted] | type[TaskError]]] = [
        (request(), Submitted),
        (request(name="no such task"), UnknownTaskName),
        (request(idempotency_key="k"), Submitted),
        (request(priority="soon"), UnknownPriority),
        (request(idempotency_key="k"), Submitted),
        (request(idempotency_key="k", payload={"other": 1}), IdempotencyConflict),
        (request(user_id="ann"), Submitted),
        (request(user_id="ann"), UserLimitReached),
        (request(payload={"text": "x" * 100}), PayloadTooLarge),
        (request(max_retries=-1), InvalidTask),
        (request(priority="low"), Submitted),
    ]
    answers = queue.submit_many([wish for wish, _ in wishes])
    assert [type(answer) for answer in answers] == [kind for _, kind in wishes]
    made = [answer for answer in answers if isinstance(answer, Submitted) and answer.created]
    assert sorted(rows.all()) == sorted(answer.task_id for answer in made)
    assert len(made) == 4
    assert rows.row(made[-1].task_id)["priority"] == 3


def test_many_with_keys_and_under_a_limit_cost_no_more_statements_than_few(
    rows: Rows, make_queue: MakeQueue
) -> None:
    queue = make_queue(active_tasks_per_user=2)
    seen = []
    for count in (4, 60):
        wishes = [request(idempotency_key=f"{count} {n}", user_id=f"{count} {n // 3}") for n in range(count)]
        with counted(rows.database) as counts:
            answers = queue.submit_many(wishes)
        refused = [n for n, answer in enumerate(answers) if isinstance(answer, UserLimitReached)]
        assert refused == list(range(2, count, 3))
        assert [answer.created for answer in answers if isinstance(answer, Submitted)] == [True] * (
            count - len(refused)
        )
        seen.append((counts["statements"], counts["commits"]))
    assert seen[0] == seen[1]
    assert seen[0][1] == 1


def test_a_bulk_that_is_sent_again_is_answered_from_its_rows(rows: Rows, make_queue: MakeQueue) -> None:
    queue = make_queue()
    wishes = [request(idempotency_key=f"k{n}", payload=n) for n in range(6000)]
    first = queue.submit_many(wishes)
    again = queue.submit_many(wishes)
    assert ids_of(again) == ids_of(first)
    assert not any(answer.created for answer in again if isinstance(answer, Submitted))
    assert rows.count() == 6000


def test_a_place_that_a_refused_wish_did_not_take_is_the_next_ones(rows: Rows, make_queue: MakeQueue) -> None:
    queue = make_queue(active_tasks_per_user=1)
    other = queue.submit(request(idempotency_key="k", payload=1)).task_id
    wishes = [
        request(user_id="ann", idempotency_key="k"),
        request(user_id="ann"),
        request(user_id="ann"),
        request(user_id="bob"),
    ]
    conflict, stored, refused, bobs = queue.submit_many(wishes)
    assert isinstance(conflict, IdempotencyConflict)
    assert conflict.task_id == other
    assert isinstance(refused, UserLimitReached)
    assert ids_of([stored, bobs]) == sorted(set(rows.all()) - {other})
    assert refused.active_task_id == ids_of([stored])[0]
    assert rows.row(ids_of([stored])[0])["active_key"] == "ann#1"


def test_of_racing_bulks_with_the_same_keys_each_wish_is_stored_once(
    rows: Rows, make_store: MakeStore
) -> None:
    queues = [make_queue_over(make_store(rows))(active_tasks_per_user=5) for _ in range(4)]
    wishes = [request(idempotency_key=f"k{n}", payload=n, user_id=f"u{n % 9}") for n in range(40)]
    orders = [wishes, wishes[::-1], wishes, wishes[::-1]]
    answers = at_once(
        [lambda q=q, w=w: q.submit_many(w) for q, w in zip(queues, orders, strict=True)]  # type: ignore[misc]
    )
    assert all(isinstance(answer, list) for answer in answers), answers
    everyone = [ids_of(answer) for answer in answers if isinstance(answer, list)]
    assert everyone[0] == everyone[2] == everyone[1][::-1] == everyone[3][::-1]
    assert sorted(everyone[0]) == sorted(rows.all())


def test_an_empty_call_has_an_empty_answer(make_queue: MakeQueue) -> None:
    assert make_queue().submit_many([]) == []


def test_all_rows_go_by_their_share_and_all_tickets_follow_in_order(
    store: Store, rows: Rows, make_queue: MakeQueue, tickets: RQQueueManager, raw: Any
) -> None:
    store.routing.change(redis_percent=40)
    queue = make_queue(tickets)
    answers = queue.submit_many([request(priority=PRIORITIES[n % 2], payload=n) for n in range(1200)])
    ids = ids_of(answers)
    assert ids == sorted(ids)
    after = rows.all()
    assert [after[task_id]["payload"] for task_id in ids] == [str(n) for n in range(1200)]
    for priority in (Priority.URGENT, Priority.HIGH):
        mine = [task_id for n, task_id in enumerate(ids) if PRIORITIES[n % 2] is priority]
        dispatched = [task_id for task_id in mine if bucket_of(task_id) < 40]
        assert [i for i in mine if after[i]["status"] == "DISPATCHED"] == dispatched
        assert raw.lrange(f"rq:queue:{priority}", 0, -1) == [f"t{task_id}-e1" for task_id in dispatched]
    assert 400 < rows.count("DISPATCHED") < 560


def test_a_bulk_row_is_like_one_that_was_submitted_alone(rows: Rows, make_queue: MakeQueue) -> None:
    queue = make_queue()
    later = datetime.now(UTC) + timedelta(hours=1)
    for wish in (request(user_id="ann", max_retries=2, timeout_seconds=9), request(run_at=later)):
        alone = rows.row(queue.submit(wish).task_id)
        (in_bulk,) = ids_of(queue.submit_many([wish]))
        bulk = rows.row(in_bulk)
        clocks = ("id", "created_at", "waiting_since")
        assert {k: v for k, v in bulk.items() if k not in clocks} == {
            k: v for k, v in alone.items() if k not in clocks
        }
        assert (bulk["waiting_since"] is None) == (bulk["status"] == "SCHEDULED")
        assert (alone["waiting_since"] is None) == (alone["status"] == "SCHEDULED")


def test_a_pause_of_one_priority_refuses_only_its_requests(
    store: Store, rows: Rows, make_queue: MakeQueue
) -> None:
    store.routing.change([Priority.LOW], intake=Intake.REFUSE)
    store.routing.change([Priority.HIGH], intake=Intake.HOLD)
    answers = make_queue().submit_many([request(priority=p) for p in ("low", "high", "urgent")])
    assert isinstance(answers[0], IntakePaused)
    assert [a.status for a in answers if isinstance(a, Submitted)] == [Status.SCHEDULED, Status.DISPATCHED]
    assert rows.count() == 2


def test_a_bulk_that_meets_an_id_of_another_process_still_stores_everything(
    rows: Rows, make_queue: MakeQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = rows.put("COMPLETED")
    ids = iter([91_000, taken, 91_001, 91_002])
    monkeypatch.setattr(IdSource, "next", lambda self: next(ids))
    answers = make_queue().submit_many([request(), request(), request()])
    assert ids_of(answers) == [91_000, 91_002, 91_001]
    assert rows.count() == 4


def test_a_bulk_waits_for_a_flip_in_flight_and_then_obeys_it(
    store: Store, rows: Rows, make_queue: MakeQueue
) -> None:
    queue = make_queue()
    queue.store.routing.current()
    flip = "UPDATE routing SET redis_percent = 0, version = version + 1"
    with rows.holding(flip):
        bulk = InBackground(lambda: queue.submit_many([request() for _ in range(20)]))
        bulk.must_wait(rows)
    ids_of(bulk.answer())
    assert (rows.count("QUEUED"), rows.count("DISPATCHED")) == (20, 0)


def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulks, "PART", 10)


def break_the_store(monkeypatch: pytest.MonkeyPatch, *, after: int) -> list[int]:
    """The database goes away once so many transactions have stored rows; how many were begun after that."""
    insert_many, refused = Submissions.insert_many, list[int]()
    stored = iter(range(after))

    def insert(self: Submissions, batch: Any, *rest: Any) -> None:
        if next(stored, None) is None:
            refused.append(len(batch))
            raise DatabaseUnavailable("away")
        insert_many(self, batch, *rest)

    monkeypatch.setattr(Submissions, "insert_many", insert)
    return refused


def test_a_bulk_of_several_parts_has_its_answers_rows_and_tickets_in_order(
    rows: Rows, make_queue: MakeQueue, tickets: RQQueueManager, raw: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_parts(monkeypatch)
    wishes = [request(payload=n, name="no such task" if n % 7 == 3 else "test.noop") for n in range(95)]
    answers = make_queue(tickets).submit_many(iter(wishes))
    refused = [n for n, answer in enumerate(answers) if isinstance(answer, UnknownTaskName)]
    assert refused == [*range(3, 95, 7)]
    ids = [answer.task_id for answer in answers if isinstance(answer, Submitted)]
    assert ids == sorted(rows.all())
    assert [int(rows.row(i)["payload"]) for i in ids] == [n for n in range(95) if n % 7 != 3]
    assert raw.lrange("rq:queue:normal", 0, -1) == [f"t{task_id}-e1" for task_id in ids]


def test_a_key_that_an_earlier_part_has_stored_is_answered_from_its_row(
    rows: Rows, make_queue: MakeQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_parts(monkeypatch)
    answers = make_queue().submit_many([request(idempotency_key=f"k{n % 15}") for n in range(40)])
    ids = ids_of(answers)
    assert ids == [ids[n % 15] for n in range(40)]
    created = [answer.created for answer in answers if isinstance(answer, Submitted)]
    assert created == [True] * 15 + [False] * 25
    assert rows.count() == 15


def test_an_outage_in_the_middle_is_the_answer_to_what_was_not_stored(
    rows: Rows, make_queue: MakeQueue, tickets: RQQueueManager, raw: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_parts(monkeypatch)
    queue = make_queue(tickets)
    refused = break_the_store(monkeypatch, after=2)
    answers = queue.submit_many([request() for _ in range(50)])
    assert sorted(rows.all()) == ids_of(answers[:20])
    assert all(isinstance(answer, DatabaseUnavailable) for answer in answers[20:])
    assert len(raw.lrange("rq:queue:normal", 0, -1)) == 20
    assert refused == [10], "what comes after a failure is not tried"


def test_an_outage_from_the_beginning_is_raised_and_nothing_is_stored(
    rows: Rows, make_queue: MakeQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_parts(monkeypatch)
    queue = make_queue()
    refused = break_the_store(monkeypatch, after=0)
    with pytest.raises(DatabaseUnavailable):
        queue.submit_many([request() for _ in range(50)])
    assert (rows.count(), refused) == (0, [10])


def test_nothing_is_stored_of_a_bulk_whose_maker_fails_at_its_end(
    rows: Rows, make_queue: MakeQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_parts(monkeypatch)

    def wishes() -> Iterator[TaskRequest]:
        yield from (request() for _ in range(30))
        raise OSError("the file ended too soon")

    with pytest.raises(OSError, match="too soon"):
        make_queue().submit_many(wishes())
    assert rows.count() == 0
