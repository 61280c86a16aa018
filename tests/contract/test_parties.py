"""Submissions of many threads that go together: one statement for those alike, guarded by the routing."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from app.tasks.database import CommitUnknown
from app.tasks.errors import DatabaseUnavailable, TaskError
from app.tasks.ids import bucket_of
from app.tasks.model import NewTask, Priority, Status, Submitted
from app.tasks.queue import TaskQueue
from app.tasks.store import Store
from app.tasks.store.submitting import Placement
from app.tasks.tickets import RQQueueManager
from tests.contract.parts import MakeQueue, MakeStore, counted, make_queue_over, request
from tests.contract.rows import Rows

Together = Callable[..., list[Submitted | TaskError]]


@pytest.fixture
def together() -> Together:
    """What the leader of a party does with these requests."""

    def submit(queue: TaskQueue, *requests: Any) -> list[Submitted | TaskError]:
        return list(queue._submit_together([queue._check(one) for one in requests]))

    return submit


def test_a_party_is_one_statement_and_each_row_is_whole(
    rows: Rows, store: Store, make_queue: MakeQueue, tickets: RQQueueManager, together: Together
) -> None:
    queue = make_queue(tickets)
    store.routing.refresh()
    wishes = [
        request(payload={"n": n, "s": '\\ " {} NULL 🙂'}, user_id=f"u{n}" if n % 2 else None)
        for n in range(9)
    ]
    with counted(rows.database) as seen:
        answers = together(queue, *wishes)
    assert seen == {"trips": 1}
    assert [type(answer) for answer in answers] == [Submitted] * 9
    for wish, answer in zip(wishes, answers, strict=True):
        assert isinstance(answer, Submitted)
        row = rows.row(answer.task_id)
        task = store.queries.task(answer.task_id)
        assert (task.payload, row["user_id"]) == (wish.payload, wish.user_id)
        assert (row["status"], row["epoch"], row["attempt"], row["held"]) == ("DISPATCHED", 1, 0, 0)
        # the two may differ: PostgreSQL reads its clock twice
        for name in ("created_at", "waiting_since"):
            assert rows.seconds_from_now(row[name]) == pytest.approx(0, abs=5)
        assert row["run_at"] is row["active_key"] is row["token"] is None
    assert tickets.lengths()[Priority.NORMAL] == 9


def test_each_goes_where_the_rules_put_it(
    rows: Rows, make_store: MakeStore, tickets: RQQueueManager, together: Together
) -> None:
    store = make_store(rows)
    queue = make_queue_over(store)(tickets)
    store.routing.change([Priority.NORMAL], redis_percent=50)
    store.routing.change([Priority.LOW], redis_percent=0)
    answers = together(queue, *(request(priority=p) for p in ["normal", "low", "high"] * 20))
    for answer in answers:
        assert isinstance(answer, Submitted)
        half = Status.DISPATCHED if bucket_of(answer.task_id) < 50 else Status.QUEUED
        expected = {"high": Status.DISPATCHED, "low": Status.QUEUED, "normal": half}[answer.priority.value]
        assert answer.status is expected
        assert rows.status(answer.task_id) == expected.value
    assert rows.count() == 60


def test_a_party_that_knows_old_rules_goes_by_the_new_ones(
    rows: Rows, make_store: MakeStore, together: Together
) -> None:
    queue = make_queue_over(make_store(rows))()
    make_store(rows).routing.change(redis_percent=0)
    answers = together(queue, *(request() for _ in range(5)))
    assert [answer.status for answer in answers if isinstance(answer, Submitted)] == [Status.QUEUED] * 5
    assert rows.count("QUEUED") == 5


def test_rows_alike_are_stored_all_or_none(rows: Rows, store: Store) -> None:
    version = store.routing.refresh()[Priority.NORMAL].version
    news = [NewTask(number, "test.noop", "{}", Priority.NORMAL) for number in (1, 2, 3)]
    place = Placement(Status.DISPATCHED, version)
    assert not store.submissions.insert_alike(place._replace(routing_version=version + 1), news)
    assert rows.count() == 0
    assert store.submissions.insert_alike(place, news[1:2])
    assert not store.submissions.insert_alike(place, news)
    assert list(rows.all()) == [2]


def test_a_party_that_meets_an_id_in_use_gets_others(
    rows: Rows, make_queue: MakeQueue, together: Together, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = make_queue()
    taken = rows.put("COMPLETED")
    numbers = iter([taken + 1, taken, taken + 2, taken + 3, taken + 4])
    monkeypatch.setattr(queue._ids, "next", lambda: next(numbers))
    answers = together(queue, request(), request(), request())
    ids = {answer.task_id for answer in answers if isinstance(answer, Submitted)}
    assert len(ids) == 3
    assert sorted(rows.all()) == sorted({taken, *ids})


def test_when_the_database_goes_away_in_a_party_each_is_told_what_became_of_his_own(
    rows: Rows,
    store: Store,
    make_queue: MakeQueue,
    tickets: RQQueueManager,
    together: Together,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    queue, direct = make_queue(tickets), store.database.direct
    tries = itertools.count()

    def goes_away(work: Any) -> Any:
        if next(tries) == 1:
            raise DatabaseUnavailable("gone before it was sent")
        return direct(work)

    monkeypatch.setattr(store.database, "direct", goes_away)
    answers = together(queue, *(request(priority=name) for name in ["high", "low", "high"]))
    assert [type(answer) for answer in answers] == [Submitted, DatabaseUnavailable, Submitted]
    stored = [answer.task_id for answer in answers if isinstance(answer, Submitted)]
    assert sorted(rows.all()) == sorted(stored)
    assert tickets.lengths()[Priority.HIGH] == 2


@pytest.mark.parametrize("arrived", [True, False])
def test_a_party_whose_answer_is_lost_is_looked_for(
    arrived: bool,
    rows: Rows,
    store: Store,
    make_queue: MakeQueue,
    together: Together,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    queue, direct = make_queue(), store.database.direct

    def lossy(work: Any) -> Any:
        if arrived:
            direct(work)
        raise CommitUnknown("the answer was lost")

    monkeypatch.setattr(store.database, "direct", lossy)
    answers = together(queue, request(), request())
    assert [type(answer) for answer in answers] == [Submitted if arrived else CommitUnknown] * 2
    assert rows.count() == 2 * arrived
