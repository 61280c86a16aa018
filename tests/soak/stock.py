"""The stock `rq worker` beside us: RQ's own queues and plain functions, killed at the same steps.

Its losses are counted as its users would meet them: a job that has not ended, waits in no queue and stands
in no registry is lost for good; one that a registry shows as running may be looked at again after minutes.
"""

from __future__ import annotations

import contextlib
import os
import random
import sys
import traceback
from pathlib import Path
from typing import Any

import psutil
import redis
from rq import Queue, Worker
from rq.registry import FailedJobRegistry, StartedJobRegistry

from app.tasks.model import PRIORITIES
from app.tasks.runner import boot_clock
from tests.servers import RedisServer
from tests.soak import ledger
from tests.soak.installation import tree_of
from tests.soak.ledger import Ledger
from tests.soak.points import ENVIRONMENT, ArmedPoint, Hit, Scope, here, passing
from tests.soak.results import Chapter
from tests.waiting import happens
from workers.dying import die_with_parent

JOBS = 12
QUIET_SECONDS = 2.0
DEADLINE_SECONDS = 15.0
POINTS = ("fetch.answered", "run.middle", "settle.open")
QUEUES = [priority.value for priority in PRIORITIES]


def job(number: int) -> int:
    """What RQ runs: the same ledger, a number for a task's id."""
    ledger.write("S", number, 1)
    passing("run.middle")
    ledger.write("E", number, 1)
    return number


def _wrap_rq() -> None:
    pop = Queue.lpop.__func__  # type: ignore[attr-defined]
    success = Worker.handle_job_success

    def lpop(cls: Any, *arguments: Any, **options: Any) -> Any:
        found = pop(cls, *arguments, **options)
        if found is not None:
            passing("fetch.answered")
        return found

    def handle_job_success(self: Any, *arguments: Any, **options: Any) -> Any:
        passing("settle.open")
        return success(self, *arguments, **options)

    Queue.lpop = classmethod(lpop)  # type: ignore[assignment, method-assign]
    Worker.handle_job_success = handle_job_success  # type: ignore[method-assign]


class StockRounds:
    """Rounds of one stock worker with its work horse, over its own Redis."""

    def __init__(self, folder: Path, server: RedisServer, chapter: Chapter, dice: random.Random) -> None:
        self._folder = folder
        self._server = server
        self._chapter = chapter
        self._dice = dice
        self._client = server.client()
        self._points = ArmedPoint(folder)
        self._ledger = Ledger(folder)
        self._next = 1

    def run(self, number: int, point: str) -> None:
        """Kill the worker's tree at the point, start it again at once, count what comes to its end."""
        tally = self._chapter.tally(f"rq worker: {point}")
        tally.rounds += 1
        tally.ours = False
        self._client.flushall()
        jobs = self._enqueue()
        nth = self._dice.randint(1, 3) if point == "fetch.answered" else 1  # each job has a new horse
        self._points.arm(number, point, nth=nth, scope=Scope.TREE)
        first = self._fork_worker()
        happens(lambda: self._points.hit(number), deadline_seconds=DEADLINE_SECONDS)
        self._points.disarm()
        hit = self._points.hit(number)
        tally.hits += hit is not None
        _end(first)
        again = self._fork_worker()
        self._wait_until_quiet(jobs)
        _end(again)
        self._count(jobs, hit)

    def _enqueue(self) -> dict[int, str]:
        jobs = {}
        for _ in range(JOBS):
            queue = Queue(self._dice.choice(QUEUES), connection=self._client)
            jobs[self._next] = queue.enqueue(job, self._next).id
            self._next += 1
        return jobs

    def _wait_until_quiet(self, jobs: dict[int, str]) -> None:
        """Until all have ended, or nothing has happened for a while."""
        last = boot_clock()

        def quiet() -> bool:
            nonlocal last
            if self._ledger.look():
                last = boot_clock()
            return self._ended(jobs) == len(jobs) or boot_clock() - last > QUIET_SECONDS

        happens(quiet, deadline_seconds=DEADLINE_SECONDS)

    def _ended(self, jobs: dict[int, str]) -> int:
        return sum(any(line.word == "E" for line in self._ledger.of_task[number]) for number in jobs)

    def _count(self, jobs: dict[int, str], hit: Hit | None) -> None:
        assert hit is not None, "the stock worker did not pass the point"
        self._ledger.look()
        tally = self._chapter.tally(f"rq worker: {hit.point}")
        tally.tasks += len(jobs)
        known = self._known_to_rq()
        for number, job_id in jobs.items():
            words = [line.word for line in self._ledger.of_task[number]]
            tally.doubled += words.count("S") > 1
            if "E" not in words and job_id not in known:
                tally.lost += 1
            elif "E" not in words or self._client.hget(f"rq:job:{job_id}", "status") == b"started":
                tally.late += 1

    def _known_to_rq(self) -> set[str]:
        found: set[str] = set()
        for name in QUEUES:
            queue = Queue(name, connection=self._client)
            found |= {*queue.get_job_ids()}
            for registry in (StartedJobRegistry, FailedJobRegistry):
                ids = registry(queue=queue).get_job_ids(cleanup=False)
                found |= {job_id.partition(":")[0] for job_id in ids}
        return found

    def _fork_worker(self) -> int:
        parent = os.getpid()
        pid = os.fork()
        if pid:
            return pid
        try:
            die_with_parent(parent)
            here.pool_pid = os.getpid()
            os.environ[ENVIRONMENT] = str(self._folder)
            log = os.open(self._folder / "rq.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(log, 1)
            os.dup2(log, 2)
            client = redis.Redis.from_url(self._server.url)
            _wrap_rq()
            Worker([Queue(name, connection=client) for name in QUEUES], connection=client).work(
                logging_level="WARNING"
            )
        except BaseException:  # noqa: BLE001 - a forked child must not go on in our code
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(0)


def _end(pid: int) -> None:
    """Kill a worker that we forked, and its horse with it, and collect it."""
    for process in tree_of(pid):
        with contextlib.suppress(psutil.NoSuchProcess):  # a horse ends when its job has
            process.kill()
    os.waitpid(pid, 0)
