"""What a legacy row is told of its task, and how a row that somebody took keeps its task from running."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from app.tasks.errors import InvalidTask, StatementRefused, WrongState
from app.tasks.model import Cancelled, Claim, Completed, Failed, OnLost, Outcome, Priority, RetryLater
from app.tasks.queue import TaskQueue
from app.tasks.store import Store
from app.tasks.store.takes import TakeTickets
from app.transfer.errors import NotPossible
from app.transfer.legacy.mapping import mapping_of
from tests.contract.legacy.parts import ON_MARIADB, ON_SERVERS, imported, key_of, turn
from tests.contract.parts import request, statements_of
from tests.contract.rows import Rows
from tests.legacy_tables import CaptionQueue


@pytest.fixture
def claims(queue: TaskQueue, store: Store, legacy: CaptionQueue) -> list[Claim]:
    """Three imported tasks that run."""
    legacy.put(legacy.row(number) for number in range(3))
    imported(queue)
    won = turn(store)
    assert len(won) == 3
    return won


def test_a_row_says_moved_while_its_task_runs(claims: list[Claim], legacy: CaptionQueue) -> None:
    assert {legacy.status(key_of(claim)) for claim in claims} == {"MOVED"}


def test_a_completed_batch_is_written_back_each_with_its_own_result(
    rows: Rows, store: Store, claims: list[Claim], legacy: CaptionQueue
) -> None:
    turn(store, [Completed(claim, f'{{"number": {n}}}') for n, claim in enumerate(claims)])
    for number, claim in enumerate(claims):
        row = legacy.all()[key_of(claim)]
        assert (row["status"], row["results_json"]) == ("COMPLETED", f'{{"number": {number}}}')
        assert (row["progress_percent"], row["current_step"]) == (100, "Completed")
        assert -60 < rows.seconds_from_now(row["completed_at"]) < 5
        assert rows.status(claim.task_id) == "COMPLETED"


def test_a_failed_and_a_cancelled_task_are_written_back_with_their_reasons(
    store: Store, claims: list[Claim], legacy: CaptionQueue
) -> None:
    turn(store, [Failed(claims[0], "it broke"), Cancelled(claims[1]), RetryLater(claims[2], "later", 60)])
    rows = [legacy.all()[key_of(claim)] for claim in claims]
    assert [(row["status"], row["error_message"]) for row in rows] == [
        ("FAILED", "it broke"),
        ("CANCELLED", "cancelled while running"),
        ("MOVED", None),
    ]


def test_an_end_without_a_settle_is_written_back_too(
    queue: TaskQueue, store: Store, claims: list[Claim], legacy: CaptionQueue
) -> None:
    lost = claims[0]
    store.moves.reclaim(
        lost.task_id, lost.token, on_lost=OnLost.PARK, max_retries=0, reason="its worker died"
    )
    assert legacy.all()[key_of(lost)]["error_message"] == "its worker died"
    waiting = legacy.put([legacy.row(10), legacy.row(11)])
    imported(queue)
    store.moves.cancel_waiting(Priority.NORMAL, limit=100)
    statuses = {key: row["status"] for key, row in legacy.all().items()}
    assert statuses[key_of(lost)] == "FAILED"
    assert {statuses[key] for key in waiting} == {"CANCELLED"}


def test_a_row_that_an_old_worker_took_keeps_its_task_from_running(
    rows: Rows, queue: TaskQueue, store: Store, legacy: CaptionQueue
) -> None:
    keys = legacy.put(legacy.row(number) for number in range(3))
    imported(queue)
    legacy.set(keys[0], status="RUNNING")
    legacy.execute("DELETE FROM caption_generation_tasks WHERE id = :key", key=keys[1])
    won = turn(store)
    assert [key_of(claim) for claim in won] == [keys[2]]
    closed = [row for row in rows.all().values() if row["status"] == "CANCELLED"]
    assert len(closed) == 2
    assert {row["error"] for row in closed} == {
        "taken elsewhere: its legacy row is no longer marked as moved"
    }
    assert legacy.status(keys[0]) == "RUNNING"


def test_a_ticket_of_a_row_that_was_taken_is_worth_nothing(
    store: Store, queue: TaskQueue, legacy: CaptionQueue
) -> None:
    store.routing.change(redis_percent=100)
    keys = legacy.put(legacy.row(number) for number in range(2))
    imported(queue)
    pairs = [(claim, 1) for claim in _dispatched(store)]
    legacy.set(keys[0], status="RUNNING")
    taken = store.turns.turn([], TakeTickets(pairs), holder="the test", lease_seconds=30).claims
    assert [key_of(claim) for claim in taken.won] == [keys[1]]
    assert len(taken.stale) == 1


def _dispatched(store: Store) -> list[int]:
    return [
        ticket.task_id
        for ticket in store.transfers.dispatched_between(Priority.NORMAL, 0, 2**63 - 1, limit=100)
    ]


def test_a_row_that_was_taken_while_its_task_ran_is_left_as_it_is(
    rows: Rows, store: Store, claims: list[Claim], legacy: CaptionQueue
) -> None:
    legacy.set(key_of(claims[1]), status="RUNNING", current_step="the old worker's")
    before = legacy.all()[key_of(claims[1])]
    turn(store, [Completed(claim, "{}") for claim in claims])
    assert legacy.all()[key_of(claims[1])] == before
    assert {legacy.status(key_of(claims[n])) for n in (0, 2)} == {"COMPLETED"}
    assert rows.status(claims[1].task_id) == "COMPLETED"
    assert "its legacy row was changed by others" in rows.events(claims[1].task_id)
    assert "its legacy row was changed by others" not in rows.events(claims[0].task_id)


@ON_MARIADB
def test_a_result_that_the_row_cannot_hold_ends_its_task_as_failed_and_no_other(
    store: Store, queue: TaskQueue, legacy: CaptionQueue
) -> None:
    legacy.put(legacy.row(number) for number in range(2))
    imported(queue)
    sound, culprit = turn(store)
    outcomes: list[Outcome] = [Completed(sound, "{}"), Completed(culprit, '"' + "x" * 70_000 + '"')]
    with pytest.raises(StatementRefused, match="the legacy row refused its end"):
        turn(store, outcomes)
    assert {legacy.status(key_of(claim)) for claim in (sound, culprit)} == {"MOVED"}
    turn(store, [outcomes[0], Failed(culprit, "the result could not be stored")])
    assert legacy.status(key_of(sound)) == "COMPLETED"
    assert legacy.all()[key_of(culprit)]["error_message"] == "the result could not be stored"


@ON_MARIADB
def test_a_row_that_refuses_every_end_is_named_and_its_task_ends(
    rows: Rows, store: Store, queue: TaskQueue, legacy: CaptionQueue
) -> None:
    legacy.put([legacy.row(1)])
    imported(queue)
    [claim] = turn(store)
    legacy.execute("SET foreign_key_checks = 0")
    legacy.execute("UPDATE caption_generation_tasks SET user_id = 77")
    legacy.with_foreign_keys()
    with pytest.raises(StatementRefused):
        turn(store, [Completed(claim, "{}")])
    turn(store, [Failed(claim, "the result could not be stored")])
    assert rows.status(claim.task_id) == "FAILED"
    assert legacy.status(key_of(claim)) == "MOVED"
    assert "its legacy row refused its end" in rows.events(claim.task_id)


def test_an_operators_retry_marks_the_row_moved_again_unless_it_lives_on_elsewhere(
    rows: Rows, queue: TaskQueue, store: Store, claims: list[Claim], legacy: CaptionQueue
) -> None:
    turn(store, [Failed(claim, "it broke") for claim in claims])
    queue.retry(claims[0].task_id)
    assert legacy.status(key_of(claims[0])) == "MOVED"
    assert rows.status(claims[0].task_id) == "QUEUED"
    legacy.set(key_of(claims[1]), status="RUNNING")
    with pytest.raises(WrongState):
        queue.retry(claims[1].task_id)
    assert (rows.status(claims[1].task_id), legacy.status(key_of(claims[1]))) == ("FAILED", "RUNNING")


def test_tasks_that_were_not_imported_never_ask_for_a_legacy_row(rows: Rows, store: Store) -> None:
    rows.put(count=4)
    with statements_of(rows.database) as seen:
        won = turn(store)
        turn(store, [Completed(won[0], "{}"), Failed(won[1], "it broke"), Cancelled(won[2])])
        store.moves.reclaim(
            won[3].task_id, won[3].token, on_lost=OnLost.PARK, max_retries=0, reason="its worker died"
        )
        store.moves.retry(won[3].task_id, active_key=None)
    assert [text for text in seen if "legacy" in text or "twintrack" in text] == []
    assert seen


def test_a_key_of_imports_is_refused_in_a_submission(queue: TaskQueue) -> None:
    with pytest.raises(InvalidTask, match="must not begin with 'legacy:'"):
        queue.submit(request(idempotency_key="legacy:caption_tasks:1"))


THEIR_CHANGES = {
    "trigger": "CREATE TRIGGER their_own BEFORE UPDATE ON caption_generation_tasks FOR EACH ROW"
    " SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'nobody ends a row today'",
    "column": "ALTER TABLE caption_generation_tasks DROP COLUMN completed_at",
}
TOLD = {"trigger": ("MOVED", True), "column": ("FAILED", False)}


@ON_MARIADB
@pytest.mark.parametrize("change", ["trigger", "column"])
def test_a_table_that_refuses_an_end_is_no_database_that_is_away(
    rows: Rows, store: Store, queue: TaskQueue, legacy: CaptionQueue, change: str
) -> None:
    """Whoever took it for one would wait for it for ever, its worker with it."""
    legacy.put([legacy.row(1)])
    imported(queue)
    [claim] = turn(store)
    legacy.execute(THEIR_CHANGES[change])
    with pytest.raises(StatementRefused, match="the legacy row refused its end"):
        turn(store, [Completed(claim, "{}")])
    turn(store, [Failed(claim, "the result could not be stored")])
    assert rows.status(claim.task_id) == "FAILED"
    said = "its legacy row refused its end" in rows.events(claim.task_id)
    assert (legacy.status(key_of(claim)), said) == TOLD[change]


ODD = mapping_of(
    {
        "name": "odd",
        "table": "odd_queue",
        "key": "number",
        "task": "generate_captions",
        "status": {"column": "state", "queued": "new", "running": "on", "moved": "away"}
        | {"done": "done", "failed": "failed"},
        "payload": {"constants": {"caption_task_id": "1", "user_id": 1, "platform_connection_id": 1}},
    },
    said_in="the test",
)


@contextmanager
def odd_queue(rows: Rows, kind: str) -> Iterator[None]:
    """A legacy table with one row, whose key is of this kind."""
    rows.execute(f"CREATE TABLE odd_queue (number {kind} PRIMARY KEY, state VARCHAR(20))")
    rows.execute("INSERT INTO odd_queue VALUES ('5.00', 'new')")
    try:
        yield
    finally:
        rows.execute("DROP TABLE odd_queue")


def test_a_row_is_found_again_by_a_key_that_its_database_writes_at_length(
    rows: Rows, queue: TaskQueue, store: Store
) -> None:
    with odd_queue(rows, "DECIMAL(10, 2)"):
        imported(queue, ODD)
        turn(store, [Completed(claim, "{}") for claim in turn(store)])
        assert rows.scalar("SELECT state FROM odd_queue") == "done"


@ON_SERVERS
def test_a_table_whose_key_is_bytes_is_refused(rows: Rows, queue: TaskQueue) -> None:
    with (
        odd_queue(rows, "BYTEA" if rows.kind == "postgresql" else "VARBINARY(16)"),
        pytest.raises(NotPossible, match=r"odd_queue\.number holds bytes"),
    ):
        imported(queue, ODD)
