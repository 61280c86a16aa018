"""Twintrack under measurement: submit, drain and idle latency, with what they cost.

The clock of a drain runs from the moment the queues open, before workers that have started and wait, until
every row says COMPLETED. While it runs, nothing is asked of the measured: the tasks' stamps say when the last
one has begun, and only then are rows looked at.
"""

from __future__ import annotations

import gc
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.system import System, build_system
from app.tasks.model import Status
from app.tasks.store.queries import Filter
from app.tasks.submission import TaskRequest
from benchmarks.arena import Arena, Site
from benchmarks.counters import redis_calls
from benchmarks.peers import PAYLOAD
from benchmarks.processes import cpu_seconds, memory, tree_of
from benchmarks.results import percentile
from benchmarks.stamps import Stamps
from benchmarks.tasks import NAME
from config import Config
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[1]
BULK = 10_000
DRAIN_DEADLINE_SECONDS = 300
WORKERS_DEADLINE_SECONDS = 30
SETTLE_SECONDS = 1.0
OPEN = (Status.PROCESSING, Status.QUEUED, Status.DISPATCHED)
IDLE_SETTLE_SECONDS = 6.0
IDLE_SECONDS = (0.1, 0.6)  # around the pauses of a poller, so that no step of it is favoured

# Which way the tasks take. "beside": by the database, while Redis is there to ring for its pollers.
SETTINGS_OF_TRACK: dict[str, dict[str, Any]] = {
    "redis": {"RQ_ENABLED": True},
    "database": {"RQ_ENABLED": False},
    "beside": {"RQ_HYBRID_MODE": True, "RQ_ROLLOUT_PERCENT": 0},
}


@dataclass(frozen=True, slots=True)
class Installation:
    """A system over fresh servers' places, and the settings that its workers are started with."""

    arena: Arena
    site: Site
    system: System
    variables: dict[str, str]

    @property
    def stamps(self) -> Stamps:
        return Stamps(self.site.folder)


@contextmanager
def installation(
    arena: Arena, kind: str, *, track: str = "redis", batch_size: int = 100
) -> Iterator[Installation]:
    """Twintrack, freshly installed; the tables are there, no worker runs."""
    site = arena.site(kind)
    settings: dict[str, Any] = {
        "DATABASE_URL": site.database_url,
        "RQ_REDIS_URL": site.redis_url,
        "VAR_DIR": str(site.folder),
        "RQ_BATCH_SIZE": batch_size,
        "LOG_LEVEL": "error",
    } | SETTINGS_OF_TRACK[track]
    config = Config.for_tests(**settings, TASK_MODULES=("benchmarks.tasks",))
    system = build_system(config)
    system.prepare()
    gc.collect()
    gc.freeze()  # as the web process does once it has loaded everything
    variables = {name: str(value) for name, value in settings.items()} | {"TASK_MODULES": "benchmarks.tasks"}
    try:
        yield Installation(arena, site, system, variables)
    finally:
        system.close()


@contextmanager
def pool(system: System, variables: Mapping[str, str], *, workers: int) -> Iterator[int]:
    """So many workers of each track, started with these settings, that have announced themselves and found
    nothing to do; gives the parent's id."""
    command = [sys.executable, "-m", "workers", "--workers", str(workers), "--bound-to", str(os.getpid())]
    environment = {"PATH": os.defpath, "PYTHONPATH": str(ROOT), **variables}
    process = subprocess.Popen(command, cwd=system.config.VAR_DIR, env=environment)
    expected = processes_of(system, workers)
    try:
        wait_until(
            lambda: len(system.store.registry.workers()) >= expected,
            deadline_seconds=WORKERS_DEADLINE_SECONDS,
            what=f"{expected} workers to announce themselves",
        )
        time.sleep(SETTLE_SECONDS)
        yield process.pid
    finally:
        process.terminate()
        process.wait(60)


def processes_of(system: System, workers: int) -> int:
    """How many worker processes a pool of this size has: each track with workers of its own has so many."""
    return workers * (system.config.RQ_ENABLED + system.config.pollers_enabled)


# --- submit ---------------------------------------------------------------------------------------------


def submit_one_by_one(on: Installation, count: int, *, threads: int = 1) -> float:
    """Submissions a second by `submit`, each thread one after the other."""
    share = count // threads

    def send() -> None:
        for _ in range(share):
            on.system.queue.submit(TaskRequest(NAME, PAYLOAD))

    with ThreadPoolExecutor(threads) as executor:
        began = time.perf_counter()
        for done in [executor.submit(send) for _ in range(threads)]:
            done.result()
        return share * threads / (time.perf_counter() - began)


def submit_in_bulk(on: Installation, count: int) -> float:
    """Submissions a second by `submit_many`, 10,000 at a time."""
    began = time.perf_counter()
    for start in range(0, count, BULK):
        requests = [TaskRequest(NAME, PAYLOAD) for _ in range(min(BULK, count - start))]
        on.system.queue.submit_many(requests)
    return count / (time.perf_counter() - began)


