"""Submission in the caller's transaction: one commit for both, one rollback for both, a ticket after."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import Connection

from app.tasks.database import Database
from app.tasks.errors import IdempotencyConflict, InvalidTask, UserLimitReached
from app.tasks.ids import IdSource
from app.tasks.model import Status
from app.tasks.queue import TaskQueue
from app.tasks.store import Store
from app.tasks.tickets import RQQueueManager
from tests.contract.parts import HANDLERS, InBackground, MakeQueue, request
from tests.contract.rows import Rows


def effect(on: Connection, number: int) -> None:
    on.execute(text("INSERT INTO effects VALUES (:number)"), {"number": number})


def queue_list(raw: Any) -> list[str]:
    return list(raw.lrange("rq:queue:normal", 0, -1))


def test_the_row_commits_with_the_callers_own_writes_and_its_ticket_follows(
    store: Store, rows: Rows, make_queue: MakeQueue, tickets: RQQueueManager, raw: Any
) -> None:
    queue = make_queue(tickets)
    with store.database.engine.connect() as connection:
        effect(connection, 1)
        answer = queue.submit(request(), connection=connection)
        assert answer.status is Status.DISPATCHED
        if rows.kind != "sqlite":
            assert (rows.count(), rows.effects()) == (0, [])
        assert queue_list(raw) == []
        connection.commit()
    assert (rows.status(answer.task_id), rows.effects()) == ("DISPATCHED", [1])
    assert queue_list(raw) == [f"t{answer.task_id}-e1"]


def test_the_ticket_follows_too_when_the_connection_goes_on_with_its_next_transaction(
    store: Store, make_queue: MakeQueue, tickets: RQQueueManager, raw: Any
) -> None:
    queue = make_queue(tickets)
    with store.database.engine.connect() as connection:
        answer = queue.submit(request(), connection=connection)
        connection.commit()
        connection.execute(text("SELECT 1"))
        assert queue_list(raw) == [f"t{answer.task_id}-e1"]
        connection.rollback()
    assert queue_list(raw) == [f"t{answer.task_id}-e1"]


def test_several_tickets_of_one_transaction_follow_in_order(
    store: Store, make_queue: MakeQueue, tickets: RQQueueManager, raw: Any
) -> None:
    queue = make_queue(tickets)
    with store.database.engine.begin() as connection:
        ids = [queue.submit(request(), connection=connection).task_id for _ in range(3)]
    assert queue_list(raw) == [f"t{task_id}-e1" for task_id in ids]


def test_a_rollback_takes_the_row_and_no_ticket_follows(
    store: Store, rows: Rows, make_queue: MakeQueue, tickets: RQQueueManager, raw: Any
) -> None:
    queue = make_queue(tickets)
    with store.database.engine.connect() as connection:
        effect(connection, 1)
        queue.submit(request(), connection=connection)
        connection.rollback()
        later = queue.submit(request(), connection=connection)
        connection.commit()
    assert (list(rows.all()), rows.effects()) == ([later.task_id], [])
    assert queue_list(raw) == [f"t{later.task_id}-e1"]


def test_a_connection_that_is_closed_without_a_commit_leaves_nothing(
    store: Store, rows: Rows, make_queue: MakeQueue, tickets: RQQueueManager, raw: Any
) -> None:
    with store.database.engine.connect() as connection:
        make_queue(tickets).submit(request(), connection=connection)
    assert rows.count() == 0
    assert queue_list(raw) == []


def test_an_exception_in_the_callers_block_leaves_nothing(
    store: Store, rows: Rows, make_queue: MakeQueue, tickets: RQQueueManager, raw: Any
) -> None:
    def caller() -> None:
        with store.database.engine.begin() as connection:
            make_queue(tickets).submit(request(), connection=connection)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        caller()
    assert rows.count() == 0
    assert queue_list(raw) == []


def test_a_savepoint_that_is_rolled_back_takes_its_rows_and_leaves_the_others(
    store: Store, rows: Rows, make_queue: MakeQueue, tickets: RQQueueManager, raw: Any
) -> None:
    queue = make_queue(tickets)
    with store.database.engine.begin() as connection:
        first = queue.submit(request(), connection=connection)
        savepoint = connection.begin_nested()
        dropped = queue.submit(request(), connection=connection)
        savepoint.rollback()
        with connection.begin_nested():
            kept = queue.submit(request(), connection=connection)
    assert sorted(rows.all()) == [first.task_id, kept.task_id]
    assert {f"t{first.task_id}-e1", f"t{kept.task_id}-e1"} <= set(queue_list(raw))
    # a ticket of a row that never was does no harm
    answer = store.claims.tickets([(dropped.task_id, 1)], holder="w", lease_seconds=30)
    assert (answer.won, answer.stale) == ([], [(dropped.task_id, 1)])


def test_an_engine_of_the_callers_own_will_do(
    rows: Rows, make_queue: MakeQueue, tickets: RQQueueManager, raw: Any
) -> None:
    engine = create_engine(rows.url)
    queue = make_queue(tickets)
    queue.store.routing.current(max_age_seconds=0)
    with engine.begin() as connection:
        answer = queue.submit(request(), connection=connection)
    engine.dispose()
    assert rows.status(answer.task_id) == "DISPATCHED"
    assert queue_list(raw) == [f"t{answer.task_id}-e1"]


def test_a_push_that_redis_refuses_does_not_reach_the_caller(
    store: Store, rows: Rows, make_queue: MakeQueue, tickets: RQQueueManager, raw: Any
) -> None:
    raw.set("rq:queue:normal", "no list")
    with store.database.engine.begin() as connection:
        answer = make_queue(tickets).submit(request(), connection=connection)
    assert rows.status(answer.task_id) == "DISPATCHED"


# --- refusals --------------------------------------------------------------------------------------------


def test_a_user_limit_that_is_met_leaves_the_callers_transaction_usable(
    store: Store, rows: Rows, make_queue: MakeQueue
) -> None:
    queue = make_queue(active_tasks_per_user=1)
    with store.database.engine.begin() as connection:
        first = queue.submit(request(user_id="ann"), connection=connection)
        with pytest.raises(UserLimitReached) as refused:
            queue.submit(request(user_id="ann"), connection=connection)
        effect(connection, 1)
        other = queue.submit(request(user_id="bob"), connection=connection)
    assert refused.value.active_task_id == first.task_id
    assert sorted(rows.all()) == [first.task_id, other.task_id]
    assert rows.effects() == [1]


def test_a_key_that_exists_leaves_the_callers_transaction_usable(
    store: Store, rows: Rows, make_queue: MakeQueue
) -> None:
    queue = make_queue()
    elsewhere = queue.submit(request(idempotency_key="committed"))
    with store.database.engine.begin() as connection:
        inside = queue.submit(request(idempotency_key="inside"), connection=connection)
        for key, known in (("committed", elsewhere), ("inside", inside)):
            again = queue.submit(request(idempotency_key=key), connection=connection)
            assert (again.task_id, again.created) == (known.task_id, False)
            with pytest.raises(IdempotencyConflict):
                queue.submit(request(idempotency_key=key, payload={"other": 1}), connection=connection)
        effect(connection, 1)
    assert sorted(rows.all()) == [elsewhere.task_id, inside.task_id]
    assert rows.effects() == [1]


def test_an_id_that_exists_leaves_the_callers_transaction_usable(
    store: Store, rows: Rows, make_queue: MakeQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = rows.put("COMPLETED")
    ids = iter([taken, 88_000])
    monkeypatch.setattr(IdSource, "next", lambda self: next(ids))
    with store.database.engine.begin() as connection:
        effect(connection, 1)
        assert make_queue().submit(request(), connection=connection).task_id == 88_000
    assert rows.effects() == [1]


def test_a_wrong_submission_leaves_the_callers_transaction_usable(
    store: Store, rows: Rows, make_queue: MakeQueue
) -> None:
    with store.database.engine.begin() as connection:
        with pytest.raises(InvalidTask):
            make_queue().submit(request(name="no such task"), connection=connection)
        effect(connection, 1)
    assert rows.effects() == [1]


def test_stale_rules_are_noticed_inside_the_callers_transaction(
    store: Store, rows: Rows, make_queue: MakeQueue
) -> None:
    queue = make_queue()
    queue.store.routing.current()
    Store.over(rows.database).routing.change(redis_percent=0)
    with store.database.engine.begin() as connection:
        effect(connection, 1)
        answer = queue.submit(request(), connection=connection)
    assert (answer.status, rows.status(answer.task_id)) == (Status.QUEUED, "QUEUED")
    assert rows.effects() == [1]


def test_of_two_transactions_with_one_key_the_second_waits_for_the_first(
    store: Store, rows: Rows, make_queue: MakeQueue
) -> None:
    queue = make_queue()
    with store.database.engine.connect() as connection:
        first = queue.submit(request(idempotency_key="k"), connection=connection)
        second = InBackground(lambda: queue.submit(request(idempotency_key="k")))
        second.must_wait(rows)
        connection.commit()
    answer = second.answer()
    assert (answer.task_id, answer.created) == (first.task_id, False)
    assert rows.count() == 1


def test_a_key_comes_free_when_the_first_transaction_rolls_back(
    store: Store, rows: Rows, make_queue: MakeQueue
) -> None:
    queue = make_queue()
    with store.database.engine.connect() as connection:
        queue.submit(request(idempotency_key="k"), connection=connection)
        second = InBackground(lambda: queue.submit(request(idempotency_key="k")))
        second.must_wait(rows)
        connection.rollback()
    assert second.answer().created
    assert rows.count() == 1


def test_two_queues_over_one_engine_each_push_their_own_tickets(
    rows: Rows, tickets: RQQueueManager, raw: Any
) -> None:
    database = Database(rows.url)
    store = Store.over(database)
    store.routing.ensure(redis_percent=100)
    prefixed = RQQueueManager(tickets.client, prefix="other_")
    with database.engine.begin() as connection:
        one = TaskQueue(store, HANDLERS, tickets).submit(request(), connection=connection)
        two = TaskQueue(store, HANDLERS, prefixed).submit(request(), connection=connection)
    database.dispose()
    assert queue_list(raw) == [f"t{one.task_id}-e1"]
    assert raw.lrange("rq:queue:other_normal", 0, -1) == [f"t{two.task_id}-e1"]
