"""A whole Twintrack for a test: settings, a pool of real worker processes, and a ledger as the oracle.

The ledger is a file to which the handler itself appends a line per start: it shares no table with the
system that it judges.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from app.system import System, build_system
from app.tasks.model import PRIORITIES, Priority, Status
from app.tasks.submission import TaskRequest
from config import Config
from tests.prepared import put_tables
from tests.server_process import alive as lives
from tests.server_process import free_port
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
# What a child process may see of ours: no setting of the machine that runs the tests.
KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV")


@dataclass(frozen=True, slots=True)
class Web:
    """A running web app."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path

    def answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health/live", timeout=10).status_code == 200
        except httpx.TransportError:
            return False

    def output(self) -> str:
        return self.log.read_text(errors="replace")[-4000:] if self.log.exists() else ""


class Stack:
    """One installation: its settings, the processes started for it, and its ledger."""

    def __init__(self, folder: Path, database_url: str, redis_url: str | None, **settings: Any) -> None:
        self.folder = folder
        self.ledger_file = folder / "pictures" / "run.ledger"
        self.ledger_file.parent.mkdir(parents=True, exist_ok=True)
        self.settings: dict[str, Any] = {
            "DATABASE_URL": database_url,
            "RQ_REDIS_URL": redis_url,
            "VAR_DIR": str(folder),
            "RQ_RETRY_BASE_SECONDS": 0.2,
            "LOG_LEVEL": "info",
        } | settings
        self.config = Config.for_tests(**self.settings)
        self.system: System = build_system(self.config)
        put_tables(database_url)
        self.system.prepare()
        self._processes: list[subprocess.Popen[bytes]] = []

    # --- processes ------------------------------------------------------------------------------------

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in KEPT if name in os.environ}
        return kept | {name: str(value) for name, value in self.settings.items() if value is not None}

    def start(
        self, *command: str, log_name: str, settings: dict[str, Any] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a Python command of the project in this installation's environment, with more settings."""
        more = {key: str(value) for key, value in (settings or {}).items()}
        with (self.folder / f"{log_name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, *command],
                cwd=ROOT,
                env=self.environment | more,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._processes.append(process)
        return process

    def start_pool(self, *, workers: int = 2) -> subprocess.Popen[bytes]:
        """`python -m workers`, until all its workers have announced themselves."""
        before = {row.worker_id for row in self.workers()}  # the dead among them may vanish meanwhile
        expected = workers * (int(self.config.RQ_ENABLED) + int(self.config.pollers_enabled))
        process = self.start(
            "-m", "workers", "--workers", str(workers), "--bound-to", str(os.getpid()), log_name="pool"
        )
        wait_until(
            lambda: len({row.worker_id for row in self.workers()} - before) >= expected,
            deadline_seconds=60,
            what=lambda: f"{expected} workers to announce themselves; log:\n{self.log('pool')}",
        )
        return process

    def start_web(self, **settings: Any) -> Web:
        """`python web_app.py` on a free port, until it answers."""
        port = free_port()
        name = f"web-{port}"
        process = self.start("web_app.py", log_name=name, settings={"PORT": port} | settings)
        web = Web(process, f"http://127.0.0.1:{port}", self.folder / f"{name}.log")
        wait_until(
            web.answers, deadline_seconds=60, what=lambda: f"the web app to answer; log:\n{web.output()}"
        )
        return web

    def workers(self) -> list[Any]:
        return self.system.store.registry.workers(silent_seconds=3600)

    def log(self, name: str) -> str:
        path = self.folder / f"{name}.log"
        return path.read_text(errors="replace")[-4000:] if path.exists() else ""

    def close(self) -> None:
        for process in self._processes:
            kill_tree(process)
        self.system.close()

    # --- tasks ----------------------------------------------------------------------------------------

    def ledger_request(self, **options: Any) -> TaskRequest:
        """A task that writes its start into the ledger."""
        names = ("priority", "user_id", "idempotency_key", "run_at")
        of_task = {name: options.pop(name) for name in names if name in options}
        return TaskRequest("test.ledger", {"path": str(self.ledger_file)} | options, **of_task)

    def starts(self) -> Counter[int]:
        """How often each task id was started, by the handlers' own account."""
        if not self.ledger_file.exists():
            return Counter()
        return Counter(int(line.split()[0]) for line in self.ledger_file.read_text().splitlines())

    def pids(self) -> set[int]:
        """The worker processes that started tasks, by the handlers' own account."""
        return {int(line.split()[2]) for line in self.ledger_file.read_text().splitlines()}

    def order_of_starts(self) -> list[int]:
        return [int(line.split()[0]) for line in self.ledger_file.read_text().splitlines()]

    def orders_of_starts(self) -> dict[int, list[int]]:
        """The same by process."""
        found: dict[int, list[int]] = {}
        for line in self.ledger_file.read_text().splitlines():
            task_id, _, process, *_ = line.split()
            found.setdefault(int(process), []).append(int(task_id))
        return found

    def count(self, *statuses: Status) -> int:
        counts = self.system.store.queries.counts()
        return sum(sum(counts[status].values()) for status in statuses)

    def wait_until_ended(self, total: int, *, deadline_seconds: float) -> None:
        """Until `total` tasks have ended, whatever their end."""
        ended = (Status.COMPLETED, Status.FAILED, Status.CANCELLED)
        wait_until(
            lambda: self.count(*ended) >= total,
            deadline_seconds=deadline_seconds,
            what=lambda: f"{total} tasks to end, now {self.counts()}; log:\n{self.log('pool')}",
        )

    def counts(self) -> dict[str, int]:
        counts = self.system.store.queries.counts()
        return {status.value: sum(by.values()) for status, by in counts.items() if sum(by.values())}

    def lengths(self) -> dict[Priority, int]:
        assert self.system.tickets is not None
        return self.system.tickets.lengths()

    def waiting_by_redis(self) -> dict[Priority, int]:
        dispatched = self.system.store.queries.counts()[Status.DISPATCHED]
        return {priority: dispatched[priority] for priority in PRIORITIES}


def kill_tree(process: subprocess.Popen[bytes]) -> None:
    """kill -9 for a process and everything below it."""
    for child in children_of(process.pid):
        _kill(child)
    process.kill()
    process.wait()


def children_of(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def alive(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Those that still run; a zombie that waits for its parent does not."""
    return list(filter(lives, processes))


def _kill(process: psutil.Process) -> None:
    try:
        process.send_signal(signal.SIGKILL)
    except psutil.NoSuchProcess:
        return