# --- drain ----------------------------------------------------------------------------------------------


def drain(on: Installation, count: int, *, workers: int) -> dict[str, float]:
    """Tasks a second, and what a task costs: seconds of CPU per 1,000, calls and statements; megabytes of
    the whole pool by its workers."""
    on.system.queue.pause()
    submit_in_bulk(on, count)
    with pool(on.system, on.variables, workers=workers) as parent:
        before = _Costs.now(on, parent)
        opened = time.monotonic_ns()
        on.system.queue.resume()
        on.stamps.wait_for(count, deadline_seconds=DRAIN_DEADLINE_SECONDS)
        wait_until(
            lambda: not any(on.system.store.queries.page(Filter(status=status), limit=1) for status in OPEN),
            deadline_seconds=WORKERS_DEADLINE_SECONDS,
            what="the last tasks to be recorded",
        )
        seconds = (time.monotonic_ns() - opened) / 1e9
        after = _Costs.now(on, parent)
        _verify(on, count)
        used = memory(tree_of(parent))
    return {
        "drain": count / seconds,
        "pss": used.pss / workers,
        "uss": used.uss / workers,
    } | after.per_task_since(before, count)


def _verify(on: Installation, count: int) -> None:
    wait_until(  # the count of ended tasks may be some seconds old
        lambda: sum(on.system.store.queries.counts()[Status.COMPLETED].values()) == count,
        deadline_seconds=WORKERS_DEADLINE_SECONDS,
        what=f"all {count} tasks to be counted as COMPLETED",
    )


@dataclass(frozen=True, slots=True)
class _Costs:
    """Counters that only rise."""

    workers_cpu: float
    server_cpu: float
    redis_cpu: float
    redis_commands: int
    redis_scripts: int
    statements: float | None

    @classmethod
    def now(cls, on: Installation, parent: int) -> _Costs:
        calls = redis_calls(on.site.redis_url)
        return cls(
            workers_cpu=cpu_seconds(tree_of(parent)),
            server_cpu=on.arena.server_cpu(on.site.kind),
            redis_cpu=on.arena.redis_cpu(),
            redis_commands=calls.commands,
            redis_scripts=calls.scripts,
            statements=on.arena.statements(on.site),
        )

    def since(self, before: _Costs) -> dict[str, float]:
        """What was spent: CPU in seconds. Without statements where nobody counts them."""
        spent = {
            "cpu": self.workers_cpu - before.workers_cpu,
            "server_cpu": self.server_cpu - before.server_cpu,
            "redis_cpu": self.redis_cpu - before.redis_cpu,
            "redis_commands": float(self.redis_commands - before.redis_commands),
            "redis_scripts": float(self.redis_scripts - before.redis_scripts),
        }
        if self.statements is not None and before.statements is not None:
            spent["statements"] = self.statements - before.statements
        return spent

    def per_task_since(self, before: _Costs, count: int) -> dict[str, float]:
        """As `since`, for each task; CPU for 1,000 of them."""
        factors = {"cpu": 1000, "server_cpu": 1000, "redis_cpu": 1000}
        return {name: value * factors.get(name, 1) / count for name, value in self.since(before).items()}


# --- idle -----------------------------------------------------------------------------------------------


def idle(on: Installation, seconds: float, *, workers: int) -> dict[str, float]:
    """What workers that have nothing to do cost, the pool's sweeper included: CPU seconds, statements and
    Redis commands, each per minute and worker."""
    with pool(on.system, on.variables, workers=workers) as parent:
        time.sleep(IDLE_SETTLE_SECONDS)
        before, began = _Costs.now(on, parent), time.monotonic()
        time.sleep(seconds)
        after, minutes = _Costs.now(on, parent), (time.monotonic() - began) / 60
    spent = after.since(before)
    wanted = ("cpu", "statements", "redis_commands")
    share = minutes * processes_of(on.system, workers)
    return {f"idle_{name}": spent[name] / share for name in wanted if name in spent}


# --- latency --------------------------------------------------------------------------------------------


def latency(on: Installation, count: int, *, workers: int) -> dict[str, float]:
    """Milliseconds from the call of `submit` to the task's first line, on workers that have been idle for a
    random while."""
    found = []
    with pool(on.system, on.variables, workers=workers):
        for number in range(count + 1):
            time.sleep(random.uniform(*IDLE_SECONDS))
            began = time.monotonic_ns()
            on.system.queue.submit(TaskRequest(NAME, PAYLOAD))
            on.stamps.wait_for(number + 1, deadline_seconds=30)
            found.append((on.stamps.since(number)[0][0] - began) / 1e6)
    found = found[1:]  # the first one pays for connections
    return {"p50": percentile(found, 50), "p99": percentile(found, 99)}
