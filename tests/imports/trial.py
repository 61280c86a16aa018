"""One trial: a legacy queue in use is imported, and a ledger outside all tables says what became of it.

Beside the import live an old worker (it selects, then updates, as such workers do), our own workers, an
application that inserts and cancels rows of the old table, and submissions of native tasks. The import itself
is killed once, and resumed.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import DBAPIError

from app.tasks.database import Database
from app.tasks.model import Status
from app.tasks.submission import TaskRequest
from app.transfer.legacy.mapping import read_mapping
from app.transfer.verification.imports import ImportVerifier
from app.transfer.verification.report import CLEAN
from config import ROOT
from tests.acceptance.stack import Stack
from tests.imports import handlers
from tests.imports.planting import Planted
from tests.legacy_tables import CaptionQueue
from tests.waiting import wait_until

REFUSAL = "this row was moved to another queue"
IMPORT_COMMAND = "scripts/migration/migrate_database_tasks_to_rq.py"
SUBMITTERS, SUBMIT_EVERY_SECONDS = 4, 0.005
KILLED_BATCH_ROWS = 50  # so that the first batches come before a small trial's rows are gone
MODULES = "app.handlers,tests.imports.handlers"


@dataclass(slots=True)
class Figures:
    """What a trial measured."""

    rows: int = 0
    import_seconds: float = 0.0
    imported: int = 0
    quarantined: int = 0
    by_old_worker: int = 0
    refused_to_old_worker: int = 0
    inserted_meanwhile: int = 0
    cancelled_meanwhile: int = 0
    submissions: int = 0
    submissions_per_second: float = 0.0
    submit_p95_ms: float = 0.0
    reasons: dict[str, int] = field(default_factory=dict)


class Beside(threading.Thread):
    """Something that goes on until it is stopped, each step as long after the last as that one says, in
    seconds. What it raises is raised by `stop`."""

    def __init__(self, step: Callable[[], float]) -> None:
        super().__init__(daemon=True)
        self._step = step
        self._stopping = threading.Event()
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            while not self._stopping.wait(self._step()):
                pass
        except BaseException as error:  # noqa: BLE001 - raised again where somebody looks
            self._error = error

    def stop(self) -> None:
        self._stopping.set()
        self.join(timeout=60)
        if self._error is not None:
            raise self._error


class Trial:
    """`stack` has its database and Redis; `url` is the database's. `theirs`: where the old table is, if it is
    in another one."""

    def __init__(
        self, stack: Stack, url: str, *, rows: int, old_shape: bool, theirs: str | None = None
    ) -> None:
        self.stack = stack
        self._theirs = theirs
        waits = {"timeout": 60} if "sqlite" in (theirs or url) else {}
        self._engine: Engine = create_engine(theirs or url, connect_args=waits)
        self.legacy = CaptionQueue(self._engine, old_shape=old_shape)
        self.planted = Planted(self.legacy)
        self.figures = Figures(rows=rows)
        self._ledger = stack.folder / "trial.ledger"
        stack.settings |= {handlers.LEDGER: str(self._ledger), "PYTHONPATH": str(ROOT)}
        if theirs is not None:
            stack.settings |= {"CAPTIONS_CONNECTION_STRING": theirs}
        self._mapping = self._write_mapping(stack.folder)
        self._cancelled: set[str] = set()
        self._latencies: list[float] = []
        self._together = threading.Lock()
        self._due = 0.0  # of the next submission, whoever makes it
        self._natives: list[int] = []
        self._read: deque[str] = deque()

    def _write_mapping(self, folder: Path) -> Path:
        shipped = (ROOT / "mappings" / "caption_tasks.toml").read_text()
        path = folder / "trial.toml"
        said = shipped.replace('task = "generate_captions"', 'task = "trial.caption"')
        path.write_text(said if self._theirs is None else f'database = "captions"\n{said}')
        return path

    def close(self) -> None:
        self.legacy.drop()
        self._engine.dispose()

    # --- the course -----------------------------------------------------------------------------------

    def run(self, *, pool_workers: int, deadline_seconds: float) -> Figures:
        """Raises `AssertionError` for a row that was lost, run twice, or named wrongly."""
        self.legacy.put(self.planted.rows(self.figures.rows))
        self.stack.start_pool(workers=pool_workers)
        beside = [Beside(self._old_worker_step), Beside(self._application_step)]
        self._due = time.perf_counter()
        beside += [Beside(self._submit_step) for _ in range(SUBMITTERS)]
        for one in beside:
            one.start()
        began = time.monotonic()
        self._kill_an_import()
        told = self._start_import("--resume", "--batch-size", "10000", "--rate", "1000000")
        self.figures.import_seconds = time.monotonic() - began
        for one in beside[1:]:
            one.stop()
        self.figures.submissions_per_second = len(self._natives) / (time.monotonic() - began)
        self.figures.imported, self.figures.quarantined = self._totals(told)
        again = self._start_import()
        self.figures.imported += self._totals(again)[0]
        self.figures.quarantined += self._totals(again)[1]
        self._wait_until_done(deadline_seconds)
        beside[0].stop()
        self._judge()
        return self.figures

    def _kill_an_import(self) -> None:
        """Start it, slowly, and kill it once it has moved some rows."""
        options = ("--alter", "--install-guard", "--batch-size", str(KILLED_BATCH_ROWS), "--rate", "400")
        command = (IMPORT_COMMAND, "--source", str(self._mapping), *options)
        process = self.stack.start(*command, log_name="killed-import")
        wait_until(
            lambda: self._count_tasks() >= KILLED_BATCH_ROWS or process.poll() is not None,
            deadline_seconds=300,
            what=lambda: f"the first rows to be moved; log:\n{self.stack.log('killed-import')}",
        )
        process.kill()
        assert process.wait() == -signal.SIGKILL, self.stack.log("killed-import")

    def _count_tasks(self) -> int:
        query = "SELECT COUNT(*) FROM tasks WHERE idempotency_key LIKE 'legacy:%'"
        return int(self._ours(query)[0][0])

    def _ours(self, query: str) -> list[Any]:
        """Of our tables, by plain SQL."""
        return self.stack.system.store.database.read(lambda on: list(on.execute(text(query))))

    def _start_import(self, *options: str) -> dict[str, Any]:
        command = [sys.executable, IMPORT_COMMAND, "--source", str(self._mapping), "--json", *options]
        done = subprocess.run(
            command, cwd=ROOT, env=self.stack.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode in (0, 1), f"{done.stdout}\n{done.stderr}"
        told: dict[str, Any] = json.loads(done.stdout)
        return told

    @staticmethod
    def _totals(told: dict[str, Any]) -> tuple[int, int]:
        assert told["state"] == "completed", told
        return told["totals"]["marked"], told["totals"]["quarantined"]

    def _wait_until_done(self, deadline_seconds: float) -> None:
        active = (Status.SCHEDULED, Status.QUEUED, Status.DISPATCHED, Status.PROCESSING)
        wait_until(
            lambda: not (self.stack.count(*active) or self._running_at_the_old() or self._untold()),
            deadline_seconds=deadline_seconds,
            what=lambda: f"everything to end, now {self.stack.counts()}; log:\n{self.stack.log('pool')}",
        )

    def _untold(self) -> int:
        return int(self._ours("SELECT COUNT(*) FROM legacy_ends")[0][0])

    def _running_at_the_old(self) -> int:
        query = f"SELECT COUNT(*) FROM {self.legacy.table} WHERE status = 'RUNNING'"
        return int(self.legacy.execute(query)[0][0])

    # --- what goes on beside it -------------------------------------------------------------------------

    def _old_worker_step(self) -> float:
        """Take the next of the rows that it read, by a blind update, run it, and end it; read more when there
        are none. What it read may be an import's by then."""
        if not self._read:
            query = f"SELECT id FROM {self.legacy.table} WHERE status = 'QUEUED' ORDER BY created_at LIMIT 20"
            self._read.extend(row.id for row in self.legacy.execute(query))
        elif self._take(key := self._read.popleft()):
            handlers.write(str(self._ledger), key, "old")
            self.legacy.set(key, status="COMPLETED", completed_at=_now())
            self.figures.by_old_worker += 1
        return 0.001

    def _take(self, key: str) -> bool:
        try:
            return bool(self.legacy.set(key, status="RUNNING", started_at=_now()))
        except DBAPIError as error:
            self.figures.refused_to_old_worker += REFUSAL in str(error)
            return False

    def _application_step(self) -> float:
        """Insert some rows, cancel one now and then."""
        new = list(self.planted.rows(5, created_at=_now()))
        self.legacy.put(new)
        self.figures.inserted_meanwhile += len(new)
        key = next((row["id"] for row in new if row["id"] in self.planted.sound), None)
        statement = text(
            f"UPDATE {self.legacy.table} SET status = 'CANCELLED' WHERE id = :key AND status = 'QUEUED'"
        )
        with self._engine.begin() as on:
            if key is not None and on.execute(statement, {"key": key}).rowcount:
                self._cancelled.add(key)
        self.figures.cancelled_meanwhile = len(self._cancelled)
        return 0.1

    def _submit_step(self) -> float:
        began = time.perf_counter()
        self._natives.append(self.stack.system.queue.submit(TaskRequest("test.noop", {})).task_id)
        ended = time.perf_counter()
        self._latencies.append(ended - began)
        with self._together:
            self._due += SUBMIT_EVERY_SECONDS
            return max(0.0, self._due - ended)

    # --- the judgement ----------------------------------------------------------------------------------

    def _judge(self) -> None:
        starts = Counter(line.split(" ", 1)[1] for line in self._ledger.read_text().splitlines())
        rows = self.legacy.all()
        tasks = {row.idempotency_key.split(":", 2)[2]: row for row in self._task_rows()}
        to_run = self.planted.sound - self._cancelled
        # blanks at the end of a key are the ledger's, too
        assert {key for key in to_run if starts[key] == 0} == set(), "lost"
        assert {key: times for key, times in starts.items() if times > 1} == {}, "run twice"
        assert {key for key in self._cancelled if starts[key]} == set(), "cancelled and run"
        assert {key for key in to_run if rows[key]["status"] != "COMPLETED"} == set(), "not told its end"
        self._judge_named(starts, tasks)
        assert self.stack.count(Status.COMPLETED) == len(self._natives) + sum(
            1 for key in to_run if key in tasks
        )
        theirs = None if self._theirs is None else Database(self._theirs)
        ours = self.stack.system.store.database
        report = ImportVerifier(ours, read_mapping(self._mapping), theirs=theirs).run()
        assert report.exit_code == CLEAN, report.as_text()
        self.figures.submissions = len(self._natives)
        self.figures.submit_p95_ms = sorted(self._latencies)[int(len(self._latencies) * 0.95)] * 1000

    def _judge_named(self, starts: Counter[str], tasks: dict[str, Any]) -> None:
        """A row with a fault is in quarantine under its class, or an old worker had it before."""
        for key, reason in self.planted.named.items():
            task = tasks.get(key)
            if task is None:
                assert starts[key] == 1, f"{key} is neither named nor run: {reason}"
                continue
            assert (key, task.status, starts[key]) == (key, "QUARANTINED", 0)
            assert task.error.startswith(reason), f"{key} is named {task.error!r}, not {reason!r}"
        named = {key: row for key, row in tasks.items() if row.status == "QUARANTINED"}
        assert set(named) <= set(self.planted.named)
        assert len(named) == self.figures.quarantined
        self.figures.reasons = dict(Counter(row.error.split(":")[0] for row in named.values()))

    def _task_rows(self) -> list[Any]:
        return self._ours(
            "SELECT idempotency_key, status, error FROM tasks WHERE idempotency_key LIKE 'legacy:%'"
        )


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")


def settings() -> dict[str, Any]:
    """What a trial's installation is set to: both tracks, half of the tasks on each."""
    return {
        "TASK_MODULES": MODULES,
        "RQ_HYBRID_MODE": "true",
        "RQ_ROLLOUT_PERCENT": 50,
    }
