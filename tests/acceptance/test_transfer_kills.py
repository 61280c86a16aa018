"""SIGKILL of a mover at each of its named steps, then resume: no row is lost, none has two tickets, and what
was not moved is as it was."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from app.tasks.model import PRIORITIES
from app.transfer import runs
from app.transfer.errors import NotPossible
from app.transfer.holders import is_dead
from app.transfer.plans import Direction, Limits, Scope, make_plan
from app.transfer.records import State, TransferRecords
from tests.acceptance.conftest import StackMaker
from tests.acceptance.stack import KEPT, ROOT, Stack
from tests.contract.rows import Rows
from tests.servers import MariaDbServer
from tests.soak.points import ENVIRONMENT, MOVER_STEPS, RECALL_STEPS, ArmedPoint
from tests.soak.points import Scope as Dies
from tests.waiting import wait_until

ROWS = 60
BATCH_ROWS = 20


class Movers:
    """A process that forks movers with crash points, over one installation."""

    def __init__(self, stack: Stack, rows: Rows, folder: Path) -> None:
        self.stack, self.rows = stack, rows
        self.points = ArmedPoint(folder)
        environment = {name: os.environ[name] for name in KEPT if name in os.environ}
        environment |= {"PYTHONPATH": str(ROOT), ENVIRONMENT: str(folder)}
        self._log = (folder / "victim.log").open("w+")
        self._victim = subprocess.Popen(
            [sys.executable, "-m", "tests.soak.victim", str(os.getpid())],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def start(self, direction: Direction) -> int:
        request = {"do": "move", "direction": direction.value, "batch_rows": BATCH_ROWS}
        assert self._victim.stdin is not None
        assert self._victim.stdout is not None
        self._victim.stdin.write(json.dumps(request | {"settings": self.stack.settings}) + "\n")
        self._victim.stdin.flush()
        answer = self._victim.stdout.readline()
        assert answer, f"the victim died: {self.log()}"
        return int(answer)

    def log(self) -> str:
        self._log.seek(0)
        return self._log.read()[-3000:]

    def close(self) -> None:
        self._victim.kill()
        self._victim.wait()
        for stream in (self._victim.stdin, self._victim.stdout, self._log):
            if stream is not None:
                stream.close()


@pytest.fixture
def movers(
    mariadb_server: MariaDbServer, redis_url: str, make_stack: StackMaker, tmp_path: Path
) -> Iterator[Movers]:
    with mariadb_server.database() as url:
        stack = make_stack(url, redis_url, RQ_HYBRID_MODE="true", RQ_ROLLOUT_PERCENT=0)
        rows = Rows(url, stack.system.store.database)
        made = Movers(stack, rows, tmp_path)
        yield made
        made.close()
        rows.close()


def run_again(movers: Movers, direction: Direction) -> None:
    """As an operator would: resume, or begin anew where there is nothing to resume."""
    queue = movers.stack.system.queue
    try:
        mover = runs.resume(queue, direction)
    except NotPossible:
        plan = make_plan(queue.store, direction, Scope((PRIORITIES[2],)))
        mover = runs.start(queue, plan, Limits(batch_rows=BATCH_ROWS))
    mover.run()


def kill_one(movers: Movers, number: int, point: str, nth: int, direction: Direction) -> None:
    movers.points.arm(number, point, nth=nth, scope=Dies.PROCESS)
    pid = movers.start(direction)
    wait_until(
        lambda: movers.points.hit(number) or is_gone(pid),
        deadline_seconds=60,
        what=lambda: f"a mover dies at {point}: {movers.log()}",
    )
    wait_until(lambda: is_gone(pid), deadline_seconds=60, what=lambda: f"the mover is gone: {movers.log()}")
    movers.points.disarm()


def is_gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def judge(movers: Movers, direction: Direction, tickets: list[str], before: dict[int, Any]) -> list[str]:
    """What is wrong, by plain SQL and Redis's own list."""
    after = movers.rows.all()
    wrong = [] if set(after) == set(before) else ["rows are lost"]
    wanted = "DISPATCHED" if direction is Direction.DISPATCH else "QUEUED"
    statuses = Counter(row["status"] for row in after.values())
    if statuses != {wanted: len(before)}:
        wrong.append(f"statuses {statuses}")
    wrong += [
        f"payload of {task_id}"
        for task_id in after
        if after[task_id]["payload"] != before[task_id]["payload"]
    ]
    valid = [f"t{task_id}-e{row['epoch']}" for task_id, row in after.items() if row["status"] == "DISPATCHED"]
    if sorted(tickets) != sorted(valid):
        extra, missing = Counter(tickets) - Counter(valid), Counter(valid) - Counter(tickets)
        wrong.append(f"{sum(extra.values())} tickets too many, {sum(missing.values())} too few")
    return wrong


@pytest.mark.mariadb
@pytest.mark.slow
@pytest.mark.parametrize("direction", [Direction.DISPATCH, Direction.RECALL])
def test_a_mover_killed_at_any_step_is_resumed_without_loss_or_double(
    movers: Movers, direction: Direction, redis_url: str
) -> None:
    dice = random.Random(4)
    queue, records = movers.stack.system.queue, TransferRecords(movers.stack.system.store.database)
    client = redis.Redis.from_url(redis_url, decode_responses=True)
    points = list(MOVER_STEPS) if direction is Direction.DISPATCH else list(RECALL_STEPS)
    missed, problems = [], []
    for number, point in enumerate(points, start=1):
        movers.rows.execute("DELETE FROM tasks")
        client.flushall()
        queue.store.routing.change(PRIORITIES, redis_percent=0)
        movers.rows.put(count=ROWS, payload='{"n": "é😀"}')
        if direction is Direction.RECALL:
            run_again(movers, Direction.DISPATCH)
        before = movers.rows.all()
        once = point.split(".")[0] in ("begin", "flip", "finish")
        kill_one(movers, number, point, 1 if once else dice.randint(1, 3), direction)
        if movers.points.hit(number) is None:
            missed.append(point)
        run_again(movers, direction)
        tickets: Any = client.lrange("rq:queue:normal", 0, -1)
        problems += [f"{point}: {wrong}" for wrong in judge(movers, direction, list(tickets), before)]
        last = records.latest(direction)
        if last is None or last.state is not State.COMPLETED or last.holder is not None:
            problems.append(f"{point}: the last transfer is {last}")
    client.close()
    assert problems == []
    assert missed == []


def test_only_a_process_that_is_gone_is_proven_dead() -> None:
    from app.transfer.holders import this_process

    mine = this_process()
    assert not is_dead(mine)
    host, pid, birth = mine.rsplit(":", 2)
    assert is_dead(f"{host}:{pid}:{int(birth) - 1}")
    assert not is_dead(f"elsewhere:{pid}:{birth}")
    assert not is_dead("host:unknown")
