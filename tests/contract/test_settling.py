"""Settling: an end is recorded once, by the worker that still holds the claim, and by nobody else."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from app.tasks.model import (
    Cancelled,
    Claim,
    Completed,
    Failed,
    OnLost,
    Outcome,
    Progress,
    Released,
    RetryLater,
    Status,
)
from app.tasks.store import Store
from tests.contract.parts import InBackground, at_once, counted
from tests.contract.rows import Rows

OUTCOMES: dict[str, Callable[[Claim], Outcome]] = {
    "completed": lambda claim: Completed(claim, '{"by":"somebody"}'),
    "failed": lambda claim: Failed(claim, "it broke"),
    "retry later": lambda claim: RetryLater(claim, "it broke", 60),
    "retry at once": lambda claim: RetryLater(claim, "it broke", 0),
    "cancelled": Cancelled,
    "released": Released,
}


def claim_one(store: Store, rows: Rows, **columns: Any) -> Claim:
    rows.put("QUEUED", **columns)
    (claim,) = store.claims.queued(holder="the old worker", limit=1, lease_seconds=30)
    return claim


def rescue(store: Store, claim: Claim) -> None:
    """The sweeper's reclaim, and another worker's claim after it."""
    store.moves.reclaim(claim.task_id, claim.token, on_lost=OnLost.RETRY, max_retries=3, reason="test")
    references = [(claim.task_id, claim.epoch + 1)]
    (again,) = store.claims.tickets(references, holder="the new worker", lease_seconds=30).won
    assert again.attempt == claim.attempt + 1


# --- the token ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_a_rescued_task_cannot_be_ended_by_its_old_worker(outcome: str, store: Store, rows: Rows) -> None:
    claim = claim_one(store, rows)
    rescue(store, claim)
    before, events = rows.row(claim.task_id), rows.events(claim.task_id)
    settled = store.settlements.settle([OUTCOMES[outcome](claim)])
    assert (settled.recorded, settled.lost, settled.moves) == ({}, [claim.task_id], [])
    assert rows.row(claim.task_id) == before
    assert rows.events(claim.task_id) == events


@pytest.mark.parametrize("first", OUTCOMES)
def test_the_second_end_of_one_claim_records_nothing(first: str, store: Store, rows: Rows) -> None:
    claim = claim_one(store, rows)
    assert store.settlements.settle([OUTCOMES[first](claim)]).lost == []
    after_first = rows.row(claim.task_id)
    for second in OUTCOMES.values():
        assert store.settlements.settle([second(claim)]).lost == [claim.task_id]
    assert rows.row(claim.task_id) == after_first


def test_of_eight_ends_at_once_one_is_recorded(store: Store, rows: Rows) -> None:
    claim = claim_one(store, rows)
    answers = at_once(
        [lambda n=n: store.settlements.settle([Completed(claim, str(n))]) for n in range(8)]  # type: ignore[misc]
    )
    recorded = [n for n, answer in enumerate(answers) if getattr(answer, "recorded", None)]
    assert len(recorded) == 1
    assert rows.row(claim.task_id)["result"] == str(recorded[0])


def test_an_end_waits_for_a_reclaim_in_flight_and_then_records_nothing(store: Store, rows: Rows) -> None:
    claim = claim_one(store, rows)
    taken_away = "UPDATE tasks SET status = 'QUEUED', token = NULL, epoch = epoch + 1 WHERE id = :id"
    with rows.holding(taken_away, id=claim.task_id):
        end = InBackground(lambda: store.settlements.settle([Completed(claim, "1")]))
        end.must_wait(rows)
    assert end.answer().lost == [claim.task_id]
    assert rows.row(claim.task_id)["result"] is None


# --- what is recorded -----------------------------------------------------------------------------------


def test_a_completed_task_keeps_its_result_and_frees_its_users_place(store: Store, rows: Rows) -> None:
    claim = claim_one(store, rows, user_id="ann", active_key="ann#1")
    settled = store.settlements.settle([Completed(claim, '{"é":"☃"}')])
    row = rows.row(claim.task_id)
    assert settled.recorded == {claim.task_id: Status.COMPLETED}
    assert json.loads(row["result"]) == {"é": "☃"}
    assert (row["status"], row["progress_percent"], row["active_key"]) == ("COMPLETED", 100, None)
    assert (row["failures"], row["error"]) == (0, None)
    assert rows.events(claim.task_id) == []


def test_a_completion_forgets_the_error_of_an_earlier_attempt(store: Store, rows: Rows) -> None:
    claim = claim_one(store, rows, error="the first attempt broke", failures=1)
    store.settlements.settle([Completed(claim, "null")])
    row = rows.row(claim.task_id)
    assert (row["error"], row["failures"]) == (None, 1)


def test_a_failed_task_is_a_dead_letter_with_its_reason(store: Store, rows: Rows) -> None:
    claim = claim_one(store, rows, failures=2, user_id="ann", active_key="ann#1")
    store.settlements.settle([Failed(claim, "it broke")])
    row = rows.row(claim.task_id)
    assert (row["status"], row["error"], row["failures"]) == ("FAILED", "it broke", 3)
    assert row["active_key"] is None
    assert rows.events(claim.task_id) == ["failed"]


def test_a_retry_waits_as_long_as_it_says_by_the_databases_clock(store: Store, rows: Rows) -> None:
    claim = claim_one(store, rows, user_id="ann", active_key="ann#1")
    settled = store.settlements.settle([RetryLater(claim, "it broke", 90)])
    row = rows.row(claim.task_id)
    assert settled.recorded == {claim.task_id: Status.SCHEDULED}
    assert rows.seconds_from_now(row["run_at"]) == pytest.approx(90, abs=5)
    assert (row["failures"], row["error"], row["active_key"]) == (1, "it broke", "ann#1")
    assert store.moves.due(limit=9) == []
    assert rows.events(claim.task_id) == ["retry"]


def test_a_retry_that_has_become_due_waits_for_a_worker_again(store: Store, rows: Rows) -> None:
    claim = claim_one(store, rows)
    store.settlements.settle([RetryLater(claim, "it broke", 90)])
    rows.change(claim.task_id, run_at=rows.at(-1))
    (moved,) = store.moves.due(limit=9)
    assert moved.ticket is not None
    assert moved.ticket.epoch == claim.epoch + 2
    assert rows.row(claim.task_id)["failures"] == 1


def test_a_release_costs_no_failure(store: Store, rows: Rows) -> None:
    claim = claim_one(store, rows, failures=2)
    settled = store.settlements.settle([Released(claim)])
    row = rows.row(claim.task_id)
    assert (row["status"], row["failures"], row["attempt"]) == ("DISPATCHED", 2, 1)
    assert settled.moves[0].ticket is not None
    assert settled.moves[0].ticket.epoch == row["epoch"]


def test_a_move_back_carries_a_ticket_only_where_redis_is_the_track(store: Store, rows: Rows) -> None:
    store.routing.change(redis_percent=0)
    claim = claim_one(store, rows)
    (move,) = store.settlements.settle([Released(claim)]).moves
    assert (move.status, move.ticket) == (Status.QUEUED, None)


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_a_cancel_that_was_asked_for_ends_the_task_whatever_its_handler_made_of_it(
    outcome: str, store: Store, rows: Rows
) -> None:
    claim = claim_one(store, rows, user_id="ann", active_key="ann#1")
    store.moves.cancel(claim.task_id)
    settled = store.settlements.settle([OUTCOMES[outcome](claim)])
    assert settled.recorded == {claim.task_id: Status.CANCELLED}
    assert settled.moves == []
    row = rows.row(claim.task_id)
    assert (row["status"], row["token"], row["active_key"]) == ("CANCELLED", None, None)


def test_a_long_error_is_cut_and_its_task_still_ends(store: Store, rows: Rows) -> None:
    claim = claim_one(store, rows)
    store.settlements.settle([Failed(claim, "ü" * 100_000)])
    assert rows.row(claim.task_id)["error"] == "ü" * 4000


def test_a_result_of_a_megabyte_is_stored_whole(store: Store, rows: Rows) -> None:
    claim = claim_one(store, rows)
    text = json.dumps("☃" * 340_000, ensure_ascii=False)
    store.settlements.settle([Completed(claim, text)])
    assert rows.row(claim.task_id)["result"] == text


# --- batches --------------------------------------------------------------------------------------------


def test_one_settle_ends_a_batch_of_every_kind_and_names_what_was_lost(store: Store, rows: Rows) -> None:
    rows.put("QUEUED", count=7)
    claims = store.claims.queued(holder="w", limit=7, lease_seconds=30)
    lost = claims[6]
    rescue_by_sql = "UPDATE tasks SET token = 1 WHERE id = :id"
    rows.execute(rescue_by_sql, id=lost.task_id)
    outcomes = [make(claim) for make, claim in zip(OUTCOMES.values(), claims, strict=False)]
    settled = store.settlements.settle([Completed(lost, "1"), *outcomes])
    expected = ["COMPLETED", "FAILED", "SCHEDULED", "DISPATCHED", "CANCELLED", "DISPATCHED"]
    assert [settled.recorded[claim.task_id].value for claim in claims[:6]] == expected
    assert [rows.status(claim.task_id) for claim in claims] == [*expected, "PROCESSING"]
    assert settled.lost == [lost.task_id]
    assert sum(move.ticket is not None for move in settled.moves) == 2


@pytest.mark.parametrize("outcome", OUTCOMES)
@pytest.mark.parametrize("odd", ["", "lost", "cancelled"])
def test_a_batch_costs_no_more_statements_for_many_tasks_than_for_few(
    odd: str, outcome: str, store: Store, rows: Rows
) -> None:
    seen = []
    for count in (3, 40):
        rows.put("QUEUED", count=count)
        claims = store.claims.queued(holder="w", limit=count, lease_seconds=30)
        if odd == "lost":
            rows.change(claims[1].task_id, token=1)
        elif odd == "cancelled":
            store.moves.cancel(claims[1].task_id)
        with counted(store.database) as counts:
            settled = store.settlements.settle([OUTCOMES[outcome](claim) for claim in claims])
        assert len(settled.recorded) + len(settled.lost) == count
        seen.append(counts["statements"])
    assert seen[0] == seen[1] <= 7


def test_tasks_that_fail_together_each_keep_their_own_words_and_times(store: Store, rows: Rows) -> None:
    rows.put("QUEUED", count=9, user_id="ann")
    claims = store.claims.queued(holder="w", limit=9, lease_seconds=30)
    words = [f"'{n}' % \\ ☃ broke" for n in range(9)]
    dead = [Failed(claim, word) for claim, word in zip(claims[:3], words[:3], strict=True)]
    later = [RetryLater(claims[n], words[n], n * 100.5) for n in (3, 4, 5)]
    now = [RetryLater(claims[n], words[n], 0) for n in (6, 7)]
    store.settlements.settle([*dead, *later, *now, Cancelled(claims[8], words[8])])
    after = [rows.row(claim.task_id) for claim in claims]
    assert [row["error"] for row in after] == words
    assert [row["failures"] for row in after] == [1] * 8 + [0]
    assert [row["status"] for row in after] == [
        *(["FAILED"] * 3 + ["SCHEDULED"] * 3 + ["DISPATCHED"] * 2 + ["CANCELLED"])
    ]
    waits = [rows.seconds_from_now(row["run_at"]) for row in after[3:6]]
    assert waits == pytest.approx([301.5, 402, 502.5], abs=5)
    histories = [store.queries.events(claim.task_id) for claim in claims]
    assert [[event.kind for event in history] for history in histories] == [
        *([["failed"]] * 3 + [["retry"]] * 5 + [["cancelled"]])
    ]
    assert [history[0].detail["error"] for history in histories] == words
    assert [history[0].detail["delay_seconds"] for history in histories[3:8]] == [301.5, 402, 502.5, 0, 0]


def test_what_handlers_said_last_is_recorded_with_their_ends_in_one_statement(
    store: Store, rows: Rows
) -> None:
    rows.put("QUEUED", count=6)
    claims = store.claims.queued(holder="w", limit=6, lease_seconds=30)
    rows.change(claims[5].task_id, token=1)
    outcomes: list[Outcome] = [
        Completed(claims[0], "1", Progress(60, "sent ☃")),
        Failed(claims[1], "no", Progress(20, "read")),
        RetryLater(claims[2], "no", 60, Progress(30, None)),
        Cancelled(claims[3], progress=Progress(99, "half")),
        Completed(claims[4], "1"),
    ]
    said = [(100, "sent ☃"), (20, "read"), (30, None), (99, "half"), (100, None), (0, None)]
    with counted(store.database) as counts:
        store.settlements.settle(outcomes)
    with_progress = counts["statements"]
    lost = store.settlements.settle([Completed(claims[5], "1", Progress(10, "mine"))])
    assert lost.lost == [claims[5].task_id]
    after = [rows.row(claim.task_id) for claim in claims]
    assert [(row["progress_percent"], row["progress_step"]) for row in after] == said
    assert with_progress <= 8


def test_a_batch_that_the_database_refuses_records_nothing_of_it(store: Store, rows: Rows) -> None:
    rows.put("QUEUED", count=2)
    good, bad = store.claims.queued(holder="w", limit=2, lease_seconds=30)

    def settle_on_a_connection_that_rolls_back() -> None:
        with store.database.engine.connect() as connection:
            store.settlements.settle([Completed(good, "1"), Completed(bad, "2")], connection)
            connection.rollback()

    settle_on_a_connection_that_rolls_back()
    assert rows.count("PROCESSING") == 2
    assert rows.count("COMPLETED") == 0


# --- the read-back ---------------------------------------------------------------------------------------


def test_the_read_back_tells_an_end_that_was_recorded_from_one_that_was_not(store: Store, rows: Rows) -> None:
    claim = claim_one(store, rows)
    assert store.settlements.ended_by(claim) is None
    store.settlements.settle([Completed(claim, "1")])
    assert store.settlements.ended_by(claim) is Status.COMPLETED


@pytest.mark.parametrize("claimed_again", [False, True])
def test_the_read_back_of_a_reclaimed_claim_finds_nothing(
    claimed_again: bool, store: Store, rows: Rows
) -> None:
    claim = claim_one(store, rows)
    if claimed_again:
        rescue(store, claim)
    else:
        store.moves.reclaim(claim.task_id, claim.token, on_lost=OnLost.RETRY, max_retries=3, reason="test")
    assert store.settlements.ended_by(claim) is None
