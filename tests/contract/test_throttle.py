"""Reasons to wait, as the servers themselves give them, and a mover that waits and says why."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

import pytest

from app.tasks.model import Priority
from app.tasks.tickets import RQQueueManager, connect
from app.transfer import runs
from app.transfer.errors import Superseded
from app.transfer.holders import this_process
from app.transfer.plans import Direction, Limits, Plan, Scope, Target, make_plan
from app.transfer.records import TransferRecords
from app.transfer.throttle import Throttle
from tests.contract.moving import dispatch
from tests.contract.parts import InBackground, MakeStore, make_queue_over
from tests.contract.rows import Rows
from tests.waiting import wait_until


def test_a_busy_database_is_a_reason_and_an_idle_one_is_none(server_rows: Rows) -> None:
    database = server_rows.database
    assert "database threads run, the limit is 0" in str(
        Throttle(database, None, Limits(database_threads=0)).reason()
    )
    assert Throttle(database, None, Limits(database_threads=200, database_milliseconds=None)).reason() is None


def test_statements_that_wait_for_locks_are_a_reason(server_rows: Rows, make_store: MakeStore) -> None:
    store, task_id = make_store(server_rows), server_rows.put()
    with server_rows.locked(task_id):
        cancelling = InBackground(lambda: store.moves.cancel(task_id))
        cancelling.must_wait(server_rows)
        limits = Limits(lock_waits=0, database_threads=None)
        assert "wait for locks, the limit is 0" in str(Throttle(store.database, None, limits).reason())
    cancelling.answer()


def test_a_full_redis_is_a_reason_and_so_is_one_that_is_away(
    sqlite_rows: Rows, tickets: RQQueueManager, raw: Any
) -> None:
    raw.config_set("maxmemory", raw.info("memory")["used_memory"] * 4)
    try:
        few = Limits(redis_memory_percent=1, redis_milliseconds=None)
        assert "of its memory, the limit is 1 %" in str(Throttle(sqlite_rows.database, tickets, few).reason())
        many = Limits(redis_memory_percent=99, redis_milliseconds=None)
        assert Throttle(sqlite_rows.database, tickets, many).reason() is None
    finally:
        raw.config_set("maxmemory", 0)
    dead = RQQueueManager(connect("redis://127.0.0.1:1/0"))
    assert "Redis is away" in str(Throttle(sqlite_rows.database, dead, Limits()).reason())
    dead.close()


def test_a_mover_waits_as_long_as_there_is_a_reason_and_its_record_says_which(
    server_rows: Rows, make_store: MakeStore, tickets: RQQueueManager
) -> None:
    queue = make_queue_over(make_store(server_rows, redis_percent=0))(tickets)
    records = TransferRecords(queue.store.database)
    server_rows.put(count=5)
    mover = dispatch(queue, limits=Limits(database_threads=0))
    running = InBackground(mover.run)
    wait_until(
        lambda: records.get(mover.transfer_id).throttle_reason,
        deadline_seconds=60,
        what="it says why it waits",
    )
    assert server_rows.count("QUEUED") == 5
    records.abort(mover.transfer_id, reason="seen enough")
    with pytest.raises(Superseded):
        running.answer()


def test_a_reason_longer_than_its_column_is_cut_and_ends_no_run(
    rows: Rows, make_store: MakeStore, tickets: RQQueueManager
) -> None:
    queue = make_queue_over(make_store(rows, redis_percent=0))(tickets)
    records = TransferRecords(queue.store.database)
    transfer_id = dispatch(queue).transfer_id
    records.beat(transfer_id, holder=this_process(), phase="beginning", throttle_reason="ö" * 900, cursors={})
    assert records.get(transfer_id).throttle_reason == "ö" * 200


def test_a_polite_mover_moves_everything_says_why_it_is_slow_and_leaves_no_thread(
    rows: Rows, make_store: MakeStore, tickets: RQQueueManager
) -> None:
    queue = make_queue_over(make_store(rows, redis_percent=0))(tickets)
    rows.put(count=300)
    limits = Limits(batch_rows=100, submit_rise_percent=20)
    reasons: list[str | None] = []
    plan = make_plan(queue.store, Direction.DISPATCH, Scope((Priority.NORMAL,)))
    mover = runs.start(queue, plan, limits, watcher=lambda moving: reasons.append(moving.throttle_reason))
    assert mover.run().moved == 300
    assert "of the time: p95 of a submission" in str(reasons[0])
    assert "courtesy" not in {thread.name for thread in threading.enumerate()}


def test_a_probe_asks_redis_where_the_move_uses_it(
    sqlite_rows: Rows, make_store: MakeStore, tickets: RQQueueManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = make_queue_over(make_store(sqlite_rows))(tickets)
    pings: Counter[Direction] = Counter()
    for direction in Direction:
        plan = Plan(direction, Scope((Priority.LOW,)), {Priority.LOW: Target(100)})
        mover = runs.start(queue, plan, Limits(submit_rise_percent=20))
        with monkeypatch.context() as watched:
            watched.setattr(tickets, "ping", lambda one=direction: pings.update([one]))
            mover.run()
    assert pings.keys() == {Direction.DISPATCH, Direction.IMPORT}
