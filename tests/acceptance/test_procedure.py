"""A whole migration of a system at work, by the command: killed in the middle, resumed, and brought back."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from app.tasks.model import Priority, Status
from app.tasks.submission import TaskRequest
from app.transfer.batches import BatchRecords
from app.transfer.plans import Direction
from app.transfer.procedure.records import ProcedureRecords, State
from app.transfer.records import TransferRecords
from tests.acceptance.conftest import StackMaker
from tests.acceptance.stack import ROOT, Stack, kill_tree
from tests.servers import RedisServer
from tests.waiting import wait_until

MODULE = "scripts.migration.run_migration"
TRIES = 10
BACKLOG = 600


def call(stack: Stack, *arguments: str) -> tuple[int, Any]:
    done = subprocess.run(
        [sys.executable, "-m", MODULE, *arguments, "--json"],
        cwd=ROOT,
        env=stack.environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    return done.returncode, json.loads(done.stdout) if done.stdout.startswith("{") else done.stderr


def test_a_system_at_work_is_moved_though_the_command_is_killed_and_comes_back(
    make_stack: StackMaker, private_redis: RedisServer, tmp_path: Path
) -> None:
    database_url = f"sqlite:///{tmp_path / 'tasks.db'}"
    stack = make_stack(database_url, private_redis.url, RQ_HYBRID_MODE="true", RQ_ROLLOUT_PERCENT=0)
    stack.start_pool(workers=1)
    queue = stack.system.queue
    long = TaskRequest("test.sleep", {"seconds": 0.05}, priority=Priority.LOW)
    queue.submit_many(long for _ in range(BACKLOG))
    page = tmp_path / "history.md"
    options = ["--hybrid-seconds", "0.5", "--trial-seconds", "4", "--history", str(page)]
    options += ["--rate", "150", "--canary", "1", "--canary", "5", "--accept", "performance"]
    plan = call(stack, "--plan", *options)[1]

    # killed while rows move
    transfers = TransferRecords(stack.system.store.database)
    batches = BatchRecords(stack.system.store.database)
    running = [stack.start("-m", MODULE, "--confirm", plan["hash"], *options, log_name="run")]

    def moved() -> bool:
        found = transfers.latest(Direction.DISPATCH)
        if running[-1].poll() is not None:  # on a starved machine the trial of both tracks may end nothing
            running.append(stack.start("-m", MODULE, "--resume", log_name="run"))
        return found is not None and batches.totals(found.transfer_id).marked > 6

    wait_until(moved, deadline_seconds=300, what=lambda: f"rows to move; log:\n{stack.log('run')}")
    kill_tree(running[-1])
    procedures = ProcedureRecords(stack.system.store.database)
    cut_short = procedures.latest()
    assert cut_short is not None
    assert (cut_short.state, cut_short.phase.value) == (State.RUNNING, "migrate")

    code, done = call(stack, "--resume")
    for _ in range(TRIES):
        if code == 0:
            break
        assert done["stopped"]["gate"] == "tasks end", done  # as above
        code, done = call(stack, "--resume")
    assert (code, done["state"]) == (0, "completed")
    assert "completed" in page.read_text()
    verified = procedures.latest().record["phases"]["migrate"]["gates"]["verified"]  # type: ignore[union-attr]
    assert verified["passed"]
    assert {route.redis_percent for route in stack.system.store.routing.refresh().values()} == {100}

    code, back = call(stack, "--rollback")
    assert (code, back["state"]) == (0, "rolled back")
    assert all(line["met"] for line in back["checklist"])
    assert stack.count(Status.DISPATCHED) == 0
    left = BACKLOG - stack.count(Status.COMPLETED)
    assert stack.count(Status.QUEUED, Status.PROCESSING) >= min(left, 1)
