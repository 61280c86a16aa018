"""Transfers on three databases: every row is moved or named, whatever happens beside them."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.tasks.healing import Sweeper
from app.tasks.ids import IdSource
from app.tasks.model import PRIORITIES, Priority, Status, Track
from app.tasks.queue import TaskQueue
from app.tasks.routing import Intake, Route
from app.tasks.store import Store
from app.tasks.tickets import RQQueueManager
from app.transfer import runs
from app.transfer.batches import BatchRecords
from app.transfer.mover import Moving
from app.transfer.plans import Direction, Plan, Scope, make_plan
from app.transfer.records import State, TransferRecords
from tests.contract.moving import FAST, dispatch, listed, recall
from tests.contract.parts import InBackground, MakeQueue, MakeStore, request
from tests.contract.rows import Rows, changes
from tests.waiting import wait_until

BOOKKEEPING = {"status", "epoch", "confirmed_in"}


@pytest.fixture
def store(rows: Rows, make_store: MakeStore) -> Store:
    """Everything goes by the database until a transfer says otherwise."""
    return make_store(rows, redis_percent=0)


def test_a_dispatch_brings_every_queued_row_to_its_queue_in_order_and_confirms_it(
    rows: Rows, queue: TaskQueue, records: TransferRecords, raw: Any
) -> None:
    first = {name: rows.put(count=130, priority=name, timeout_seconds=77) for name in ("urgent", "low")}
    running = rows.put("PROCESSING")
    before = rows.row(running)
    mover = dispatch(queue)
    done = mover.run()
    assert (done.moved, done.quarantined, done.pushed, done.confirmed) == (260, 0, 260, 260)
    incarnation = queue.tickets.look(Priority.LOW).incarnation if queue.tickets else 0
    for name, start in first.items():
        assert listed(raw, name) == [f"t{task_id}-e4" for task_id in range(start, start + 130)]
        ours = [row for row in rows.all().values() if start <= row["id"] < start + 130]
        assert {(r["status"], r["epoch"], r["confirmed_in"]) for r in ours} == {
            ("DISPATCHED", 4, incarnation)
        }
    assert raw.hget(f"rq:job:t{first['low']}-e4", "timeout") == "77"
    assert rows.row(running) == before
    assert records.get(mover.transfer_id).state is State.COMPLETED
    totals = BatchRecords(queue.store.database).totals(mover.transfer_id)
    assert (totals.marked, totals.read_back, totals.confirmed) == (260, 260, 260)
    route = queue.store.routing.refresh()[Priority.LOW]
    assert (route.redis_percent, route.transfer_id, route.moving_to) == (100, None, None)


def test_a_second_dispatch_of_the_same_backlog_moves_nothing(rows: Rows, queue: TaskQueue) -> None:
    rows.put(count=50)
    dispatch(queue).run()
    seen = rows.all()
    assert dispatch(queue).run().moved == 0
    assert rows.all() == seen


def test_rows_that_cannot_become_tasks_are_quarantined_by_reason_and_keep_their_bytes(
    rows: Rows, queue: TaskQueue, make_queue: MakeQueue, tickets: RQQueueManager
) -> None:
    queue = make_queue(tickets, payload_limit_bytes=200)
    deep = "[" * 40 + "]" * 40
    bad = {
        rows.put(name="never.heard"): "no handler",
        rows.put(payload='{"half": '): "not JSON",
        rows.put(payload=""): "not JSON",
        rows.put(payload=json.dumps("x" * 300)): "larger",
        rows.put(payload=json.dumps("ö" * 150, ensure_ascii=False)): "larger",
        rows.put(timeout_seconds=-1): "time limit",
        rows.put(timeout_seconds=99_999_999): "time limit",
    }
    good = [rows.put(payload=text) for text in ("null", "[1]", '"😀"', '{"a": "\\ud83d\\ude00"}', deep)]
    before = rows.all()
    done = dispatch(queue).run()
    assert (done.moved, done.quarantined) == (len(good), len(bad))
    for task_id, reason in bad.items():
        after = rows.row(task_id)
        assert after["status"] == "QUARANTINED"
        assert reason in after["error"]
        assert set(changes(before[task_id], after)) <= {"status", "epoch", "error"}
        assert rows.events(task_id) == ["quarantined"]
    assert {rows.status(task_id) for task_id in good} == {"DISPATCHED"}


def test_a_name_with_separators_in_it_spoils_no_row_beside_it(rows: Rows, queue: TaskQueue) -> None:
    """MariaDB's rows are read as one text."""
    rows.put(count=3)
    odd = [rows.put(name=name) for name in ("a\x1eb", "a\x1fb", "\x1f", "\x1e\x1f1", "test.noop\x1f")]
    rows.put(count=3)
    done = dispatch(queue, Scope((Priority.NORMAL,))).run()
    assert (done.moved, done.quarantined) == (6, len(odd))
    assert {rows.status(task_id) for task_id in odd} == {"QUARANTINED"}


