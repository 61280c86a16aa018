"""The commands around a move, as an operator runs them: their exit codes, their JSON, their pages."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from app.tasks.model import Priority, Status
from app.tasks.submission import TaskRequest
from app.tasks.tickets import RQQueueManager
from scripts.migration import (
    check_data_consistency,
    create_backup,
    preflight,
    restore_backup,
    validate_task_integrity,
    validate_user_constraints,
    verify_rollback_migration,
    verify_task_migration,
)
from tests.acceptance.conftest import StackMaker
from tests.acceptance.stack import Stack
from tests.proof.load import verify_under_load
from tests.servers import MariaDbServer, RedisServer

COMMANDS = (
    *(check_data_consistency, create_backup, preflight, restore_backup),
    *(validate_task_integrity, validate_user_constraints, verify_rollback_migration, verify_task_migration),
)
NOBODY = "redis://127.0.0.1:1/0"

Run = Callable[..., tuple[int, Any]]


@pytest.fixture
def stack(make_stack: StackMaker, tmp_path: Path, redis_url: str) -> Stack:
    made = make_stack(f"sqlite:///{tmp_path / 'tasks.db'}", redis_url, RQ_TICKET_GRACE=1)
    made.system.queue.submit_many([TaskRequest("test.noop", {"n": n}) for n in range(20)])
    return made


@pytest.fixture
def run(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A command in this installation: its exit code, and its JSON."""
    for name, value in stack.settings.items():
        monkeypatch.setenv(name, str(value))

    def invoke(command: Any, *options: str, **settings: str) -> tuple[int, Any]:
        result = CliRunner().invoke(command.main, [*options, "--json"], env=settings)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.output
        return result.exit_code, json.loads(result.stdout) if result.stdout else None

    return invoke


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.__name__.rpartition(".")[2])
def test_each_command_tells_what_it_is_for(command: Any) -> None:
    result = CliRunner().invoke(command.main, ["--help"])

    assert result.exit_code == 0
    assert "--json" in result.output


def test_a_move_is_proven_and_a_ticket_that_is_taken_away_is_named(
    run: Run, stack: Stack, tmp_path: Path
) -> None:
    assert run(create_backup)[0] == 0

    code, report = run(verify_task_migration, "--report", str(tmp_path / "report.html"))
    assert (code, report["tickets"]["normal"], report["baseline"]["present"]) == (0, 20, 20)
    assert "CLEAN" in (tmp_path / "report.html").read_text()

    tickets = stack.system.tickets
    assert tickets is not None
    tickets.client.lpop("rq:queue:normal")
    code, report = run(verify_task_migration, "--patience", "2")
    assert (code, report["faults"]) == (1, {"missing ticket": 1})


def test_a_rollback_is_proven_by_id(run: Run, stack: Stack) -> None:
    system = stack.system
    assert system.tickets is not None
    run(create_backup, "--baseline-only")
    code, report = run(verify_rollback_migration, "--patience", "2")
    assert (code, report["faults"]) == (1, {"row left behind": 20})

    system.store.routing.change(redis_percent=0)
    system.store.moves.to_right_track(Priority.NORMAL, limit=100)
    code, report = run(verify_rollback_migration, "--patience", "2")
    assert (code, report["faults"]) == (1, {"ticket for a queued row": 20})

    _clear(system.tickets)
    code, report = run(verify_rollback_migration)
    assert (code, report["statuses"]) == (0, {"QUEUED": 20})


def _clear(tickets: RQQueueManager) -> None:
    tickets.client.flushall()


def test_redis_that_does_not_answer_is_no_pass_unless_only_rows_were_asked_for(run: Run) -> None:
    run(create_backup, "--baseline-only")

    code, report = run(verify_task_migration, RQ_REDIS_URL=NOBODY)
    assert code == 2
    assert report["unread"]

    code, report = run(verify_task_migration, "--rows-only", RQ_REDIS_URL=NOBODY)
    assert (code, report["tickets"]) == (0, None)


