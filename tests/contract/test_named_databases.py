"""Named databases: statements, health, pools, tables. A test of a feature row begins with its number."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from click.testing import CliRunner
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from app.distributed import DatabaseManager, databases
from app.tasks.errors import DatabaseUnavailable
from app.tasks.migrate import revisions
from config import Config, ConfigError
from scripts import validate_database_config
from tests.contract.rows import Rows

NOWHERE = "postgresql://reader:secret@127.0.0.1:1/sales"


@pytest.fixture
def manager(rows: Rows) -> Iterator[DatabaseManager]:
    """All databases: the one of the tasks, and the same under the name of a source."""
    variables = {"SALES_CONNECTION_STRING": rows.url, "DEVELOPMENT_GLOBAL_SALES_POOL_SIZE": "2"}
    variables |= {"DEVELOPMENT_GLOBAL_SALES_MAX_OVERFLOW": "3"}
    found = DatabaseManager(Config.for_tests(variables, DATABASE_URL=rows.url))
    found.execute_query("CREATE TABLE shops (id INTEGER PRIMARY KEY, name VARCHAR(40))")
    yield found
    found.execute_query("DROP TABLE shops")
    found.close()


def named(variables: dict[str, str] | None = None, **settings: Any) -> DatabaseManager:
    return DatabaseManager("sales", config=Config.for_tests(variables or {}, **settings))


def test_001_06_statements_go_to_the_database_that_is_named(manager: DatabaseManager) -> None:
    inserted = manager.execute_query(
        "sales", "INSERT INTO shops VALUES (:id, :name)", {"id": 1, "name": "é😀"}
    )
    assert (inserted, inserted.rowcount) == ([], 1)
    many = [{"id": number, "name": f"shop {number}"} for number in (2, 3)]
    assert manager.execute_query("INSERT INTO shops VALUES (:id, :name)", many).rowcount == 2
    found = manager.execute_query("rpa_db", "SELECT id, name FROM shops WHERE id < 3 ORDER BY id")
    assert (found, found.rowcount) == ([(1, "é😀"), (2, "shop 2")], 2)
    assert manager.execute_query("SELECT name FROM shops WHERE id = :id", {"id": 3}) == [("shop 3",)]


def test_a_transaction_is_all_or_nothing(manager: DatabaseManager) -> None:
    into = "INSERT INTO shops VALUES (:id, 'x')"
    assert manager.execute_transaction([(into, {"id": 1}), "UPDATE shops SET name = 'y'"]) == [1, 1]
    with pytest.raises(IntegrityError):
        manager.execute_transaction([(into, {"id": 2}), (into, {"id": 1})])
    assert manager.execute_query("SELECT id, name FROM shops") == [(1, "y")]


def test_a_session_commits_at_its_end_and_not_after_an_error(manager: DatabaseManager) -> None:
    with manager.get_session("sales") as session:
        session.execute(text("INSERT INTO shops VALUES (1, 'kept')"))

    def fail() -> None:
        with manager.get_session() as session:
            session.execute(text("INSERT INTO shops VALUES (2, 'not kept')"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert manager.execute_query("SELECT name FROM shops") == [("kept",)]


def test_000_13_the_pool_has_the_sizes_of_the_settings(manager: DatabaseManager) -> None:
    assert manager.get_pool_status() == {
        "database": "rpa_db",
        "pool_size": 5,
        "max_overflow": 10,
        "checked_out": 0,
        "checked_in": 1,
        "utilization_percent": 0.0,
    }
    sales = manager.get_pool_status("sales")
    assert (sales["pool_size"], sales["max_overflow"]) == (2, 3)


def test_001_17_the_use_of_a_pool_rises_with_its_load(manager: DatabaseManager) -> None:
    seen = [manager.get_pool_status("sales")["utilization_percent"]]
    with ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(manager.get_session("sales")).connection()
            seen.append(manager.get_pool_status("sales")["utilization_percent"])
    assert seen == [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]
    assert manager.get_pool_status("sales")["utilization_percent"] == 0.0


def test_002_16_health_is_good_slow_or_lost(manager: DatabaseManager, rows: Rows) -> None:
    good = manager.health_check("sales")
    assert (good["status"], good["connection"], good["tries"]) == ("healthy", True, 1)
    assert good["response_time_ms"] > 0
    slow = DatabaseManager(Config.for_tests(DATABASE_URL=rows.url, ALERT_DATABASE_RESPONSE_WARNING=0))
    assert slow.health_check()["status"] == "degraded"
    slow.close()
    lost = named({"SALES_CONNECTION_STRING": NOWHERE}).health_check()
    assert (lost["status"], lost["connection"], lost["tries"]) == ("unhealthy", False, 3)
    assert "secret" not in json.dumps(lost)


def test_a_database_that_cannot_be_reached_is_told_without_its_password() -> None:
    with pytest.raises(DatabaseUnavailable, match="the database sales cannot be reached") as caught:
        named({"SALES_CONNECTION_STRING": NOWHERE}).execute_query("SELECT 1")
    assert "secret" not in str(caught.value)


def test_a_connection_that_was_cut_while_nobody_used_it_costs_no_statement(
    server_rows: Rows,
) -> None:
    found = DatabaseManager(Config.for_tests(DATABASE_URL=server_rows.url))
    is_postgresql = server_rows.kind == "postgresql"
    own = "SELECT pg_backend_pid()" if is_postgresql else "SELECT connection_id()"
    [(number,)] = found.execute_query(own)
    server_rows.execute(f"SELECT pg_terminate_backend({number})" if is_postgresql else f"KILL {number}")
    assert found.execute_query("SELECT 1") == [(1,)]
    found.close()


def test_a_server_that_takes_the_call_and_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(databases, "CONNECT_TIMEOUT_SECONDS", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://reader:secret@127.0.0.1:{silent.getsockname()[1]}/sales"
        said = named({"SALES_CONNECTION_STRING": url}).health_check(retry=False)
    assert (said["status"], said["error"]) == ("unhealthy", "DatabaseUnavailable")


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({}, "set DEVELOPMENT_GLOBAL_SALES_CONNECTION_STRING or SALES_CONNECTION_STRING"),
        ({"SALES_CONNECTION_STRING": "sales"}, "SALES_CONNECTION_STRING must be a database URL"),
        (
            {"SALES_CONNECTION_STRING": "sqlite:///x", "DEVELOPMENT_GLOBAL_SALES_TYPE": "postgresql"},
            "DEVELOPMENT_GLOBAL_SALES_TYPE is postgresql",
        ),
        (
            {"SALES_CONNECTION_STRING": "sqlite:///x", "DEVELOPMENT_GLOBAL_SALES_POOL_SIZE": "0"},
            "DEVELOPMENT_GLOBAL_SALES_POOL_SIZE must be a whole number",
        ),
        ({"SALES_CONNECTION_STRING": "nosuch://x/y"}, "of a kind that no driver"),
    ],
)
def test_a_name_that_leads_nowhere_is_told_with_its_variable(variables: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        named(variables).execute_query("SELECT 1")


def test_000_01_the_migration_status_lists_what_is_pending_and_then_nothing(tmp_path: Any) -> None:
    fresh = DatabaseManager(Config.for_tests(DATABASE_URL=f"sqlite:///{tmp_path / 'new.db'}"))
    before = fresh.get_migration_status()
    assert (before["current_version"], before["pending_migrations"]) == (None, revisions())
    assert fresh.run_migrations() == revisions()
    after = fresh.get_migration_status()
    assert (after["current_version"], after["pending_migrations"]) == (revisions()[-1], [])
    assert (before["is_current"], after["is_current"]) == (False, True)
    assert fresh.run_migrations() == []


def test_000_01_the_tables_of_a_running_system_are_current(manager: DatabaseManager) -> None:
    assert manager.get_migration_status()["is_current"]


def test_000_02_the_command_says_what_is_wrong_with_each_database(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    run = CliRunner().invoke
    url = f"sqlite:///{tmp_path / 'test.db'}"
    monkeypatch.setenv("DATABASE_URL", url)
    behind = run(validate_database_config.main, [])
    assert (behind.exit_code, "its tables are behind" in behind.output) == (1, True)
    DatabaseManager(Config.for_tests(DATABASE_URL=url)).run_migrations()
    assert run(validate_database_config.main, []).exit_code == 0
    monkeypatch.setenv("SALES_CONNECTION_STRING", NOWHERE)
    lost = run(validate_database_config.main, ["--json"])
    by_name = {checked["database"]: checked["problem"] for checked in json.loads(lost.output)}
    assert (lost.exit_code, by_name["rpa_db"]) == (1, "")
    assert "cannot be reached" in by_name["sales"]
    assert "secret" not in lost.output
    monkeypatch.setenv("DATABASE_URL", "nonsense")
    wrong = run(validate_database_config.main, [])
    assert (wrong.exit_code, "DATABASE_URL must be a database URL" in wrong.output) == (2, True)
