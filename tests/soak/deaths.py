"""Deaths of whole worker trees: on this host, on another host, and the frozen one that comes back."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from typing import Any

import psutil

from app.tasks.model import PRIORITIES
from app.tasks.runner import boot_clock
from app.tasks.submission import TaskRequest
from tests.acceptance.stack import kill_tree
from tests.server_process import alive
from tests.soak.installation import Installation, end_process, tree_of
from tests.soak.points import ENVIRONMENT
from tests.soak.results import Chapter
from tests.waiting import happens, wait_until

TREE_TASKS = 24
TREE_SECONDS = 2.0
ELSEWHERE = "elsewhere"
REFUSED = "task.result_refused"
DEFAULTS: dict[str, Any] = {"RQ_RETRY_BASE_SECONDS": None}  # an installation of tests shortens it
FROZEN_LEASE_SECONDS = 2.0


def kill_the_tree(place: Installation, chapter: Chapter) -> None:
    """Default settings: the workers' whole tree is killed amid 24 tasks of 2 s, and started again at once."""
    pool = _start_product(place)
    wait_until(lambda: place.stack.workers(), deadline_seconds=60, what="the workers to announce themselves")
    tasks = place.submit(_long_tasks(TREE_TASKS))
    wait_until(lambda: len(place.running()) >= 2, deadline_seconds=60, what="tasks to run")
    kill_tree(pool)
    interrupted = place.running()
    restarted_at = boot_clock()
    pool = _start_product(place)
    _judge(place, chapter, "whole tree, same host", tasks, interrupted, restarted_at, deadline_seconds=120)
    kill_tree(pool)


def kill_another_host(place: Installation, chapter: Chapter) -> None:
    """A worker dies whose life file nobody here can see: its lease must end first."""
    other = place.start_pool(workers=2, pollers=0, host=ELSEWHERE, settings=_elsewhere(place))
    tasks = place.submit(_long_tasks(6))
    wait_until(lambda: len(place.running()) >= 2, deadline_seconds=60, what="tasks to run")
    _kill_all(other)
    interrupted = place.running()
    killed_at = boot_clock()
    pool = place.start_pool(workers=2, pollers=0)
    _judge(place, chapter, "whole tree, another host", tasks, interrupted, killed_at, deadline_seconds=120)
    end_process(pool)


def freeze(place: Installation, chapter: Chapter, rounds: int) -> None:
    """Stop a worker's tree past its lease, let another take over, wake it: its result is refused."""
    name = "frozen past its lease"
    for number in range(rounds):
        tally = chapter.tally(name)
        tally.count(rounds=1)
        other = place.start_pool(workers=1, pollers=0, host=ELSEWHERE, settings=_elsewhere(place))
        tasks = place.submit([TaskRequest("soak.works", {"seconds": 0.3}, priority="normal")])
        wait_until(lambda: bool(place.running()), deadline_seconds=60, what="the task to run")
        frozen = tree_of(other)
        wait_until(
            lambda tree=frozen: _stop(place, tree),  # type: ignore[misc]
            deadline_seconds=60,
            what="the worker to stand still outside a transaction",
        )
        frozen_at = boot_clock()
        pool = place.start_pool(workers=1, pollers=0)
        left = place.wait_until_ended(tasks, deadline_seconds=60)
        tally.took("ended by another", [boot_clock() - frozen_at])
        before = place.oracle.rows(tasks)
        tally.count(hits=_wake(place, frozen))
        where = f"{place.oracle.kind}, frozen round {number}"
        if left or _ends(place.oracle.rows(tasks)) != _ends(before):
            chapter.problems.append(f"{where}: the woken one changed the end")
        verdict = place.judge(tasks)
        tally.judge(verdict, tasks=len(tasks))
        chapter.blame(where, verdict)
        end_process(pool)
        _kill_all(other)


def _stop(place: Installation, tree: Sequence[psutil.Process]) -> bool:
    """Freeze them; false, and they go on, if one of them holds SQLite's only write lock: then nobody could
    do anything until it wakes."""
    for process in tree:
        process.send_signal(signal.SIGSTOP)
    if place.oracle.may_write():
        return True
    for process in tree:
        process.send_signal(signal.SIGCONT)
    return False


def _wake(place: Installation, frozen: Sequence[psutil.Process]) -> bool:
    """Let them go on; true if a result was refused, false if they ended themselves before they had one."""
    before = place.log.read_text(errors="replace").count(REFUSED)
    for process in frozen:
        process.send_signal(signal.SIGCONT)
    refused = happens(
        lambda: place.log.read_text(errors="replace").count(REFUSED) > before or not any(map(alive, frozen)),
        deadline_seconds=60,
    )
    return refused and place.log.read_text(errors="replace").count(REFUSED) > before


def _ends(rows: dict[int, Any]) -> dict[int, Any]:
    return {task_id: (row.status, row.attempt, row.result, row.holder) for task_id, row in rows.items()}


def _long_tasks(count: int) -> list[TaskRequest]:
    load = {"seconds": TREE_SECONDS}
    return [TaskRequest("soak.works", load, priority=PRIORITIES[number % 4]) for number in range(count)]


def _start_product(place: Installation) -> Any:
    """`python -m workers`, as an operator starts it."""
    command = ("-m", "workers", "--bound-to", str(os.getpid()))
    return place.stack.start(*command, log_name="pool", settings={ENVIRONMENT: str(place.folder)})


def _elsewhere(place: Installation) -> dict[str, Any]:
    return {"VAR_DIR": str(place.folder / ELSEWHERE)}


def _kill_all(pool: int) -> None:
    for process in tree_of(pool):
        end_process(process.pid)


def _judge(
    place: Installation,
    chapter: Chapter,
    name: str,
    tasks: Sequence[int],
    interrupted: Sequence[int],
    since: float,
    *,
    deadline_seconds: float,
) -> None:
    tally = chapter.tally(name)
    tally.count(rounds=1)
    tally.count(hits=bool(interrupted))
    left = place.wait_until_ended(tasks, deadline_seconds=deadline_seconds)
    verdict = place.judge(tasks)
    tally.judge(verdict, tasks=len(tasks))
    tally.count(late=len(left))
    tally.took("all ended", [boot_clock() - since])
    tally.took("interrupted", [_next_start(place, task_id, since) - since for task_id in interrupted])
    chapter.blame(f"{place.oracle.kind}, {name}", verdict)


def _next_start(place: Installation, task_id: int, since: float) -> float:
    lines = [line.at for line in place.ledger.of_task[task_id] if line.word == "S" and line.at >= since]
    return min(lines, default=float("inf"))
