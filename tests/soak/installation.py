"""One installation under fire: its database, its Redis, its victims, and the tasks that it was given."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any

import psutil

from app.tasks.errors import TaskError
from app.tasks.model import PRIORITIES, Submitted
from app.tasks.submission import TaskRequest
from tests.acceptance.stack import KEPT, ROOT, Stack, kill_tree
from tests.server_process import alive
from tests.servers import RedisServer
from tests.soak.ledger import Ledger
from tests.soak.oracle import Oracle, Verdict
from tests.soak.points import ENVIRONMENT, ArmedPoint
from tests.waiting import happens, wait_until

QUICK = ("soak.works", "soak.works", "soak.works", "soak.writes", "soak.fails_once", "soak.fails")
SLOWER = ("soak.fails_later", "soak.parks")


@dataclass(frozen=True, slots=True)
class Stream:
    """A process that goes on submitting, and the file of what it was answered."""

    pid: int
    accepted: Path
    _stop: Path

    def stop(self) -> None:
        """Ask it to end and wait for that; it may be dead."""
        self._stop.touch()
        wait_until(lambda: gone(self.pid), deadline_seconds=60, what="the stream of tasks to end")


class Installation:
    """`settings` go to every process of it. A task's name tells how it must end."""

    def __init__(self, folder: Path, database_url: str, redis: RedisServer, **settings: Any) -> None:
        self.folder = folder
        self.redis = redis
        modules = "app.handlers,tests.soak.handlers"
        self.stack = Stack(folder, database_url, redis.url, TASK_MODULES=modules, **settings)
        self.points = ArmedPoint(folder)
        self.ledger = Ledger(folder)
        self.oracle = Oracle(self.stack.config.DATABASE_URL, self.ledger)
        self.oracle.install()
        self.accepted: dict[int, str] = {}
        self.cancelled: set[int] = set()
        self.log = folder / "victims.log"
        self._numbers = itertools.count(1)
        self._victim = self._start_victim()

    # --- processes --------------------------------------------------------------------------------------

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in KEPT if name in os.environ}
        return kept | {ENVIRONMENT: str(self.folder)}

    def _start_victim(self) -> subprocess.Popen[str]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "tests.soak.victim", str(os.getpid())],
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )

    def ask(self, do: str, *, settings: dict[str, Any] | None = None, **more: Any) -> int:
        """Have the victim fork something; its process id."""
        all_settings = self.stack.settings | (settings or {})
        _write(self._victim.stdin, json.dumps({"do": do, "settings": all_settings} | more))
        assert self._victim.stdout is not None
        answer = self._victim.stdout.readline()
        assert answer, f"the victim died; log:\n{self.tail()}"
        return int(answer)

    def start_pool(
        self, *, workers: int = 2, pollers: int = 1, host: str = "", settings: dict[str, Any] | None = None
    ) -> int:
        return self.ask("pool", settings=settings, workers=workers, pollers=pollers, host=host)

    def close(self) -> None:
        kill_tree(self._victim)  # type: ignore[arg-type]
        for stream in (self._victim.stdin, self._victim.stdout):
            if stream is not None:
                stream.close()
        self.oracle.close()
        self.stack.close()

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-6000:]

    # --- load -------------------------------------------------------------------------------------------

    def requests(self, dice: random.Random, *, count: int) -> list[TaskRequest]:
        """A mixed load: four priorities, failing, retried, scheduled, parking and writing handlers."""
        quick = [self._request(dice, dice.choice(QUICK)) for _ in range(count)]
        slower = [self._request(dice, name) for name in SLOWER]
        soon = datetime.now(UTC) + timedelta(seconds=0.2)
        scheduled = TaskRequest("soak.works", {}, priority=dice.choice(PRIORITIES), run_at=soon)
        slow = TaskRequest("soak.works", {"seconds": 0.07}, priority=dice.choice(PRIORITIES))
        return [*quick, *slower, scheduled, slow]

    @staticmethod
    def _request(dice: random.Random, name: str) -> TaskRequest:
        return TaskRequest(name, {}, priority=dice.choice(PRIORITIES))

    def submit(self, requests: Sequence[TaskRequest]) -> list[int]:
        """Submit, and write down what was accepted."""
        ids = []
        for request, answer in zip(requests, self.stack.system.queue.submit_many(requests), strict=True):
            assert isinstance(answer, Submitted), answer
            self.accepted[answer.task_id] = request.name
            ids.append(answer.task_id)
        return ids

    def cancel(self, task_ids: Sequence[int]) -> None:
        """Ask for cancels; a task that has ended meanwhile refuses, which is right."""
        for task_id in task_ids:
            self.cancelled.add(task_id)
            try:
                self.stack.system.queue.cancel(task_id)
            except TaskError:
                continue

    def submit_by_victim(self, requests: Sequence[TaskRequest]) -> Path:
        """Have a process submit that may die on its way. Returns the file of what it was answered."""
        path = self.folder / f"accepted-{next(self._numbers)}"
        tasks = [{"name": r.name, "payload": r.payload, "priority": r.priority} for r in requests]
        self.ask("submit", tasks=tasks, accepted=str(path))
        return path

    def stream(self, requests: Sequence[TaskRequest], *, every_seconds: float) -> Stream:
        """Have a process submit these again and again, until the stream is stopped."""
        path = self.folder / f"accepted-{next(self._numbers)}"
        stop = path.with_suffix(".stop")
        tasks = [{"name": r.name, "payload": r.payload, "priority": r.priority} for r in requests]
        pid = self.ask("stream", tasks=tasks, accepted=str(path), stop=str(stop), seconds=every_seconds)
        return Stream(pid, path, stop)

    def note_accepted(self, path: Path) -> list[int]:
        """Take over what a submitter was answered."""
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        fresh = {int(line.split()[0]): line.split()[1] for line in lines if line != "all"}
        self.accepted |= fresh
        return list(fresh)

    def adopt_strangers(self) -> list[int]:
        """Rows whose submitter died before it was told: stored, so they must end once like all others."""
        fresh = self.oracle.strangers(set(self.accepted))
        self.accepted |= fresh
        return list(fresh)

    # --- waiting ------------------------------------------------------------------------------------------

    def wait_until_ended(self, task_ids: Sequence[int], *, deadline_seconds: float) -> list[Any]:
        """Wait; returns the rows that are still open at the deadline."""
        still_open = list(self.oracle.open_tasks(task_ids))

        def all_ended() -> bool:
            still_open[:] = self.oracle.open_tasks([row.id for row in still_open])
            return not still_open

        happens(all_ended, deadline_seconds=deadline_seconds)
        return still_open

    def running(self) -> list[int]:
        """Tasks whose handler has started and not ended, by its own account, and that hold a claim."""
        self.ledger.look()
        started = [task_id for task_id, lines in self.ledger.of_task.items() if lines[-1].word == "S"]
        return [row.id for row in self.oracle.open_tasks(started) if row.status == "PROCESSING"]

    def judge(self, task_ids: Sequence[int] | None = None) -> Verdict:
        """The oracle's verdict over these tasks, or all that were accepted."""
        names = self.accepted if task_ids is None else {i: self.accepted[i] for i in task_ids}
        return self.oracle.judge(names, cancelled=self.cancelled)

    def leftovers(self, *, deadline_seconds: float) -> dict[str, int]:
        """What still lies about once everything has ended: open rows, queued tickets, tickets in flight."""
        happens(lambda: not self._lying_about(), deadline_seconds=deadline_seconds)
        return self._lying_about()

    def _lying_about(self) -> dict[str, int]:
        statuses = self.oracle.statuses()
        found = {f"{status} rows": n for status, n in statuses.items() if status in OPEN}
        client = self.redis.client()
        for key in client.scan_iter(match="rq:queue:*", count=1000):
            found[key.decode()] = client.llen(key)
        for key in client.scan_iter(match="twintrack:*inflight:*", count=1000):
            found[f"{key.decode()}: {client.lrange(key, 0, 9)}"] = client.llen(key)
        return {name: count for name, count in found.items() if count}


OPEN = ("SCHEDULED", "QUEUED", "DISPATCHED", "PROCESSING", "QUARANTINED")


def end_process(pid: int, number: int = signal.SIGKILL) -> None:
    """Send a signal and wait until the process is gone. Only for what this installation started."""
    try:
        process = psutil.Process(pid)
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return
    wait_until(lambda: not alive(process), deadline_seconds=60, what=f"process {pid} to end")


def gone(pid: int) -> bool:
    """True once the process has ended."""
    try:
        return not alive(psutil.Process(pid))
    except psutil.NoSuchProcess:
        return True


def tree_of(pid: int) -> list[psutil.Process]:
    """The process and all below it that live."""
    try:
        leader = psutil.Process(pid)
        return [leader, *leader.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _write(stream: IO[str] | None, line: str) -> None:
    assert stream is not None
    stream.write(line + "\n")
    stream.flush()
