"""A move and its rollback by the commands, each proven by the verifying command, on every database."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from app.system import System, build_system
from app.tasks.model import PRIORITIES
from app.tasks.submission import TaskRequest
from config import Config
from scripts.migration import (
    create_backup,
    migrate_database_tasks_to_rq,
    migrate_rq_to_database,
    verify_rollback_migration,
    verify_task_migration,
)

TASKS = 400


class Place:
    """An installation that begins in the database, and commands that run over it in this process."""

    def __init__(self, settings: dict[str, str], system: System) -> None:
        self._settings, self.system = settings, system

    def call(self, command: Any, *arguments: str) -> tuple[int, Any]:
        """The exit code, and what the command said as JSON."""
        main: click.Command = command.main
        done = CliRunner().invoke(main, [*arguments, "--json"], env=dict(self._settings))
        return done.exit_code, json.loads(done.stdout)


@pytest.fixture
def place(tmp_path: Path, database_url: str, redis_url: str) -> Iterator[Place]:
    settings = {
        "DATABASE_URL": database_url,
        "RQ_REDIS_URL": redis_url,
        "VAR_DIR": str(tmp_path),
        "RQ_HYBRID_MODE": "true",
        "RQ_ROLLOUT_PERCENT": "0",
        "RQ_TICKET_WINDOW": "60",
    }
    system = build_system(Config.for_tests(**settings))
    system.prepare()
    before = signal.getsignal(signal.SIGTERM)
    yield Place(settings, system)
    signal.signal(signal.SIGTERM, before)
    system.close()


def test_a_move_there_and_back_is_proven_both_times(place: Place) -> None:
    requests = [TaskRequest("test.noop", {"n": n}, priority=PRIORITIES[n % 4]) for n in range(TASKS)]
    place.system.queue.submit_many(requests)
    assert place.call(create_backup, "--baseline-only")[0] == 0

    assert place.call(migrate_database_tasks_to_rq)[0] == 0
    code, moved = place.call(verify_task_migration, "--patience", "20")
    assert (code, moved["faults"], moved["pending"]) == (0, {}, {})
    assert sum(moved["tickets"].values()) + moved["beyond_window"] == TASKS
    assert moved["beyond_window"] > 0

    assert place.call(migrate_rq_to_database)[0] == 0
    code, back = place.call(verify_rollback_migration, "--patience", "20")
    assert (code, back["faults"], back["pending"]) == (0, {}, {})
    assert (back["statuses"], back["baseline"]["present"]) == ({"QUEUED": TASKS}, TASKS)