def test_a_quarantined_row_waits_again_when_an_operator_retries_it(rows: Rows, queue: TaskQueue) -> None:
    task_id = rows.put(name="never.heard")
    dispatch(queue).run()
    rows.change(task_id, name="test.noop")
    queue.retry(task_id)
    assert rows.status(task_id) == "DISPATCHED"


def test_a_recall_gives_every_waiting_row_back_as_it_was(rows: Rows, queue: TaskQueue, raw: Any) -> None:
    rows.put(count=120, payload='{"n": [1, 2]}', user_id="ann", max_retries=2)
    rows.put("DISPATCHED", count=30)  # of another incarnation
    running = rows.put("PROCESSING")
    before = rows.all()
    dispatch(queue).run()
    done = recall(queue).run()
    assert done.moved == 150
    after = rows.all()
    assert after[running] == before[running]
    waiting = [task_id for task_id in after if task_id != running]
    assert {after[task_id]["status"] for task_id in waiting} == {"QUEUED"}
    assert all(set(changes(before[i], after[i])) <= BOOKKEEPING for i in waiting)
    assert listed(raw, "normal") == []
    route = queue.store.routing.refresh()[Priority.NORMAL]
    assert (route.redis_percent, route.fenced_track, route.transfer_id) == (0, None, None)
    claims = queue.store.claims.queued(holder="poller", limit=500, lease_seconds=30)
    assert sorted(claim.task_id for claim in claims) == sorted(waiting)


def test_a_recall_fences_redis_from_its_first_moment(rows: Rows, queue: TaskQueue) -> None:
    task_id = rows.put("DISPATCHED")
    recall(queue)  # begun, and not one row moved yet
    answer = queue.store.claims.tickets([(task_id, 3)], holder="redis worker", lease_seconds=30)
    assert answer.refused == [(task_id, 3)]
    assert rows.status(task_id) == "DISPATCHED"


def test_a_recall_works_while_redis_is_dead(rows: Rows, make_queue: MakeQueue, store: Store) -> None:
    from app.tasks.tickets import connect

    rows.put("DISPATCHED", count=90)
    dead = RQQueueManager(connect("redis://127.0.0.1:1/0"))
    assert recall(make_queue(dead)).run().moved == 90
    assert rows.count("QUEUED") == 90
    dead.close()


def test_a_share_and_a_name_move_alone_and_the_count_agrees_with_the_routing(
    rows: Rows, queue: TaskQueue
) -> None:
    first = (10_000 << 14) + 7
    ids = [rows.put(id=first + (number << 14)) for number in range(100)]
    others = [rows.put(id=first + ((number + 500) << 14), name="test.other") for number in range(60)]
    scope = Scope((Priority.NORMAL,), name="test.noop", percent=40)
    plan = make_plan(queue.store, Direction.DISPATCH, scope)
    target: Route = plan.targets[Priority.NORMAL].applied_to(queue.store.routing.known()[Priority.NORMAL])
    expected = {task_id for task_id in ids if target.track_of(task_id, "test.noop") is Track.REDIS}
    assert 20 <= len(expected) <= 60
    assert plan.rows == {Priority.NORMAL: len(expected)}
    dispatch(queue, scope).run()
    moved = {task_id for task_id, row in rows.all().items() if row["status"] == "DISPATCHED"}
    assert moved == expected
    assert {rows.status(task_id) for task_id in others} == {"QUEUED"}
    recall(queue, Scope((Priority.NORMAL,), name="test.noop", percent=100)).run()
    assert rows.count("DISPATCHED") == 0