def test_without_a_baseline_the_verifier_says_how_to_record_one(run: Run) -> None:
    assert run(verify_task_migration)[0] == 2
    assert run(verify_task_migration, "--no-baseline")[0] == 0


def test_a_database_that_does_not_answer_is_said_by_exit_code_2(run: Run, tmp_path: Path) -> None:
    nowhere = f"sqlite:///{tmp_path / 'no' / 'folder.db'}"

    for command in (verify_task_migration, preflight):
        assert run(command, DATABASE_URL=nowhere)[0] == 2
    assert run(validate_task_integrity, DATABASE_URL=nowhere)[0] == 2


def test_a_backup_is_restored_and_one_that_was_changed_is_not(run: Run, stack: Stack, tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    assert run(create_backup, "--folder", str(folder), "--dump")[0] == 0
    assert run(restore_backup, str(folder))[0] == 1  # the tables hold rows

    stack.system.queue.submit(TaskRequest("test.noop", {}))
    code, said = run(restore_backup, str(folder), "--replace")
    assert (code, said["tables"]["tasks"]) == (0, 20)
    assert stack.count(Status.DISPATCHED) == 20

    (folder / "tasks-00001.gz").write_bytes(b"")
    assert run(restore_backup, str(folder), "--replace")[0] == 2
    assert stack.count(Status.DISPATCHED) == 20


def test_the_settings_are_in_a_backup_and_no_secret_is(run: Run, tmp_path: Path) -> None:
    secrets = {"ADMIN_TOKEN": "told-to-nobody", "RQ_REDIS_URL": "redis://:told-to-nobody@127.0.0.1:1/0"}
    folder = tmp_path / "kept"

    assert run(create_backup, "--folder", str(folder), "--no-baseline", **secrets)[0] == 0

    kept = json.loads((folder / "manifest.json").read_text())["settings"]
    assert kept["ADMIN_TOKEN"] == "(hidden)"
    assert "127.0.0.1:1" in kept["RQ_REDIS_URL"]
    assert not [path for path in folder.iterdir() if b"told-to-nobody" in path.read_bytes()]


def test_the_rules_hold_for_a_system_at_rest_and_a_broken_one_is_named(run: Run, stack: Stack) -> None:
    for command in (validate_task_integrity, check_data_consistency, validate_user_constraints):
        assert run(command) == (0, run(command)[1] | {"broken": []})

    with stack.system.store.database.engine.begin() as on:
        on.exec_driver_sql("UPDATE tasks SET epoch = 0 WHERE id = (SELECT MIN(id) FROM tasks)")
    code, said = run(validate_task_integrity)
    assert (code, [rule["rule"] for rule in said["broken"]]) == (1, ["numbers"])


def test_preflight_refuses_a_redis_that_may_evict_and_names_the_fix(
    run: Run, redis_server: RedisServer
) -> None:
    code, said = run(preflight)
    assert code == 0

    redis_server.client().config_set("maxmemory-policy", "allkeys-lru")
    try:
        code, said = run(preflight)
    finally:
        redis_server.client().config_set("maxmemory-policy", "noeviction")
    failed = [check for check in said["checks"] if check["grade"] == "fail"]
    assert code == 1
    assert [check["name"] for check in failed] == ["maxmemory-policy"]
    assert "noeviction" in failed[0]["fix"]


def test_preflight_passes_on_the_servers_that_we_test_with(
    run: Run, database_url: str, make_stack: StackMaker, redis_url: str
) -> None:
    make_stack(database_url, redis_url)

    code, said = run(preflight, DATABASE_URL=database_url)

    assert (code, [check for check in said["checks"] if check["grade"] in ("fail", "unread")]) == (0, [])


@pytest.mark.mariadb
def test_a_system_at_work_is_verified_and_nothing_is_invented(
    mariadb_server: MariaDbServer, redis_server: RedisServer, redis_url: str, tmp_path: Path
) -> None:
    figures = verify_under_load(tmp_path, mariadb_server, redis_server, runs=2, backlog=2_000)

    assert (figures["findings"], figures["unread"]) == ([], [])
    assert figures["ended_while_verified"] > 0
