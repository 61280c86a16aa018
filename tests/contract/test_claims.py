"""Claims: who gets which row, in which order, and what keeps two from getting the same."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from sqlalchemy import event

from app.tasks.model import Claim, Completed, Priority, Progress, Track
from app.tasks.store import Store
from tests.contract.parts import InBackground, MakeStore, at_once, counted
from tests.contract.rows import Rows


def queued(store: Store, limit: int = 100, *, holder: str = "a worker") -> list[Claim]:
    return store.claims.queued(holder=holder, limit=limit, lease_seconds=30)


def by_ticket(store: Store, *references: tuple[int, int]) -> list[int]:
    answer = store.claims.tickets(references, holder="a worker", lease_seconds=30)
    return [claim.task_id for claim in answer.won]


# --- what a claim is ------------------------------------------------------------------------------------


@pytest.mark.parametrize("track", list(Track))
def test_a_claim_carries_all_that_a_worker_needs(track: Track, store: Store, rows: Rows) -> None:
    task_id = rows.put(
        track.waiting_status,
        name="test.other",
        payload='{"n":1}',
        priority="high",
        attempt=2,
        failures=1,
        user_id="ann",
        max_retries=5,
        timeout_seconds=90,
    )
    if track is Track.DATABASE:
        (claim,) = queued(store)
    else:
        (claim,) = store.claims.tickets([(task_id, 3)], holder="a worker", lease_seconds=30).won
    row = rows.row(task_id)
    assert claim == Claim(
        task_id,
        "test.other",
        '{"n":1}',
        Priority.HIGH,
        row["token"],
        epoch=3,
        attempt=3,
        failures=1,
        track=track,
        user_id="ann",
        max_retries=5,
        timeout_seconds=90,
    )
    assert (row["status"], row["attempt"], row["holder"]) == ("PROCESSING", 3, "a worker")


def test_one_statement_draws_one_token_and_the_next_another(store: Store, rows: Rows) -> None:
    rows.put("QUEUED", count=6)
    first, second = queued(store, 3), queued(store, 3)
    assert len({claim.token for claim in first}) == 1
    assert len({claim.token for claim in second}) == 1
    assert first[0].token != second[0].token
    assert min(first[0].token, second[0].token) > 0


def test_a_lease_counts_from_the_databases_clock(store: Store, rows: Rows) -> None:
    task_id = rows.put("QUEUED")
    store.claims.queued(holder="w", limit=1, lease_seconds=12.5)
    assert rows.seconds_from_now(rows.row(task_id)["lease_until"]) == pytest.approx(12.5, abs=4)


# --- order of service -----------------------------------------------------------------------------------


def test_rows_are_claimed_by_priority_and_then_by_age(store: Store, rows: Rows) -> None:
    low, normal = rows.put(priority="low"), rows.put(priority="normal")
    late_urgent, high = rows.put(priority="urgent"), rows.put(priority="high")
    later_urgent, later_normal = rows.put(priority="urgent"), rows.put(priority="normal")
    expected = [late_urgent, later_urgent, high, normal, later_normal, low]
    assert [claim.task_id for _ in range(3) for claim in queued(store, 2)] == expected


def test_a_poller_claims_only_the_priorities_that_it_serves(store: Store, rows: Rows) -> None:
    rows.put(priority="urgent")
    wanted = rows.put(priority="low")
    claims = store.claims.queued(holder="w", limit=9, lease_seconds=30, priorities=[Priority.LOW])
    assert [claim.task_id for claim in claims] == [wanted]


def test_a_dormant_poller_takes_only_what_has_waited_long_enough(store: Store, rows: Rows) -> None:
    old = rows.put(waiting_since=rows.at(-40))
    rows.put(waiting_since=rows.at(-20))
    claims = store.claims.queued(holder="w", limit=9, lease_seconds=30, waiting_for_seconds=30)
    assert [claim.task_id for claim in claims] == [old]


# --- who wins ----------------------------------------------------------------------------------------------


def test_four_pollers_at_once_never_claim_the_same_row(store: Store, rows: Rows) -> None:
    first = rows.put("QUEUED", count=200)

    def drain() -> list[int]:
        taken: list[int] = []
        while claims := queued(store, 7):
            taken += [claim.task_id for claim in claims]
        return taken

    answers = at_once([drain] * 4)
    # a poller that finds all rows locked stops: whoever locked them claims them
    taken = Counter(task_id for answer in answers for task_id in _ids(answer))
    taken.update(drain())
    assert taken == Counter(range(first, first + 200))
    assert rows.scalar("SELECT COUNT(*) FROM tasks WHERE attempt = 1 AND token IS NOT NULL") == 200


def test_four_workers_with_the_same_tickets_win_each_task_once(store: Store, rows: Rows) -> None:
    first = rows.put("DISPATCHED", count=60)
    references = [(task_id, 3) for task_id in range(first, first + 60)]

    def claim_in_parts() -> list[int]:
        won: list[int] = []
        for start in range(0, 60, 5):
            won += by_ticket(store, *references[start : start + 5])
        return won

    answers = at_once([claim_in_parts] * 4)
    won = Counter(task_id for answer in answers for task_id in _ids(answer))
    assert won == Counter(range(first, first + 60))
    assert rows.scalar("SELECT COUNT(*) FROM tasks WHERE attempt = 1") == 60


def test_a_cancel_and_a_claim_that_race_leave_no_cancelled_task_claimed(store: Store, rows: Rows) -> None:
    first = rows.put("QUEUED", count=30)

    def claim_all() -> list[int]:
        return [claim.task_id for _ in range(30) for claim in queued(store, 1)]

    def cancel_all() -> list[int]:
        return [store.moves.cancel(task_id).task_id for task_id in range(first, first + 30)]

    claimed = _ids(at_once([claim_all, cancel_all])[0])
    for task_id, row in rows.all().items():
        if task_id in claimed:
            assert (row["status"], bool(row["cancel_requested"])) == ("PROCESSING", True)
        else:
            assert (row["status"], row["attempt"], row["token"]) == ("CANCELLED", 0, None)


def _ids(answer: list[int] | BaseException) -> list[int]:
    assert not isinstance(answer, BaseException), answer
    return answer


# --- locked rows -------------------------------------------------------------------------------------------


def test_a_poller_skips_a_row_that_somebody_has_locked(server_rows: Rows, make_store: MakeStore) -> None:
    store = make_store(server_rows)
    locked, free = server_rows.put("QUEUED"), server_rows.put("QUEUED")
    with server_rows.locked(locked):
        assert [claim.task_id for claim in queued(store)] == [free]
    assert [claim.task_id for claim in queued(store)] == [locked]


def test_rows_that_come_before_while_a_poller_looks_on_make_it_claim_none_twice(
    server_rows: Rows, make_store: MakeStore
) -> None:
    """Most of the first rows are locked by others; when it looks at the next ones, an urgent row has come."""
    store = make_store(server_rows)
    first = server_rows.put("QUEUED", count=8)
    came: list[int] = []

    def come(_on: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "OFFSET 4" in statement and not came:
            came.append(server_rows.put("QUEUED", priority="urgent"))

    locking = "SELECT id FROM tasks WHERE id BETWEEN :first AND :last FOR UPDATE"
    with server_rows.holding(locking, first=first, last=first + 2):
        event.listen(store.database.engine, "before_cursor_execute", come)
        claims = queued(store, 4)
        event.remove(store.database.engine, "before_cursor_execute", come)
    taken = [claim.task_id for claim in claims]
    assert len(taken) == len(set(taken)) == 4
    assert first + 3 in taken
    assert came or server_rows.kind != "mysql"


def test_a_ticket_claim_waits_for_a_locked_row_and_then_wins_it(store: Store, rows: Rows) -> None:
    task_id = rows.put("DISPATCHED")
    with rows.locked(task_id):
        claim = InBackground(lambda: by_ticket(store, (task_id, 3)))
        claim.must_wait(rows)
    assert claim.answer() == [task_id]


def test_a_ticket_claim_that_waited_for_a_cancel_finds_its_ticket_stale(store: Store, rows: Rows) -> None:
    task_id = rows.put("DISPATCHED")
    with rows.holding("UPDATE tasks SET status = 'CANCELLED', epoch = 4 WHERE id = :id", id=task_id):
        claim = InBackground(lambda: store.claims.tickets([(task_id, 3)], holder="w", lease_seconds=30))
        claim.must_wait(rows)
    answer = claim.answer()
    assert (answer.won, answer.refused, answer.stale) == ([], [], [(task_id, 3)])
    assert rows.row(task_id)["attempt"] == 0


def test_a_ticket_claim_waits_only_for_the_rows_that_it_names(
    server_rows: Rows, make_store: MakeStore
) -> None:
    store = make_store(server_rows)
    named = server_rows.put("DISPATCHED")
    others = server_rows.put("DISPATCHED", count=3)
    with server_rows.locked(others + 1):
        claim = InBackground(lambda: by_ticket(store, (named, 3), (others, 3)))
        assert claim.answer() == [named, others]


# --- tickets -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("epoch", [1, 2, 4, 2**31])
def test_a_ticket_of_another_epoch_is_stale(epoch: int, store: Store, rows: Rows) -> None:
    task_id = rows.put("DISPATCHED", epoch=3)
    answer = store.claims.tickets([(task_id, epoch)], holder="w", lease_seconds=30)
    assert (answer.won, answer.refused, answer.stale) == ([], [], [(task_id, epoch)])
    assert rows.status(task_id) == "DISPATCHED"


def test_a_ticket_that_names_no_row_is_stale(store: Store, rows: Rows) -> None:
    task_id = rows.put("DISPATCHED")
    nobody = (2**63 - 1, 1)
    answer = store.claims.tickets([nobody, (task_id, 3)], holder="w", lease_seconds=30)
    assert [claim.task_id for claim in answer.won] == [task_id]
    assert answer.stale == [nobody]


@pytest.mark.parametrize("order", [[2, 3], [3, 2]], ids=["old first", "old last"])
def test_an_old_ticket_beside_the_valid_one_does_not_hide_it(
    order: list[int], store: Store, rows: Rows
) -> None:
    task_id = rows.put("DISPATCHED", epoch=3)
    answer = store.claims.tickets([(task_id, epoch) for epoch in order], holder="w", lease_seconds=30)
    assert [(claim.task_id, claim.epoch) for claim in answer.won] == [(task_id, 3)]
    assert answer.stale == [(task_id, 2)]


def test_a_doubled_ticket_wins_its_task_once(store: Store, rows: Rows) -> None:
    task_id = rows.put("DISPATCHED")
    assert by_ticket(store, (task_id, 3), (task_id, 3)) == [task_id]
    assert rows.row(task_id)["attempt"] == 1


# --- queues that are shut -----------------------------------------------------------------------------------


def test_a_paused_queue_hands_out_nothing_on_either_track(store: Store, rows: Rows) -> None:
    waiting, ticket = rows.put("QUEUED", priority="high"), rows.put("DISPATCHED", priority="high")
    open_one = rows.put("QUEUED", priority="low")
    store.routing.change([Priority.HIGH], paused=True)
    assert [claim.task_id for claim in queued(store)] == [open_one]
    answer = store.claims.tickets([(ticket, 3)], holder="w", lease_seconds=30)
    assert (answer.won, answer.refused, answer.stale) == ([], [(ticket, 3)], [])
    store.routing.change([Priority.HIGH], paused=False)
    assert [claim.task_id for claim in queued(store)] == [waiting]
    assert by_ticket(store, (ticket, 3)) == [ticket]


@pytest.mark.parametrize("fenced", list(Track))
def test_a_fenced_track_hands_out_nothing_and_the_other_goes_on(
    fenced: Track, store: Store, rows: Rows
) -> None:
    waiting, ticket = rows.put("QUEUED"), rows.put("DISPATCHED")
    store.routing.change(fenced_track=fenced)
    claimed = [claim.task_id for claim in queued(store)] + by_ticket(store, (ticket, 3))
    assert claimed == ([ticket] if fenced is Track.DATABASE else [waiting])


def test_a_poller_with_stale_rules_obeys_a_pause_at_once(
    store: Store, rows: Rows, make_store: MakeStore
) -> None:
    rows.put("QUEUED")
    elsewhere = make_store(rows)
    store.routing.current()
    elsewhere.routing.change(paused=True)
    assert queued(store) == []


# --- keeping a claim ----------------------------------------------------------------------------------


def test_a_renewal_names_tasks_and_leaves_others_of_the_same_batch_alone(store: Store, rows: Rows) -> None:
    rows.put("QUEUED", count=2)
    kept, dropped = store.claims.queued(holder="w", limit=2, lease_seconds=5)
    assert kept.token == dropped.token
    store.claims.renew([kept], lease_seconds=600)
    assert rows.seconds_from_now(rows.row(kept.task_id)["lease_until"]) > 500
    assert rows.seconds_from_now(rows.row(dropped.task_id)["lease_until"]) < 10


def test_a_renewal_tells_which_claims_were_still_there(store: Store, rows: Rows) -> None:
    rows.put("QUEUED", count=3)
    claims = store.claims.queued(holder="w", limit=3, lease_seconds=5)
    pairs = {(claim.task_id, claim.token) for claim in claims}
    assert store.claims.renew(claims, lease_seconds=600) == pairs
    lost, ended, kept = claims
    rows.change(lost.task_id, token=lost.token + 1)
    store.settlements.settle([Completed(ended, "1")])
    again = [*claims, lost._replace(token=lost.token + 1)]
    held = {(kept.task_id, kept.token), (lost.task_id, lost.token + 1)}
    assert store.claims.renew(again, lease_seconds=600) == held
    assert store.claims.renew([], lease_seconds=600) == set()


def test_wishes_tell_which_claims_are_still_ours_and_which_to_cancel(store: Store, rows: Rows) -> None:
    rows.put("QUEUED", count=3)
    ours, unwanted, lost = queued(store)
    store.moves.cancel(unwanted.task_id)
    rows.change(lost.task_id, token=5)
    assert store.claims.wishes([ours, unwanted, lost]) == {ours.task_id: False, unwanted.task_id: True}
    assert store.claims.wishes([]) == {}


def test_the_progress_of_many_claims_is_one_statement_and_each_gets_its_own(store: Store, rows: Rows) -> None:
    rows.put("QUEUED", count=4)
    claims = queued(store)
    rows.change(claims[2].task_id, token=5)
    said = [(claim, Progress(10 * n, f"step {n}" if n else None)) for n, claim in enumerate(claims[:3])]
    with counted(rows.database) as seen:
        assert store.claims.progress_of(said) == 2
    assert seen["statements"] == 1
    after = [rows.row(claim.task_id) for claim in claims]
    expected = [(0, None), (10, "step 1"), (0, None), (0, None)]
    assert [(row["progress_percent"], row["progress_step"]) for row in after] == expected


def test_progress_is_stored_while_the_claim_holds(store: Store, rows: Rows) -> None:
    rows.put("QUEUED")
    (claim,) = queued(store)
    assert store.claims.progress(claim, 40, "reading")
    row = rows.row(claim.task_id)
    assert (row["progress_percent"], row["progress_step"]) == (40, "reading")


def test_a_new_attempt_starts_without_the_progress_of_the_last(store: Store, rows: Rows) -> None:
    task_id = rows.put("QUEUED", attempt=1, progress_percent=80, progress_step="nearly done")
    queued(store)
    row = rows.row(task_id)
    assert (row["progress_percent"], row["progress_step"]) == (0, None)
