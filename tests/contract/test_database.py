"""Transactions on real servers: deadlocks are tried again, a server that is away is told as such."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from app.tasks.database import Database
from app.tasks.errors import DatabaseUnavailable, SchemaMissing, StatementRefused
from app.tasks.store import Store
from tests.contract.parts import at_once
from tests.contract.rows import Rows


def touch(on: Connection, task_id: int) -> None:
    on.execute(text("UPDATE tasks SET failures = failures + 1 WHERE id = :id"), {"id": task_id})


def test_two_transactions_that_lock_each_other_out_both_take_place_once(server_rows: Rows) -> None:
    one, two = server_rows.put("QUEUED"), server_rows.put("QUEUED")
    both_hold_one = threading.Barrier(2)
    tries = [0, 0]

    def work(number: int, first: int, second: int) -> None:
        def locking(on: Connection) -> None:
            tries[number] += 1
            touch(on, first)
            if tries[number] == 1:
                both_hold_one.wait(timeout=60)
            touch(on, second)

        server_rows.database.run(locking)

    answers = at_once([lambda: work(0, one, two), lambda: work(1, two, one)])
    assert answers == [None, None]
    assert sum(tries) == 3
    assert [server_rows.row(i)["failures"] for i in (one, two)] == [2, 2]


def test_a_work_that_raises_leaves_nothing(rows: Rows) -> None:
    task_id = rows.put("QUEUED")

    def work(on: Connection) -> None:
        touch(on, task_id)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        rows.database.run(work)
    assert rows.row(task_id)["failures"] == 0


def test_a_double_and_a_wrong_statement_are_told_apart_from_an_outage(rows: Rows) -> None:
    task_id = rows.put("QUEUED")
    double = text("INSERT INTO locks (name, holder, until_at) SELECT 'a', 'b', created_at FROM tasks")
    rows.database.run(lambda on: on.execute(double))
    for call in (rows.database.run, rows.database.write_one):
        with pytest.raises(IntegrityError):
            call(lambda on: on.execute(double))
    wrong = text("SELECT no_such_column FROM tasks")
    for call in (rows.database.run, rows.database.read, rows.database.write_one):
        with pytest.raises((StatementRefused, DatabaseUnavailable)):
            call(lambda on: on.execute(wrong))
    assert rows.row(task_id)["status"] == "QUEUED"


@pytest.mark.parametrize(
    "url",
    [
        "mysql+pymysql://root@127.0.0.1:1/x",
        "postgresql+psycopg://postgres@127.0.0.1:1/x",
        "sqlite:////no/such/folder/x.db",
    ],
)
def test_a_server_that_is_not_there_is_away(url: str) -> None:
    database = Database(url)
    store = Store.over(database)
    calls: list[Any] = [
        store.queries.counts,
        lambda: store.registry.seen("w", state="idle", done=0),
        lambda: store.claims.queued(holder="w", limit=1, lease_seconds=1),
        database.now,
    ]
    for call in calls:
        with pytest.raises(DatabaseUnavailable):
            call()
    database.dispose()


def test_a_database_without_tables_says_that_they_are_missing(database_url: str) -> None:
    database = Database(database_url)
    with pytest.raises(SchemaMissing):
        Store.over(database).queries.counts()
    database.dispose()


def test_the_databases_clock_is_aware_and_close_to_ours(rows: Rows) -> None:
    moment = rows.database.now()
    assert moment.tzinfo is not None
    assert abs(rows.seconds_from_now(moment)) < 5


def test_a_pool_without_a_free_connection_is_no_lasting_outage(
    rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = Database(rows.url, pool_size=1, max_overflow=0)
    monkeypatch.setattr(small.engine.pool, "_timeout", 0.05)
    with small.engine.connect(), pytest.raises(DatabaseUnavailable):
        small.run(lambda on: on.execute(text("SELECT 1")))
    assert small.run(lambda on: on.execute(text("SELECT 1")).scalar_one()) == 1
    small.dispose()


# What could end a literal or mean something within it, for some server in some mode.
ODD_TEXTS = (
    *(
        "'",
        "''",
        "\\",
        "\\\\",
        "\\'",
        "'\\",
        "\\\\'",
        '"',
        '\\"',
        "\\n",
        "\n",
        "\r\n",
        "\x1a",
        "%",
        "%s",
        "\\%",
        "_",
    ),
    *(
        "; DROP TABLE tasks; --",
        "' OR 1=1 -- ",
        "\\' OR 1=1 -- ",
        "/* ",
        "*/",
        "`",
        "$1",
        "?",
        ":name",
        "\t",
        "",
    ),
    *("é", "漢字", "😀", "\u2028", "\ufeff", "a" * 10_000 + "'\\"),
)


def test_whatever_a_text_holds_comes_back_from_each_kind_of_connection(rows: Rows) -> None:
    """Also from a MariaDB where a backslash within quotes means itself."""
    mark = "?" if rows.database.kind == "sqlite" else "%s"
    kind = "text" if rows.database.kind == "postgresql" else "char(20000)"
    modes = ["", "NO_BACKSLASH_ESCAPES"] if rows.database.kind == "mysql" else [None]

    def ask(execute: Callable[[str, tuple[str, ...]], Any]) -> None:
        for mode in modes:
            if mode is not None:
                execute(f"SET SESSION sql_mode = '{mode}'", ())
            for odd in ODD_TEXTS:
                assert execute(f"SELECT CAST({mark} AS {kind})", (odd,)).fetchone()[0] == odd

    def ask_driver(cursor: Any) -> None:
        def execute(text: str, values: tuple[str, ...]) -> Any:
            cursor.execute(text, values or None)
            return cursor

        ask(execute)

    rows.database.run(lambda on: ask(on.exec_driver_sql))
    rows.database.read(lambda on: ask(on.exec_driver_sql))
    rows.database.direct(ask_driver)
    rows.database.dispose()  # the mode stays with its connections
