"""A move and its rollback by the commands, each proven by the verifying command, on every database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.tasks.model import PRIORITIES
from app.tasks.submission import TaskRequest
from scripts.migration import (
    create_backup,
    migrate_database_tasks_to_rq,
    migrate_rq_to_database,
    verify_rollback_migration,
    verify_task_migration,
)
from tests.integration.place import IN_THE_DATABASE, Place

TASKS = 400


@pytest.fixture
def place(tmp_path: Path, database_url: str, redis_url: str) -> Iterator[Place]:
    servers = {"DATABASE_URL": database_url, "RQ_REDIS_URL": redis_url}
    place = Place(**servers, VAR_DIR=str(tmp_path), RQ_TICKET_WINDOW="60", **IN_THE_DATABASE)
    yield place
    place.close()


def test_a_move_there_and_back_is_proven_both_times(place: Place) -> None:
    requests = [TaskRequest("test.noop", {"n": n}, priority=PRIORITIES[n % 4]) for n in range(TASKS)]
    place.system.queue.submit_many(requests)
    assert place.call(create_backup.main, "--baseline-only")[0] == 0

    assert place.call(migrate_database_tasks_to_rq.main)[0] == 0
    code, moved = place.call(verify_task_migration.main, "--patience", "20")
    assert (code, moved["faults"], moved["pending"]) == (0, {}, {})
    assert sum(moved["tickets"].values()) + moved["beyond_window"] == TASKS
    assert moved["beyond_window"] > 0

    assert place.call(migrate_rq_to_database.main)[0] == 0
    code, back = place.call(verify_rollback_migration.main, "--patience", "20")
    assert (code, back["faults"], back["pending"]) == (0, {}, {})
    assert (back["statuses"], back["baseline"]["present"]) == ({"QUEUED": TASKS}, TASKS)
