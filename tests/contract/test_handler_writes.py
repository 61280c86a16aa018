"""What a handler writes through the connection that it is given happens exactly once, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from app.tasks.handlers import DoNotRetry, HandlerRegistry, TaskContext
from app.tasks.model import Claim, OnLost, Status
from app.tasks.runner import LiveTask, Runner, boot_clock
from app.tasks.settings import CoreSettings
from app.tasks.store import Store
from app.tasks.store.settling import Settled
from tests.contract.parts import MakeStore, handler
from tests.contract.rows import Rows


def write(context: TaskContext) -> None:
    context.connection.execute(text("INSERT INTO effects VALUES (:id)"), {"id": context.task_id})


def claim_one(store: Store, rows: Rows) -> Claim:
    rows.put("QUEUED")
    (claim,) = store.claims.queued(holder="the worker", limit=1, lease_seconds=30)
    return claim


def run(store: Store, claim: Claim, function: Callable[..., Any], **settings: Any) -> Settled:
    handlers = HandlerRegistry([handler("test.noop", function)])
    runner = Runner(store, handlers, CoreSettings(retry_base_seconds=0, **settings))
    settled = runner.run(LiveTask(claim, store, lease_ends=boot_clock() + 30))
    assert settled is not None
    return settled


def test_the_writes_of_a_completed_task_commit_with_its_end(store: Store, rows: Rows) -> None:
    claim = claim_one(store, rows)
    seen_before_the_end: list[list[int]] = []

    def work(payload: Any, context: TaskContext) -> str:
        write(context)
        if rows.kind != "sqlite":  # there the open write keeps every other writer out, this look too
            seen_before_the_end.append(rows.effects())
        return "done"

    assert run(store, claim, work).recorded == {claim.task_id: Status.COMPLETED}
    assert seen_before_the_end in ([], [[]])
    assert rows.effects() == [claim.task_id]
    assert rows.row(claim.task_id)["result"] == '"done"'


@pytest.mark.parametrize("error", [ValueError("it broke"), DoNotRetry("never again"), SystemExit(3)])
def test_the_writes_of_a_failed_task_are_rolled_back(error: BaseException, store: Store, rows: Rows) -> None:
    claim = claim_one(store, rows)

    def work(payload: Any, context: TaskContext) -> None:
        write(context)
        raise error

    settled = run(store, claim, work)
    assert settled.lost == []
    assert rows.effects() == []
    assert rows.row(claim.task_id)["failures"] == 1


def test_the_writes_of_a_task_whose_result_cannot_be_stored_are_rolled_back(store: Store, rows: Rows) -> None:
    claim = claim_one(store, rows)

    def work(payload: Any, context: TaskContext) -> object:
        write(context)
        return object()

    assert run(store, claim, work).recorded == {claim.task_id: Status.FAILED}
    assert rows.effects() == []


def test_the_writes_of_a_worker_that_lost_its_claim_are_rolled_back(store: Store, rows: Rows) -> None:
    claim = claim_one(store, rows)

    def work(payload: Any, context: TaskContext) -> None:
        store.moves.reclaim(claim.task_id, claim.token, on_lost=OnLost.RETRY, max_retries=3, reason="test")
        write(context)

    settled = run(store, claim, work)
    assert (settled.recorded, settled.lost) == ({}, [claim.task_id])
    assert rows.effects() == []
    assert rows.status(claim.task_id) == "DISPATCHED"


def test_a_task_that_is_run_again_after_a_lost_claim_has_its_effect_once(store: Store, rows: Rows) -> None:
    first = claim_one(store, rows)

    def rescued_in_mid_run(payload: Any, context: TaskContext) -> None:
        store.moves.reclaim(first.task_id, first.token, on_lost=OnLost.RETRY, max_retries=3, reason="test")
        write(context)

    run(store, first, rescued_in_mid_run)
    references = [(first.task_id, first.epoch + 1)]
    (second,) = store.claims.tickets(references, holder="another", lease_seconds=30).won
    run(store, second, lambda payload, context: write(context))
    assert rows.effects() == [first.task_id]
    assert rows.status(first.task_id) == "COMPLETED"


def test_the_writes_of_a_cancelled_task_are_rolled_back(store: Store, rows: Rows) -> None:
    claim = claim_one(store, rows)

    def work(payload: Any, context: TaskContext) -> None:
        store.moves.cancel(claim.task_id)
        write(context)

    assert run(store, claim, work).recorded == {claim.task_id: Status.CANCELLED}
    assert rows.effects() == []


def test_a_lost_answer_to_the_commit_is_read_back_and_nothing_runs_twice(
    store: Store, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = claim_one(store, rows)

    def work(payload: Any, context: TaskContext) -> str:
        write(context)
        connection = context.connection
        commit = connection.commit

        def lose_the_answer() -> None:
            commit()
            raise OperationalError("COMMIT", {}, ConnectionError("gone"), connection_invalidated=True)

        monkeypatch.setattr(connection, "commit", lose_the_answer)
        return "done"

    settled = run(store, claim, work)
    assert settled.recorded == {claim.task_id: Status.COMPLETED}
    assert rows.effects() == [claim.task_id]
    assert rows.row(claim.task_id)["failures"] == 0


def test_a_connection_that_dies_under_a_handler_loses_its_writes_and_the_task_runs_again(
    server_rows: Rows, make_store: MakeStore
) -> None:
    store = make_store(server_rows)
    claim = claim_one(store, server_rows)
    own_number, end_it = {
        "mysql": ("SELECT CONNECTION_ID()", "KILL {}"),
        "postgresql": ("SELECT pg_backend_pid()", "SELECT pg_terminate_backend({})"),
    }[server_rows.kind]

    def work(payload: Any, context: TaskContext) -> None:
        write(context)
        number = context.connection.execute(text(own_number)).scalar_one()
        server_rows.execute(end_it.format(number))

    settled = run(store, claim, work)
    row = server_rows.row(claim.task_id)
    assert settled.recorded == {claim.task_id: Status.DISPATCHED}
    assert (row["status"], row["failures"]) == ("DISPATCHED", 1)
    assert row["error"] == "the database went away while the task's own writes were open"
    assert server_rows.effects() == []
