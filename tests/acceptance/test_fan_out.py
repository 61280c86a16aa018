"""Must show D3: a fan-out over several workers, one of which is killed in mid-run."""

from __future__ import annotations

import os
import signal
from collections import Counter

import pytest

from app.tasks.model import Status
from app.tasks.submission import TaskRequest
from tests.acceptance.conftest import StackMaker
from tests.acceptance.relatives import CHILDREN, FAILS_ONCE, HANGS_ONCE, NAMES, told
from tests.waiting import wait_until

LIMIT = 2
MODULES = "app.handlers,tests.acceptance.relatives"


@pytest.mark.parametrize("database_url", ["mariadb"], indirect=True)
@pytest.mark.mariadb
@pytest.mark.timeout(180)
def test_003_02_and_003_17_a_fan_out_heals_from_a_failure_and_a_killed_worker_within_its_limit(
    database_url: str, redis_url: str, make_stack: StackMaker
) -> None:
    stack = make_stack(database_url, redis_url, TASK_MODULES=MODULES, RQ_LEASE_SECONDS=600)
    stack.system.queue.families.limit("database", LIMIT)
    stack.start_pool(workers=3)
    request = TaskRequest("relatives.parent", {"path": str(stack.ledger_file)})
    parent = stack.system.queue.submit(request).task_id

    def hanging() -> list[int]:
        return [pid for pid, what, name in told(stack.ledger_file) if (what, name) == ("begin", HANGS_ONCE)]

    (culprit, *_) = wait_until(
        hanging, deadline_seconds=60, what=lambda: f"the kill: {told(stack.ledger_file)}"
    )
    os.kill(culprit, signal.SIGKILL)
    stack.wait_until_ended(1 + CHILDREN + 1, deadline_seconds=60)

    after = stack.system.store.queries.task(parent)
    assert (after.status, after.failures) == (Status.COMPLETED, 0)
    assert after.result == {"tables": sorted(NAMES), "last": "last"}
    assert stack.counts() == {"COMPLETED": 1 + CHILDREN + 1}
    begun = Counter(name for _, what, name in told(stack.ledger_file) if what == "begin")
    assert begun == dict.fromkeys([*NAMES, "last"], 1) | {FAILS_ONCE: 2, HANGS_ONCE: 2}
    running: set[str] = set()
    for _, what, name in told(stack.ledger_file):
        if what == "begin":
            running.add(name)  # the killed one runs on, by this account, until it has run again
        elif what == "end":
            running.discard(name)
        assert len(running) <= LIMIT, told(stack.ledger_file)
    ends = [name for _, what, name in told(stack.ledger_file) if what == "end"]
    assert ends[-1] == "last", "the cleanup ran before all tables had ended"
    assert len({pid for pid, what, _ in told(stack.ledger_file) if what == "begin"}) > 1
