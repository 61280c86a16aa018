"""A turn in one trip to the database: what of it is odd, refused, locked, lost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from threading import Thread
from typing import Any

import pytest
from sqlalchemy import text

from app.tasks.database import CommitUnknown, Database
from app.tasks.errors import StatementRefused
from app.tasks.model import Claim, Completed, Priority, Track
from app.tasks.store import Store
from app.tasks.store.claims import TicketClaims
from app.tasks.store.driver_sql import array_text
from app.tasks.store.takes import Take, TakeQueued, TakeTickets
from app.tasks.store.turns import Turned
from tests.contract.parts import MakeStore, at_once
from tests.contract.rows import Rows
from tests.waiting import wait_until

TRACKS = pytest.mark.parametrize("track", ["tickets", "polling"])


def turn(store: Store, claims: list[Claim], take: Take, *, holder: str = "the worker") -> Turned:
    outcomes = [Completed(claim, str(claim.task_id)) for claim in claims]
    return store.turns.turn(outcomes, take, holder=holder, lease_seconds=30)


def batch(store: Store, rows: Rows, count: int = 3) -> list[Claim]:
    rows.put("QUEUED", count=count)
    return turn(store, [], TakeQueued(count)).claims.won


def taking(rows: Rows, count: int, track: str) -> Take:
    """So many new rows of this track, and what claims them."""
    first = rows.put("QUEUED" if track == "polling" else "DISPATCHED", count=count)
    return TakeQueued(count) if track == "polling" else TakeTickets([(first + n, 3) for n in range(count)])


@TRACKS
def test_a_turn_that_is_refused_leaves_the_batch_unended_and_claims_nothing(
    track: str, server_rows: Rows, make_store: MakeStore
) -> None:
    rows, store = server_rows, make_store(server_rows)  # SQLite refuses no value
    claims = batch(store, rows)
    take = taking(rows, 1, track)
    with pytest.raises(StatementRefused):
        turn(store, claims, take, holder="w" * 5000)
    assert (rows.count("PROCESSING"), rows.count("COMPLETED")) == (3, 0)
    turned = turn(store, claims, take)
    assert turned.settled.lost == []
    assert (rows.count("PROCESSING"), rows.count("COMPLETED")) == (1, 3)


@TRACKS
@pytest.mark.parametrize("odd", ["lost", "cancelled"])
def test_a_completion_that_is_odd_spoils_neither_the_others_nor_the_claim(
    odd: str, track: str, store: Store, rows: Rows
) -> None:
    claims = batch(store, rows)
    bad = claims[1].task_id
    if odd == "lost":
        rows.change(bad, token=5)
    else:
        store.moves.cancel(bad)
    turned = turn(store, claims, taking(rows, 2, track))
    assert [rows.status(claim.task_id) for claim in claims[::2]] == ["COMPLETED", "COMPLETED"]
    assert rows.status(bad) == ("PROCESSING" if odd == "lost" else "CANCELLED")
    assert turned.settled.lost == ([bad] if odd == "lost" else [])
    assert set(turned.settled.recorded) == {c.task_id for c in claims} - set(turned.settled.lost)
    assert len(turned.claims.won) == 2


def test_four_workers_with_the_same_tickets_win_each_task_once(rows: Rows, make_store: MakeStore) -> None:
    first = rows.put("DISPATCHED", count=60)
    tickets = [(first + number, 3) for number in range(60)]
    stores = [make_store(rows) for _ in range(4)]

    def work(store: Store) -> list[int]:
        claims: list[Claim] = []
        won: list[int] = []
        for at in range(0, 60, 7):
            claims = turn(store, claims, TakeTickets(tickets[at : at + 7])).claims.won
            won += [claim.task_id for claim in claims]
        turn(store, claims, TakeTickets([(99, 3)]))
        return won

    answers = at_once([lambda s=s: work(s) for s in stores])  # type: ignore[misc]
    won = [task_id for answer in answers if isinstance(answer, list) for task_id in answer]
    assert sorted(won) == [task_id for task_id, _ in tickets]
    assert rows.count("COMPLETED") == 60
    assert rows.scalar("SELECT COUNT(*) FROM tasks WHERE attempt = 1") == 60


def test_completions_of_several_claims_end_in_one_turn(store: Store, rows: Rows) -> None:
    claims = [claim for _ in range(3) for claim in batch(store, rows, 2)]
    turned = turn(store, claims, taking(rows, 1, "tickets"))
    assert len({claim.token for claim in claims}) == 3
    assert sorted(turned.settled.recorded) == sorted(claim.task_id for claim in claims)
    assert all(rows.row(claim.task_id)["result"] == str(claim.task_id) for claim in claims)


@pytest.mark.parametrize("closing", [{"paused": True}, {"fenced_track": Track.REDIS.value}])
def test_tickets_of_a_closed_queue_are_refused_the_worthless_ones_named(
    closing: Mapping[str, Any], store: Store, rows: Rows
) -> None:
    shut = rows.put("DISPATCHED", priority="high")
    won = rows.put("DISPATCHED")
    over = rows.put("COMPLETED")
    store.routing.change([Priority.HIGH], **closing)
    claims = batch(store, rows)
    tickets = TakeTickets([(over, 3), (shut, 3), (won, 3), (won, 2), (99, 3)])
    answer = turn(store, claims, tickets).claims
    assert [claim.task_id for claim in answer.won] == [won]
    assert answer.refused == [(shut, 3)]
    assert answer.stale == [(over, 3), (won, 2), (99, 3)]
    assert rows.status(shut) == "DISPATCHED"


@pytest.mark.parametrize("closing", [{"paused": True}, {"fenced_track": Track.DATABASE.value}])
def test_rows_of_a_closed_queue_are_left(closing: Mapping[str, Any], store: Store, rows: Rows) -> None:
    shut = rows.put("QUEUED", priority="high")
    open_one = rows.put("QUEUED", priority="low")
    store.routing.change([Priority.HIGH], **closing)
    won = turn(store, [], TakeQueued(5)).claims.won
    assert [claim.task_id for claim in won] == [open_one]
    assert rows.status(shut) == "QUEUED"


def test_a_ticket_whose_row_was_locked_and_confirmed_meanwhile_is_won(
    server_rows: Rows, make_store: MakeStore
) -> None:
    waiting = server_rows.put("DISPATCHED")
    answer = claimed_while_locked(server_rows, make_store(server_rows), waiting, "confirmed_in", 7)
    assert [claim.task_id for claim in answer.won] == [waiting]
    assert server_rows.row(waiting)["confirmed_in"] == 0


@pytest.mark.parametrize(("column", "value"), [("status", "CANCELLED"), ("epoch", 4)])
def test_a_ticket_whose_row_was_moved_on_while_it_was_locked_is_stale(
    column: str, value: Any, server_rows: Rows, make_store: MakeStore
) -> None:
    waiting = server_rows.put("DISPATCHED")
    answer = claimed_while_locked(server_rows, make_store(server_rows), waiting, column, value)
    assert answer.won == []
    assert answer.stale == [(waiting, 3)]


def claimed_while_locked(rows: Rows, store: Store, task_id: int, column: str, value: Any) -> TicketClaims:
    """What a claim of this row gets that had to wait until another transaction changed the row."""
    answers: list[Turned] = []
    claimer = Thread(target=lambda: answers.append(turn(store, [], TakeTickets([(task_id, 3)]))))
    with rows.engine.begin() as on:
        on.execute(text(f"UPDATE tasks SET {column} = :value WHERE id = {task_id}"), {"value": value})
        claimer.start()
        wait_for_a_lock(rows)
        assert answers == []
    claimer.join(30)
    return answers[0].claims


def wait_for_a_lock(rows: Rows) -> None:
    """Until the claim waits for the row that this test has locked."""
    waiters = {
        "mysql": "SELECT VARIABLE_VALUE + 0 FROM information_schema.GLOBAL_STATUS"
        " WHERE VARIABLE_NAME = 'Innodb_row_lock_current_waits'",
        "postgresql": "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        " AND datname = current_database()",
    }[rows.kind]
    wait_until(lambda: rows.scalar(waiters), deadline_seconds=60, what="the claim to wait for the row's lock")


def test_a_connection_that_breaks_in_a_turn_is_an_unknown_commit_and_heals(server_rows: Rows) -> None:
    rows, database = server_rows, Database(server_rows.url)
    store = Store.over(database)
    store.routing.ensure(redis_percent=100)
    own_number, kill = {
        "mysql": ("SELECT CONNECTION_ID()", "KILL CONNECTION {}"),
        "postgresql": ("SELECT pg_backend_pid()", "SELECT pg_terminate_backend({}, 30000)"),
    }[rows.kind]

    def ask(cursor: Any) -> int:
        cursor.execute(own_number)
        return int(cursor.fetchone()[0])

    claims = batch(store, rows)
    rows.execute(kill.format(database.direct(ask)))
    with pytest.raises(CommitUnknown):
        database.direct(ask)
    rows.execute(kill.format(database.direct(ask)))
    turned = turn(store, claims, taking(rows, 2, "tickets"))
    assert (len(turned.settled.recorded), turned.settled.lost) == (3, [])
    assert len(turned.claims.won) == 2
    assert (rows.count("COMPLETED"), rows.count("PROCESSING")) == (3, 2)
    database.dispose()


@pytest.mark.postgresql
def test_an_array_written_as_text_is_read_as_what_it_was(prepared_postgresql: Rows) -> None:
    numbers = [0, -1, 2**62]
    words = [
        "",
        " ",
        "NULL",
        "{a,b}",
        'say "so"',
        "back\\slash",
        "\\",
        '\\"',
        "new\nline",
        "tab\t",
        "žluť 𝄞 🙂",
        None,
        "%s",
    ]
    answer = prepared_postgresql.execute(
        "SELECT CAST(:numbers AS bigint[]), CAST(:words AS text[])",
        numbers=array_text(numbers),
        words=array_text(words),
    )
    assert answer == [(numbers, words)]


def test_a_trip_is_a_transaction_that_reads_what_is_committed(
    server_rows: Rows, make_store: MakeStore
) -> None:
    asks = {
        "mysql": "BEGIN; SELECT IF(VARIABLE_VALUE = 'READ-COMMITTED', 'read committed', VARIABLE_VALUE)"
        " FROM information_schema.SESSION_VARIABLES WHERE VARIABLE_NAME = 'TX_ISOLATION'; COMMIT",
        "postgresql": "SELECT current_setting('transaction_isolation')",
    }[server_rows.kind]

    def level(cursor: Any) -> str:
        cursor.execute(asks)
        if server_rows.kind == "mysql":
            cursor.nextset()
        answer = cursor.fetchone()[0]
        while server_rows.kind == "mysql" and cursor.nextset():
            pass
        return str(answer)

    assert make_store(server_rows).database.direct(level) == "read committed"


# --- how rows are found ------------------------------------------------------------------------------


class Watched:
    """A cursor that tells how the rows of `tasks` were read."""

    def __init__(self, cursor: Any, kind: str, reads: list[int]) -> None:
        self._cursor, self._kind, self._reads = cursor, kind, reads

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)

    def execute(self, statement: str, given: Any = ()) -> Any:
        if self._kind == "sqlite" and "UPDATE" in statement:
            plan = self._cursor.execute(f"EXPLAIN QUERY PLAN {statement}", given).fetchall()
            self._reads.append(1_000_000 * sum(step[3].startswith("SCAN tasks") for step in plan))
        if self._kind == "postgresql":
            self._cursor.execute("BEGIN")
            self._cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", given)
            self._reads.append(sum(_read(self._cursor.fetchone()[0][0]["Plan"])))
            self._cursor.execute("ROLLBACK")
        return self._cursor.execute(statement, given)


def _read(plan: Mapping[str, Any]) -> Iterator[int]:
    if plan.get("Relation Name") == "tasks":
        yield (plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0)) * plan["Actual Loops"]
    for part in plan.get("Plans", ()):
        yield from _read(part)


@TRACKS
def test_a_turn_finds_its_few_rows_without_walking_past_those_that_wait(
    track: str, store: Store, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims = batch(store, rows)
    if rows.kind != "sqlite":
        table = "TABLE tasks" if rows.kind == "mysql" else "tasks"
        rows.execute(f"ANALYZE {table}")  # a small table, say its statistics from here on
    rows.put("QUEUED" if track == "polling" else "DISPATCHED", count=2_000)
    take = taking(rows, 3, track)
    direct, reads = store.database.direct, list[int]()

    def handler_reads(cursor: Any) -> int:
        cursor.execute("SHOW SESSION STATUS LIKE 'Handler_read%'")
        return sum(int(value) for _, value in cursor.fetchall())

    def counting(cursor: Any, work: Any) -> Any:
        before = handler_reads(cursor)
        answer = work(cursor)
        reads.append(handler_reads(cursor) - before)
        return answer

    def watched(work: Any) -> Any:
        if rows.kind != "mysql":
            return direct(lambda cursor: work(Watched(cursor, rows.kind, reads)))
        return direct(lambda cursor: counting(cursor, work))  # a session counts its own reads

    monkeypatch.setattr(store.database, "direct", watched)
    turned = turn(store, claims, take)
    assert (len(turned.settled.recorded), len(turned.claims.won)) == (3, 3)
    if rows.kind == "mysql" and track == "polling":
        assert reads == []  # goes step by step
    else:
        assert reads
        assert sum(reads) < 100
