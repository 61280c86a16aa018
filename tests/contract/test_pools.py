"""Tasks of a pool: who claims them, how many at a time, and that no way leads out of the pool. A test of a
feature row begins with its number."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from click.testing import CliRunner

from app.distributed.fan_out import fan_out, gather
from app.tasks.errors import InvalidTask, WrongState
from app.tasks.handlers import HandlerRegistry, TaskContext
from app.tasks.model import Claim, Completed, Failed, OnLost, Priority, RetryLater, Status, Track
from app.tasks.queue import TaskQueue
from app.tasks.settings import CoreSettings
from app.tasks.store import Store
from app.tasks.store.pools import NoSuchPool
from app.tasks.store.takes import TakeOfPool, TakeQueued
from app.tasks.submission import TaskRequest
from app.tasks.tickets import RQQueueManager
from scripts import pools as command
from tests.contract.fan_out.parts import SPREAD, Place, number
from tests.contract.parts import MakeStore, at_once, handler
from tests.contract.planning import make_due, wanted
from tests.contract.rows import Rows
from workers.__main__ import main as workers_main
from workers.consumers import PoolConsumer

HANDLERS = HandlerRegistry([handler("test.noop", pool="cleanup"), handler("test.other")])
CLEANUP, PLAIN = TaskRequest("test.noop"), TaskRequest("test.other")


@pytest.fixture
def queue(store: Store) -> TaskQueue:
    """In database mode, though the rules send everything by Redis."""
    store.pools.open("cleanup")
    return TaskQueue(store, HANDLERS, None, CoreSettings(active_tasks_per_user=1))


def take(store: Store, pool: str = "cleanup", limit: int = 9) -> list[Claim]:
    of_pool = TakeOfPool(limit, store.pools.open(pool))
    return store.turns.turn([], of_pool, holder="w", lease_seconds=60).claims.won


def waits_in_pool(rows: Rows, store: Store, task_id: int) -> bool:
    row = rows.row(task_id)
    return (row["status"], row["priority"]) == ("QUEUED", store.pools.lane("cleanup"))


# --- by their pool alone ----------------------------------------------------------------------------------


def test_003_10_a_task_of_a_pool_is_taken_by_the_workers_of_that_pool_and_by_no_others(
    store: Store, tickets: RQQueueManager, rows: Rows
) -> None:
    store.pools.open("cleanup")
    queue = TaskQueue(store, HANDLERS, tickets)
    cleanup, plain = queue.submit(CLEANUP), queue.submit(PLAIN)
    assert (cleanup.status, plain.status) == (Status.QUEUED, Status.DISPATCHED)
    assert sum(tickets.lengths().values()) == 1, "no ticket tells of a task of a pool"
    queue.recall()
    assert [claim.task_id for claim in take(store, "etl")] == []
    everything = TakeQueued(9, waiting_for_seconds=0)
    claims = store.turns.turn([], everything, holder="w", lease_seconds=60).claims.won
    assert [claim.task_id for claim in claims] == [plain.task_id]
    (claim,) = take(store)
    assert (claim.task_id, claim.track, claim.priority) == (cleanup.task_id, Track.DATABASE, Priority.POOL)
    store.settlements.settle([Completed(claim, "1")])
    assert rows.status(cleanup.task_id) == "COMPLETED"


def test_every_way_to_submit_leads_into_the_pool(queue: TaskQueue, store: Store, rows: Rows) -> None:
    by_key, of_user = TaskRequest("test.noop", idempotency_key="k"), TaskRequest("test.noop", user_id="ada")
    ids = [queue.submit(request).task_id for request in (CLEANUP, by_key, of_user)]
    ids += [answer.task_id for answer in queue.submit_many([CLEANUP, PLAIN])[:1]]  # type: ignore[union-attr]
    with store.database.engine.begin() as on:
        ids.append(queue.submit(CLEANUP, connection=on).task_id)
    ids.append(queue.submit(TaskRequest("test.other", pool="cleanup")).task_id)
    queue.schedules.create(wanted())
    make_due(rows)
    queue.schedules.fire_due()
    (fired,) = rows.all().keys() - {*ids, *(i for i, row in rows.all().items() if row["name"] != "test.noop")}
    assert all(waits_in_pool(rows, store, task_id) for task_id in (*ids, fired))
    assert queue.submit(by_key).created is False
    assert [claim.task_id for claim in take(store)] == sorted([*ids, fired]), "the oldest first"


def test_no_way_back_to_waiting_leads_out_of_the_pool(queue: TaskQueue, store: Store, rows: Rows) -> None:
    task_id = queue.submit(CLEANUP).task_id
    (claim,) = take(store)
    store.settlements.settle([RetryLater(claim, "not yet", 0)])
    rows.change(task_id, run_at=rows.at(-1))
    store.moves.due(limit=9)
    assert waits_in_pool(rows, store, task_id), "after a retry"
    (claim,) = take(store)
    store.moves.reclaim(task_id, claim.token, on_lost=OnLost.RETRY, max_retries=3, reason="its worker died")
    assert waits_in_pool(rows, store, task_id), "after its worker's death"
    (claim,) = take(store)
    store.settlements.settle([Failed(claim, "no")])
    queue.retry(task_id)
    assert waits_in_pool(rows, store, task_id), "after an operator's retry"
    with pytest.raises(WrongState):
        queue.reprioritise(task_id, Priority.URGENT)
    assert queue.dispatch() == queue.recall() == 0
    assert waits_in_pool(rows, store, task_id), "after moves from track to track"


def test_a_pause_of_intake_holds_tasks_of_pools_too(queue: TaskQueue, store: Store, rows: Rows) -> None:
    queue.pause_intake(reason="work on the database")
    task_id = queue.submit(CLEANUP).task_id
    assert rows.row(task_id)["held"]
    assert store.moves.lift_holds([Priority.URGENT], limit=9) == []
    queue.resume_intake()
    store.moves.lift_holds(list(Priority)[:4], limit=9)
    assert waits_in_pool(rows, store, task_id)


def test_children_wait_in_the_pool_that_their_parent_names_or_their_handler_has(
    rows: Rows, make_store: MakeStore
) -> None:
    def spread(payload: Any, context: TaskContext) -> Any:
        tables = gather(fan_out(context, "tables", "test.child", SPREAD, pool="etl", tag="database"))
        return tables | gather(fan_out(context, "cleanup", "test.cleanup", {"last": {"n": 9}}))

    place = Place(make_store(rows, redis_percent=0), rows, spread, number)
    place.queue.handlers.add(handler("test.cleanup", number, pool="cleanup"))
    for pool in ("main", "etl", "cleanup"):
        place.store.pools.open(pool)
    place.families.limit("database", 3)
    parent = place.queue.submit(TaskRequest("test.parent", pool="main")).task_id
    done = []
    for pool, count in (("main", 1), ("etl", 3), ("etl", 1), ("main", 1), ("cleanup", 1), ("main", 1)):
        claims = take(place.store, pool)
        assert len(claims) == count, (pool, place.statuses())
        done += [place.runner.run(place.live(claim)) for claim in claims]
        place.families.step()
    assert rows.row(parent)["result"] == '{"table0":0,"table1":1,"table2":2,"table3":3,"last":9}'


def test_a_pool_that_nobody_created_is_refused_with_advice(queue: TaskQueue) -> None:
    with pytest.raises(InvalidTask, match=r"there is no pool 'clean-up': python scripts/pools\.py create"):
        queue.submit(TaskRequest("test.other", pool="clean-up"))


@pytest.mark.parametrize("name", ["", "default", "a,b", "x" * 41, " etl"])
def test_a_name_that_cannot_be_a_pools_is_refused(name: str, sqlite_store: Store) -> None:
    with pytest.raises(ValueError, match="cannot name a pool"):
        sqlite_store.pools.open(name)


def test_workers_of_a_pool_cannot_be_told_to_serve_queues() -> None:
    answer = CliRunner().invoke(workers_main, ["--pool", "etl", "--queues", "urgent"])
    assert (answer.exit_code, "the workers of a pool serve no queues" in answer.output) == (2, True)


# --- the limit --------------------------------------------------------------------------------------------


def test_003_08_of_six_who_claim_at_once_no_more_get_a_task_than_the_limit_says(
    server_rows: Rows, make_store: MakeStore
) -> None:
    stores = [make_store(server_rows) for _ in range(6)]
    first = stores[0]
    first.pools.open("cleanup")
    first.pools.limit("cleanup", 2)
    queue = TaskQueue(first, HANDLERS, None)
    queue.submit_many([CLEANUP] * 9)
    for round_of in range(3):
        answers: Sequence[Any] = at_once([lambda store=store: take(store) for store in stores])  # type: ignore[misc]
        won = [claim for answer in answers for claim in answer]
        assert len(won) == 2, f"round {round_of}: {answers}"
        assert len({claim.task_id for claim in won}) == 2
        first.settlements.settle([Completed(claim, "1") for claim in won])
    assert server_rows.count("COMPLETED") == 6


def test_an_end_and_the_next_claim_of_a_full_pool_are_one_turn(
    queue: TaskQueue, store: Store, rows: Rows
) -> None:
    store.pools.limit("cleanup", 1)
    queue.submit_many([CLEANUP] * 3)
    (claim,) = take(store)
    assert take(store) == []
    of_pool = TakeOfPool(9, store.pools.open("cleanup"))
    turned = store.turns.turn([Completed(claim, "1")], of_pool, holder="w", lease_seconds=60)
    assert len(turned.claims.won) == 1
    assert (rows.count("COMPLETED"), rows.count("PROCESSING"), rows.count("QUEUED")) == (1, 1, 1)


def test_a_lower_limit_takes_nothing_back_and_no_limit_is_a_batch(queue: TaskQueue, store: Store) -> None:
    queue.submit_many([CLEANUP] * 6)
    assert len(take(store, limit=3)) == 3, "a batch, without a limit"
    store.pools.limit("cleanup", 2)
    assert take(store) == []
    store.pools.limit("cleanup", 4)
    assert (len(take(store)), len(take(store))) == (1, 0)
    store.pools.limit("cleanup", 0)
    assert take(store) == []
    store.pools.limit("cleanup", None)
    assert len(take(store)) == 2
    with pytest.raises(NoSuchPool):
        store.pools.limit("etl", 2)


def test_a_worker_of_a_full_pool_asks_again_soon(queue: TaskQueue, store: Store) -> None:
    consumer = PoolConsumer(store, "cleanup")
    assert (consumer.fetch(9), consumer.contested) == (None, False)
    store.pools.limit("cleanup", 0)
    queue.submit(CLEANUP)
    of_pool = consumer.fetch(9)
    consumer.accept(store.turns.turn([], of_pool, holder="w", lease_seconds=60).claims)
    assert consumer.contested


# --- the rest of a life -----------------------------------------------------------------------------------


def test_an_ended_task_of_a_pool_is_purged_as_all_are(queue: TaskQueue, store: Store, rows: Rows) -> None:
    queue.submit_many([CLEANUP, CLEANUP])
    done, failed = take(store)
    store.settlements.settle([Completed(done, "1"), Failed(failed, "no")])
    later = datetime.now(UTC) + timedelta(hours=1)
    assert (store.moves.purge_ended(before=later, limit=9), store.moves.purge_failed(limit=9)) == (1, 1)
    assert rows.count() == 0


def test_a_record_is_none_of_a_pools_tasks(store: Store, queue: TaskQueue) -> None:
    store.records.open_lane("survey")
    queue.submit(CLEANUP)
    (claim,) = take(store)
    store.settlements.settle([Failed(claim, "no")])
    assert store.records.counts() == {}
    assert store.records.lanes().keys() == {"survey"}


def test_003_14_the_commands_create_limit_and_show_pools(
    rows: Rows, monkeypatch: pytest.MonkeyPatch, store: Store
) -> None:
    monkeypatch.setenv("DATABASE_URL", rows.url)
    monkeypatch.setenv("RQ_ENABLED", "false")

    def run(*words: str) -> tuple[int, str]:
        answer = CliRunner().invoke(command.main, words)
        return answer.exit_code, answer.output.rstrip()

    assert run("list") == (0, "There is no pool.")
    assert run("create", "cleanup", "--limit", "3")[0] == 0
    assert run("limit", "cleanup", "1") == (
        0,
        "At most 1 tasks of the pool cleanup run at a time from now on.",
    )
    assert run("limit", "etl", "1") == (2, "there is no pool 'etl'")
    TaskQueue(store, HANDLERS, None).submit_many([CLEANUP] * 2)
    unserved = "cleanup: at most 1 at a time; 0 workers; 0 running, 2 waiting, 0 scheduled"
    assert run("list") == (1, unserved)
    store.registry.arrive("w", host="here", pid=7, track="database", queues=["pool:cleanup"])
    (claim,) = take(store)
    code, text = run("inspect", "cleanup", "--json")
    told = json.loads(text)
    assert (code, told["running"], told["waiting"], told["at_most"]) == (0, 1, 1, 1)
    assert [(one["worker"], one["host"]) for one in told["workers"]] == [("w", "here")]
    assert [(one["task"], one["worker"]) for one in told["tasks"]] == [(claim.task_id, "w")]
    assert run("inspect", "etl") == (2, "there is no pool 'etl'")
    assert run("unlimit", "cleanup") == (0, "The pool cleanup has no limit.")
