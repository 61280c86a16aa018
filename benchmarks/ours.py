"""Twintrack under measurement: submit one by one, submit in bulk, drain with two worker processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.system import System, build_system
from app.tasks.model import Status
from app.tasks.submission import TaskRequest
from config import Config
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[1]
PAYLOAD = {"text": "y" * 188}  # 200 bytes of JSON
DRAIN_DEADLINE_SECONDS = 300


@contextmanager
def installation(folder: Path, database_url: str, redis_url: str, *, redis_track: bool) -> Iterator[System]:
    """A fresh system over these servers."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"DATABASE_URL": database_url, "RQ_REDIS_URL": redis_url, "VAR_DIR": str(folder)}
    config = Config.for_tests(**settings, RQ_ENABLED=redis_track, LOG_LEVEL="error")
    system = build_system(config)
    system.prepare()
    yield system
    system.close()


def submit_one_by_one(system: System, count: int) -> float:
    """Submissions a second, one after the other, from one thread."""
    began = time.perf_counter()
    for _ in range(count):
        system.queue.submit(TaskRequest("test.noop", PAYLOAD))
    return count / (time.perf_counter() - began)


def submit_in_bulk(system: System, count: int) -> float:
    """Submissions a second by `submit_many`, 10,000 at a time."""
    began = time.perf_counter()
    for start in range(0, count, 10_000):
        requests = [TaskRequest("test.noop", PAYLOAD) for _ in range(min(10_000, count - start))]
        system.queue.submit_many(requests)
    return count / (time.perf_counter() - began)


def drain(system: System, count: int, *, workers: int) -> float:
    """Tasks a second from the moment the queues open until all are COMPLETED in their rows.

    The worker processes have started and wait before the clock starts.
    """
    system.queue.pause()
    submit_in_bulk(system, count)
    pool = _start_pool(system, workers)
    try:
        wait_until(
            lambda: len(system.store.registry.workers()) >= workers,
            deadline_seconds=30,
            what=f"{workers} workers to announce themselves",
        )
        began = time.perf_counter()
        system.queue.resume()
        wait_until(
            lambda: sum(system.store.queries.counts()[Status.COMPLETED].values()) >= count,
            deadline_seconds=DRAIN_DEADLINE_SECONDS,
            what=f"{count} tasks to be completed",
        )
        return count / (time.perf_counter() - began)
    finally:
        pool.terminate()
        pool.wait(60)


def _start_pool(system: System, workers: int) -> subprocess.Popen[bytes]:
    config = system.config
    names = ("DATABASE_URL", "RQ_REDIS_URL", "VAR_DIR", "RQ_ENABLED", "LOG_LEVEL")
    environment = {"PATH": os.defpath} | {name: str(getattr(config, name)) for name in names}
    command = [sys.executable, "-m", "workers", "--workers", str(workers), "--bound-to", str(os.getpid())]
    return subprocess.Popen(command, cwd=ROOT, env=environment)
