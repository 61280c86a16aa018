"""Reclaims: taking a task back from a worker that is gone, without ever taking it from one that lives."""

from __future__ import annotations

from typing import Any

import pytest

from app.tasks.model import Moved, OnLost, Status
from app.tasks.store import Store
from tests.contract.parts import InBackground, at_once
from tests.contract.rows import TOKEN, Rows


def reclaim(store: Store, task_id: int, token: int = TOKEN, **options: Any) -> Moved | None:
    options = (
        dict[str, Any]()
        | {"on_lost": OnLost.RETRY, "max_retries": 3, "reason": "the lease expired"}
        | options
    )
    return store.moves.reclaim(task_id, token, **options)


def test_a_reclaim_counts_a_failure_and_leaves_no_trace_of_the_claim(store: Store, rows: Rows) -> None:
    task_id = rows.put("PROCESSING", failures=1, attempt=2, user_id="ann", active_key="ann#1")
    moved = reclaim(store, task_id)
    row = rows.row(task_id)
    assert moved is not None
    assert moved.ticket is not None
    assert moved.ticket.epoch == row["epoch"]
    claim = ("status", "failures", "attempt", "token", "holder", "lease_until", "active_key")
    assert [row[name] for name in claim] == ["DISPATCHED", 2, 2, None, None, None, "ann#1"]
    assert rows.events(task_id) == ["reclaim"]


@pytest.mark.parametrize("token", [TOKEN - 1, TOKEN + 1])
def test_a_reclaim_with_evidence_about_an_older_claim_changes_nothing(
    token: int, store: Store, rows: Rows
) -> None:
    task_id = rows.put("PROCESSING")
    before = rows.row(task_id)
    assert reclaim(store, task_id, token) is None
    assert rows.row(task_id) == before
    assert rows.events(task_id) == []


def test_of_four_reclaims_at_once_one_counts(store: Store, rows: Rows) -> None:
    task_id = rows.put("PROCESSING")
    answers = at_once([lambda: reclaim(store, task_id)] * 4)
    assert sum(isinstance(answer, Moved) for answer in answers) == 1
    assert answers.count(None) == 3
    row = rows.row(task_id)
    assert (row["failures"], row["epoch"]) == (1, 4)


def test_a_reclaim_waits_for_an_end_in_flight_and_then_finds_nothing_to_take(
    store: Store, rows: Rows
) -> None:
    task_id = rows.put("PROCESSING")
    ended = "UPDATE tasks SET status = 'COMPLETED', token = NULL, result = '1' WHERE id = :id"
    with rows.holding(ended, id=task_id):
        attempt = InBackground(lambda: reclaim(store, task_id))
        attempt.must_wait(rows)
    assert attempt.answer() is None
    assert rows.status(task_id) == "COMPLETED"


@pytest.mark.parametrize(("failures", "ends"), [(0, False), (2, False), (3, True), (4, True)])
def test_a_reclaim_without_a_retry_left_ends_the_task(
    failures: int, ends: bool, store: Store, rows: Rows
) -> None:
    task_id = rows.put("PROCESSING", failures=failures, active_key="ann#1")
    moved = reclaim(store, task_id, max_retries=3)
    row = rows.row(task_id)
    assert moved is not None
    assert row["failures"] == failures + 1
    if ends:
        assert (moved.status, moved.ticket) == (Status.FAILED, None)
        assert (row["status"], row["active_key"]) == ("FAILED", None)
        assert row["error"] == "the lease expired; no retry is left"
        assert rows.events(task_id) == ["failed"]
    else:
        assert (row["status"], row["error"]) == ("DISPATCHED", "the lease expired")


def test_a_task_that_must_not_repeat_is_parked_with_the_reason(store: Store, rows: Rows) -> None:
    task_id = rows.put("PROCESSING")
    moved = reclaim(store, task_id, on_lost=OnLost.PARK, reason="its worker died")
    row = rows.row(task_id)
    assert moved is not None
    assert (row["status"], row["failures"]) == ("FAILED", 1)
    assert row["error"] == "its worker died; parked: its handler must not repeat"
    assert store.claims.queued(holder="w", limit=9, lease_seconds=30) == []


@pytest.mark.parametrize("on_lost", list(OnLost))
def test_a_reclaimed_task_that_somebody_cancelled_does_not_run_again(
    on_lost: OnLost, store: Store, rows: Rows
) -> None:
    task_id = rows.put("PROCESSING")
    store.moves.cancel(task_id)
    moved = reclaim(store, task_id, on_lost=on_lost)
    assert moved is not None
    assert moved.status is Status.CANCELLED
    assert rows.row(task_id)["error"] == "cancelled; the lease expired"


def test_a_lease_is_expired_by_the_databases_clock(store: Store, rows: Rows) -> None:
    over = rows.put("PROCESSING", lease_until=rows.at(-2), failures=1, max_retries=7)
    rows.put("PROCESSING", lease_until=rows.at(20))
    (found,) = store.moves.expired(limit=9)
    expected = (over, TOKEN, "test.noop", "the old worker", 1, 7)
    assert (found.id, found.token, found.name, found.holder, found.failures, found.max_retries) == expected


def test_leases_that_are_about_to_end_are_found_beside_those_that_are_over(store: Store, rows: Rows) -> None:
    soon = rows.put("PROCESSING", lease_until=rows.at(10))
    over = rows.put("PROCESSING", lease_until=rows.at(-2))
    rows.put("PROCESSING", lease_until=rows.at(60))
    found = store.moves.expired(limit=9, within_seconds=20)
    assert [(row.id, bool(row.is_over)) for row in found] == [(over, True), (soon, False)]


def test_a_renewed_lease_is_not_expired_any_more(store: Store, rows: Rows) -> None:
    rows.put("QUEUED")
    (claim,) = store.claims.queued(holder="w", limit=1, lease_seconds=30)
    rows.change(claim.task_id, lease_until=rows.at(-60))
    assert len(store.moves.expired(limit=9)) == 1
    store.claims.renew([claim], lease_seconds=30)
    assert store.moves.expired(limit=9) == []


def test_a_lease_that_is_renewed_between_the_look_and_the_reclaim_is_left_alone(
    store: Store, rows: Rows
) -> None:
    rows.put("QUEUED", count=2)
    kept, lost = store.claims.queued(holder="w", limit=2, lease_seconds=30)
    for claim in (kept, lost):
        rows.change(claim.task_id, lease_until=rows.at(-60))
    assert len(store.moves.expired(limit=9)) == 2
    store.claims.renew([kept], lease_seconds=30)
    assert reclaim(store, kept.task_id, kept.token, only_expired=True) is None
    assert rows.status(kept.task_id) == "PROCESSING"
    assert rows.events(kept.task_id) == []
    assert reclaim(store, lost.task_id, lost.token, only_expired=True) is not None


def test_only_the_claims_of_the_named_holders_are_found(store: Store, rows: Rows) -> None:
    wanted = rows.put("PROCESSING", holder="dead")
    rows.put("PROCESSING", holder="alive")
    rows.put("COMPLETED", holder="dead")
    assert [row.id for row in store.moves.held_by(["dead", "unknown"], limit=9)] == [wanted]


def test_holders_are_told_apart_by_case_and_blanks(store: Store, rows: Rows) -> None:
    rows.put("PROCESSING", holder="Worker")
    wanted = rows.put("PROCESSING", holder="worker")
    assert [row.id for row in store.moves.held_by(["worker"], limit=9)] == [wanted]
