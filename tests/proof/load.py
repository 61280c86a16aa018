"""A system at work, verified while it works: whatever is named then is invented."""

from __future__ import annotations

import random
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from app.system import System
from app.tasks.errors import TaskError
from app.tasks.model import PRIORITIES, Priority, Status
from app.tasks.submission import TaskRequest
from app.transfer.baseline import Baseline, record
from app.transfer.verification.report import Report
from app.transfer.verification.suspects import Patience
from app.transfer.verification.verifier import Verifier, Wanted
from app.transfer.wiring import reader_of, time_limits_of
from tests.acceptance.stack import Stack
from tests.servers import DatabaseServer, RedisServer

BACKLOG = 20_000
SUBMITTED_AT_ONCE = 20
PER_SECOND = 200


class Load:
    """Submits, cancels and reprioritises until it is stopped; some tasks fail and are tried again."""

    def __init__(self, system: System, *, seed: int = 1) -> None:
        self._system = system
        self._random = random.Random(seed)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.submitted = 0

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def submit(self, count: int) -> list[int]:
        requests = [self._request() for _ in range(count)]
        answers = self._system.queue.submit_many(requests)
        self.submitted += count
        return [answer.task_id for answer in answers if not isinstance(answer, Exception)]

    def _request(self) -> TaskRequest:
        priority = self._random.choice((Priority.URGENT, Priority.HIGH, Priority.NORMAL, Priority.LOW))
        kind = self._random.randrange(20)
        if kind == 0:
            return TaskRequest("test.fail", {"times": 1}, priority=priority, max_retries=2)
        if kind < 4:
            return TaskRequest("test.sleep", {"seconds": 0.01}, priority=priority)
        return TaskRequest("test.noop", {"text": "\U0001f600" * 20}, priority=priority)

    def _run(self) -> None:
        while not self._stop.wait(SUBMITTED_AT_ONCE / PER_SECOND):
            ids = self.submit(SUBMITTED_AT_ONCE)
            with suppress(TaskError):  # it runs already, or has ended
                self._system.queue.cancel(ids[0])
            with suppress(TaskError):
                self._system.queue.reprioritise(ids[-1], self._random.choice(PRIORITIES))


def verify_under_load(
    folder: Path, server: DatabaseServer, redis: RedisServer, *, runs: int, backlog: int = BACKLOG
) -> dict[str, Any]:
    """So many verifications, each against a baseline that was recorded just before, while all goes on."""
    with server.database() as url:
        stack = Stack(folder / "load", url, redis.url)
        try:
            return _verify_all(stack, folder, runs=runs, backlog=backlog)
        finally:
            stack.close()


def _verify_all(stack: Stack, folder: Path, *, runs: int, backlog: int) -> dict[str, Any]:
    told: list[str] = []
    load = Load(stack.system)
    for _ in range(backlog // 1_000):
        load.submit(1_000)
    stack.start_pool(workers=2)
    began, reports = time.monotonic(), []
    with load:
        for number in range(runs):
            if stack.count(Status.DISPATCHED) < backlog // 2:
                load.submit(backlog // 2)
            report = _verify(stack.system, folder / f"under-load-{number}")
            reports.append(report)
            told += [f"run {number}: {finding}" for finding in report.findings]
            click.echo(f"under load, run {number + 1} of {runs}: {report.verdict}")
    return {
        "runs": runs,
        "runs_with_findings": sum(bool(report.findings) for report in reports),
        "runs_clean": sum(report.exit_code == 0 for report in reports),
        "rows": sum(report.rows for report in reports),
        "submitted": load.submitted,
        "ended_while_verified": stack.count(Status.COMPLETED, Status.FAILED, Status.CANCELLED),
        "seconds": round(time.monotonic() - began, 1),
        "findings": told[:20],
        "pending": [report.pending for report in reports if report.pending][:5],
        "unread": [report.unread for report in reports if report.unread],
    }


def _verify(system: System, folder: Path) -> Report:
    database = system.store.database
    record(database, folder)
    wanted = Wanted(patience=Patience(settle_seconds=1.0, limit_seconds=60))
    limits, reader = time_limits_of(system), reader_of(system)
    return Verifier(database, reader, limits, baseline=Baseline(folder), wanted=wanted).run()
