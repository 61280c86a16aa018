"""What the sweeper asks of rows that wait in Redis, on each database."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import event

from app.tasks.model import Completed, Priority, Released, Ticket
from app.tasks.store import Store
from tests.contract.rows import Rows

NOW_IN, BEFORE_IN = 2**62 + 7, 2**62 + 6
GRACE = 30.0


def ids(tickets: list[Ticket]) -> list[int]:
    return [ticket.task_id for ticket in tickets]


def unconfirmed(store: Store, *, limit: int = 99, before: int | None = None) -> list[Ticket]:
    return store.dispatched.unconfirmed(Priority.NORMAL, older_than_seconds=GRACE, limit=limit, before=before)


def confirmed(store: Store, *, older_than: float = GRACE) -> list[Ticket]:
    return store.dispatched.confirmed(
        Priority.NORMAL, incarnation=NOW_IN, older_than_seconds=older_than, limit=99
    )


def test_rows_are_unconfirmed_until_their_ticket_was_seen_in_this_incarnation(
    store: Store, rows: Rows
) -> None:
    old = rows.at(-60)
    never = rows.put("DISPATCHED", confirmed_in=0, waiting_since=old, timeout_seconds=9, name="test.other")
    before = rows.put("DISPATCHED", confirmed_in=BEFORE_IN, waiting_since=old)
    now = rows.put("DISPATCHED", confirmed_in=NOW_IN, waiting_since=old)
    rows.put("DISPATCHED", confirmed_in=0, waiting_since=rows.at(-10))
    rows.put("DISPATCHED", confirmed_in=0, waiting_since=old, priority="low")
    rows.put("QUEUED", waiting_since=old)
    rows.put("PROCESSING", waiting_since=old)
    assert ids(unconfirmed(store)) == [never]
    assert store.dispatched.unconfirm_others(Priority.NORMAL, incarnation=NOW_IN, limit=9) == 1
    assert store.dispatched.unconfirm_others(Priority.NORMAL, incarnation=NOW_IN, limit=9) == 0
    assert unconfirmed(store)[0] == Ticket(never, 3, Priority.NORMAL, "test.other", 9)
    assert ids(unconfirmed(store)) == [never, before]
    assert ids(unconfirmed(store, limit=1)) == [never]
    assert ids(unconfirmed(store, before=before)) == [never]
    assert ids(confirmed(store)) == [now]
    assert confirmed(store, older_than=90) == []


def test_a_confirmation_is_guarded_by_the_epoch_and_the_status(store: Store, rows: Rows) -> None:
    good = rows.put("DISPATCHED", confirmed_in=0)
    moved_on = rows.put("DISPATCHED", confirmed_in=0, epoch=4)
    claimed = rows.put("PROCESSING", confirmed_in=0)
    other = rows.put("DISPATCHED", confirmed_in=0)
    seen = [Ticket(i, 3, Priority.NORMAL, "test.noop") for i in (claimed, moved_on, good)]
    assert store.dispatched.confirm(seen, incarnation=NOW_IN) == 1
    found = {i: rows.row(i)["confirmed_in"] for i in (good, moved_on, claimed, other)}
    assert found == {good: NOW_IN, moved_on: 0, claimed: 0, other: 0}
    assert store.dispatched.confirm([], incarnation=NOW_IN) == 0


def test_a_dropped_ticket_is_forgotten_under_the_same_guard(store: Store, rows: Rows) -> None:
    good = rows.put("DISPATCHED", confirmed_in=NOW_IN)
    moved_on = rows.put("DISPATCHED", confirmed_in=NOW_IN, epoch=4)
    assert store.dispatched.unconfirm([(good, 3), (moved_on, 3), (1, 3)]) == 1
    assert (rows.row(good)["confirmed_in"], rows.row(moved_on)["confirmed_in"]) == (0, NOW_IN)
    assert store.dispatched.unconfirm([]) == 0


@pytest.mark.parametrize("verb", ["cancel", "reprioritise", "recall", "claim"])
def test_whatever_changes_the_row_forgets_that_its_ticket_was_seen(
    verb: str, store: Store, rows: Rows
) -> None:
    task_id = rows.put("DISPATCHED", confirmed_in=NOW_IN)
    if verb == "cancel":
        store.moves.cancel(task_id)
    elif verb == "reprioritise":
        store.moves.reprioritise(task_id, Priority.HIGH)
    elif verb == "recall":
        store.routing.change(redis_percent=0)
        store.moves.to_right_track(Priority.NORMAL, limit=9)
    else:
        store.claims.tickets([(task_id, 3)], holder="w", lease_seconds=30)
    assert rows.row(task_id)["confirmed_in"] == 0


def test_of_many_references_those_of_waiting_rows_are_current(store: Store, rows: Rows) -> None:
    first = rows.put("DISPATCHED", count=600)
    gone = rows.put("QUEUED")
    references = [(first + n, 3 if n % 2 else 2) for n in range(600)] + [(gone, 3), (1, 1)]
    assert store.dispatched.current(references) == {(first + n, 3) for n in range(1, 600, 2)}


def test_what_waits_in_redis_is_counted_per_priority(store: Store, rows: Rows) -> None:
    rows.put("DISPATCHED", count=3)
    rows.put("QUEUED", priority="low")
    assert [store.dispatched.count(p) for p in (Priority.NORMAL, Priority.LOW)] == [3, 0]
    assert [store.dispatched.some_dispatched(p) for p in (Priority.NORMAL, Priority.LOW)] == [True, False]


def test_no_guarded_statement_reads_the_whole_table(sqlite_store: Store, sqlite_rows: Rows) -> None:
    """SQLite finds rows by an index only if the ids are named by themselves."""
    database, seen = sqlite_store.database, list[tuple[str, Any]]()

    def statement(_on: Any, _cursor: Any, text: str, parameters: Any, *_: Any) -> None:
        if " tasks" in text:
            seen.append((text, parameters))

    first = sqlite_rows.put("DISPATCHED", count=6)
    tickets = [Ticket(first + n, 3, Priority.NORMAL, "test.noop") for n in range(6)]
    engines = (database.engine, database._auto)
    for engine in engines:
        event.listen(engine, "before_cursor_execute", statement)
    sqlite_store.dispatched.confirm(tickets, incarnation=NOW_IN)
    sqlite_store.dispatched.unconfirm([(first, 3)])
    sqlite_store.dispatched.current([(first, 3)])
    claims = sqlite_store.claims.tickets([(first, 3), (first + 1, 3)], holder="w", lease_seconds=30).won
    sqlite_store.claims.renew(claims, lease_seconds=30)
    sqlite_store.claims.wishes(claims)
    sqlite_store.settlements.settle([Completed(claims[0], "1"), Released(claims[1])])
    for engine in engines:
        event.remove(engine, "before_cursor_execute", statement)
    assert len(seen) >= 9
    for text, parameters in seen:
        with sqlite_rows.engine.connect() as on:
            plan = [row[3] for row in on.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", parameters)]
        assert not [step for step in plan if step.startswith("SCAN tasks")], text


@pytest.mark.parametrize("odd", ["plain", "a\x1eb", "a\x1fb", "\x1f"])
def test_rows_beyond_the_window_are_read_as_they_are_whatever_they_are_called(
    store: Store, rows: Rows, odd: str
) -> None:
    """MariaDB's rows are read as one text."""
    rows.put("DISPATCHED", confirmed_in=0)
    start = rows.put("DISPATCHED", confirmed_in=0, name=odd, timeout_seconds=9)
    last = rows.put("DISPATCHED", confirmed_in=0, name="Ä 😀")
    rows.put("DISPATCHED", confirmed_in=NOW_IN)
    rows.put("QUEUED")
    found = store.dispatched.unpushed(Priority.NORMAL, start=start, limit=10)
    assert found == [
        Ticket(start, 3, Priority.NORMAL, odd, 9),
        Ticket(last, 3, Priority.NORMAL, "Ä 😀", None),
    ]
    assert ids(store.dispatched.unpushed(Priority.NORMAL, start=start, limit=1)) == [start]
    assert store.dispatched.unpushed(Priority.NORMAL, start=last + 1, limit=10) == []