def test_new_tasks_do_not_overtake_the_backlog_while_it_is_chased(
    rows: Rows, queue: TaskQueue, raw: Any
) -> None:
    rows.put(count=100)
    mover = dispatch(queue)
    late = queue.submit(request()).task_id
    assert rows.status(late) == "QUEUED"
    mover.run()
    assert listed(raw, "normal")[-1] == f"t{late}-e2"
    newest = queue.submit(request())
    assert newest.status is Status.DISPATCHED


def test_a_run_that_tasks_outrun_flips_and_comes_to_its_end(
    rows: Rows, queue: TaskQueue, records: TransferRecords
) -> None:
    rows.put(count=100)
    batches = itertools.count(1)

    def more_than_was_moved(moving: Moving) -> None:
        assert next(batches) < 50, f"{moving.moved} of 100 rows moved, and no end of it"
        for _ in range(FAST.batch_rows + 5):
            queue.submit(request())

    plan = make_plan(queue.store, Direction.DISPATCH, Scope((Priority.NORMAL,)))
    mover = runs.start(queue, plan, FAST, watcher=more_than_was_moved)
    assert mover.run().moved > 100
    assert records.get(mover.transfer_id).state is State.COMPLETED
    assert rows.count("QUEUED") == 0


def test_the_sweeper_leaves_rows_alone_that_are_ahead_of_the_flip(rows: Rows, queue: TaskQueue) -> None:
    rows.put(count=10)
    dispatched = rows.put("DISPATCHED")
    mover = dispatch(queue, Scope((Priority.NORMAL,)))
    sweeper = Sweeper(queue, holder="sweeper")
    healed = sweeper.full_pass()
    assert healed is not None
    assert healed.moved == 0
    assert rows.status(dispatched) == "DISPATCHED"
    assert TransferRecords(queue.store.database).abort(mover.transfer_id, reason="enough")
    healed = sweeper.full_pass()
    assert healed is not None
    assert healed.moved == 1


def test_a_locked_row_is_met_by_a_later_pass(server_rows: Rows, make_store: MakeStore, tickets: Any) -> None:
    from tests.contract.parts import make_queue_over

    queue = make_queue_over(make_store(server_rows, redis_percent=0))(tickets)
    first = server_rows.put(count=30)
    mover = dispatch(queue, Scope((Priority.NORMAL,)))
    with server_rows.locked(first + 5):
        running = InBackground(mover.run)
        wait_until(
            lambda: server_rows.count("DISPATCHED") == 29, deadline_seconds=60, what="all but the locked row"
        )
        assert TransferRecords(queue.store.database).get(mover.transfer_id).state is State.RUNNING
    assert running.answer().moved == 30


def test_beyond_the_window_rows_are_dispatched_without_a_ticket_and_follow_in_order(
    rows: Rows, store: Store, redis_url: str, raw: Any
) -> None:
    from app.tasks.tickets import connect
    from tests.contract.parts import make_queue_over

    tickets = RQQueueManager(connect(redis_url), window=25)
    queue = make_queue_over(store)(tickets)
    first = rows.put(count=200)
    done = dispatch(queue).run()
    assert (done.moved, done.pushed) == (200, 25)
    assert rows.count("DISPATCHED") == 200
    assert len(listed(raw, "normal")) == 25
    sweeper = Sweeper(queue, holder="sweeper")
    served: list[str] = []
    while len(served) < 200:
        batch = raw.lpop("rq:queue:normal", 25) or []
        served += batch
        sweeper.full_pass()
        assert batch, f"only {len(served)} tickets came"
    assert served == [f"t{task_id}-e4" for task_id in range(first, first + 200)]
    tickets.close()


def test_a_planned_rollback_holds_intake_drains_and_says_what_remains(rows: Rows, queue: TaskQueue) -> None:
    rows.put("DISPATCHED", count=12)
    held: list[int] = []

    def look(left: int) -> None:
        held.append(left)
        if len(held) == 1:
            assert queue.submit(request()).status is Status.SCHEDULED

    told = runs.roll_back_planned(queue, Scope(), FAST, drain_seconds=0.3, reason="back home", waiting=look)
    assert (told.status, told.undrained, told.recalled, told.remaining) == ("rollback_completed", 12, 12, 0)
    assert held[0] == 12
    assert queue.submit(request()).status is Status.QUEUED


def test_a_planned_rollback_that_is_killed_holds_new_tasks_for_no_longer_than_it_would_have_drained(
    rows: Rows, queue: TaskQueue
) -> None:
    rows.put("DISPATCHED")
    ends: list[datetime | None] = []

    def look(left: int) -> None:
        ends.append(queue.store.routing.refresh()[Priority.LOW].intake_until)

    began = datetime.now(UTC)
    runs.roll_back_planned(queue, Scope(), FAST, drain_seconds=0.1, reason="home", waiting=look)
    assert ends[0] is not None
    assert began < ends[0] < datetime.now(UTC) + timedelta(seconds=0.1 + runs.HOLD_SPARE_SECONDS)


def test_a_planned_rollback_leaves_intake_closed_where_an_operator_had_closed_it(
    rows: Rows, queue: TaskQueue
) -> None:
    queue.pause_intake(reason="moving house", mode=Intake.REFUSE)
    runs.roll_back_planned(queue, Scope(), FAST, drain_seconds=0, reason="home")
    route = queue.store.routing.refresh()[Priority.LOW]
    assert (route.intake, route.intake_reason) == (Intake.REFUSE, "moving house")


def test_a_drain_ends_when_the_last_task_has(rows: Rows, queue: TaskQueue) -> None:
    task_id = rows.put("PROCESSING")

    def look(left: int) -> None:
        if left:
            rows.change(task_id, status="COMPLETED")

    assert runs.drain(queue, PRIORITIES, limit_seconds=60, waiting=look) == 0


def test_the_plan_is_named_by_what_it_does_and_survives_its_row(
    rows: Rows, queue: TaskQueue, records: TransferRecords
) -> None:
    plan = make_plan(queue.store, Direction.DISPATCH, Scope((Priority.LOW,), percent=30))
    for task_id in IdSource().take(40):  # of all buckets: small numbers share one
        rows.put(priority="low", id=task_id)
    again = make_plan(queue.store, Direction.DISPATCH, Scope((Priority.LOW,), percent=30))
    assert again.rows != plan.rows
    assert again.hash == plan.hash
    assert make_plan(queue.store, Direction.DISPATCH, Scope((Priority.LOW,), percent=31)).hash != plan.hash
    mover = runs.start(queue, again, FAST)
    stored = records.get(mover.transfer_id)
    assert (stored.plan, stored.plan_hash, stored.limits) == (again, again.hash, FAST)
    assert Plan.of_json(json.loads(json.dumps(again.to_json()))) == again


def test_two_markers_at_once_lose_and_double_nothing(rows: Rows, queue: TaskQueue, raw: Any) -> None:
    """Beside pollers that claim and submitters that add, every row is accounted for."""
    rows.put(count=600)
    stop = threading.Event()
    claimed: list[int] = []
    added: list[int] = []

    def poll() -> None:
        while not stop.is_set():
            won = queue.store.claims.queued(holder="poller", limit=7, lease_seconds=60)
            claimed.extend(claim.task_id for claim in won)

    def add() -> None:
        while not stop.is_set() and len(added) < 300:
            added.append(queue.submit(request()).task_id)

    threads: list[Callable[[], None]] = [poll, add]
    running = [threading.Thread(target=work) for work in threads]
    for thread in running:
        thread.start()
    try:
        dispatch(queue, Scope((Priority.NORMAL,))).run()
    finally:
        stop.set()
        for thread in running:
            thread.join()
    tickets = listed(raw, "normal")
    assert len(tickets) == len(set(tickets))
    in_redis = {int(job.partition("-")[0][1:]) for job in tickets}
    assert not in_redis & set(claimed)
    assert in_redis | set(claimed) == set(rows.all())
    assert rows.count("QUEUED") == 0
