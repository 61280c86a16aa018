"""`python -m benchmarks.fan_out`: a fan-out with 1, 3, 5 and 10 workers, beside the ideal,
and how many of its children run at once under a limit.

Each table sleeps, as one that waits for its databases does: so the machine's cores are no bound. Every
measurement has its own run, the numbers of workers in turn in each round.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from app.system import System, build_system
from app.tasks.model import ACTIVE, Status
from app.tasks.submission import TaskRequest
from benchmarks import speed_up
from benchmarks.fan_out_tasks import POOL, RUN, TAG
from benchmarks.processes import load_average
from config import Config
from tests.servers import MariaDbServer, RedisServer
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs" / "fan-out.md"
SAVED = ROOT / "docs" / "fan-out.json"
WORKERS = (1, 3, 5, 10)
LIMITS = {"tag": 3, "pool": 4}
DEADLINE_SECONDS = 600.0

console = Console(width=max(110, Console().width), highlight=False)


@click.command(help=__doc__)
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--tables", type=click.IntRange(1), default=20, show_default=True)
@click.option("--seconds", type=click.FloatRange(0.01), default=1.0, show_default=True, help="Of one table.")
@click.option("--output", type=click.Path(path_type=Path), default=Path("var/bench-fan-out.json"))
@click.option("--docs", is_flag=True, help="Write the figures into docs/fan-out.md.")
def main(rounds: int, tables: int, seconds: float, output: Path, docs: bool) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # by way of every `finally`: servers, workers
    figures: dict[str, Any] = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "load_at_start": round(load_average(), 2),
        "rounds": rounds,
        "tables": tables,
        "seconds": seconds,
        "speed_up": {str(workers): {way: [] for way in speed_up.WAYS} for workers in WORKERS},
        "limits": {kind: {"at_most": n, "at_once": [], "took": []} for kind, n in LIMITS.items()},
    }
    with MariaDbServer(durable=True) as database, RedisServer() as redis, database.database() as url:
        for number in range(rounds):
            console.print(f"round {number + 1} of {rounds}")
            _round(url, redis.url, figures)
    _save(output, figures)
    if docs:
        _save(SAVED, figures)
        DOCUMENT.write_text(speed_up.filled(DOCUMENT, SAVED))
    for table in speed_up.tables_of(figures):
        console.print(table.for_terminal())
    console.print(speed_up.about(figures).replace("**", ""))
    broken = speed_up.exceeded(figures)
    for kind in broken:
        console.print(f"The limit of the {kind} was NOT HELD.")
    sys.exit(1 if broken else 0)


def _save(path: Path, figures: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(figures, indent=1) + "\n")


def _round(database_url: str, redis_url: str, figures: dict[str, Any]) -> None:
    payload = {"tables": figures["tables"], "seconds": figures["seconds"]}
    with _installation(database_url, redis_url) as system:
        for workers in WORKERS:
            for way in speed_up.WAYS:
                with _workers(system, workers, pool=POOL if way == "pool" else None):
                    spans = _spans(system, payload | {"pool": POOL if way == "pool" else None})
                figures["speed_up"][str(workers)][way].append(_took(spans))
        for kind, at_most in LIMITS.items():
            pool = POOL if kind == "pool" else None
            with _limited(system, kind, at_most), _workers(system, max(WORKERS), pool=pool):
                spans = _spans(system, payload | {"pool": pool, "tag": TAG if kind == "tag" else None})
            figures["limits"][kind]["at_once"].append(speed_up.most_at_once(spans))
            figures["limits"][kind]["took"].append(_took(spans))


def _took(spans: list[speed_up.Span]) -> float:
    return round(max(end for _, end in spans) - min(begin for begin, _ in spans), 3)


@contextmanager
def _installation(database_url: str, redis_url: str) -> Iterator[System]:
    with tempfile.TemporaryDirectory() as folder:
        settings = {"DATABASE_URL": database_url, "RQ_REDIS_URL": redis_url, "VAR_DIR": folder}
        modules = "app.handlers,benchmarks.fan_out_tasks"
        system = build_system(Config.for_tests(**settings, TASK_MODULES=modules, LOG_LEVEL="error"))
        try:
            system.prepare()
            system.store.pools.open(POOL)
            yield system
        finally:
            system.close()


@contextmanager
def _limited(system: System, kind: str, at_most: int) -> Iterator[None]:
    def limit(number: int | None) -> None:
        if kind == "tag":
            system.queue.families.limit(TAG, number)
        else:
            system.store.pools.limit(POOL, number)

    limit(at_most)
    try:
        yield
    finally:
        limit(None)


@contextmanager
def _workers(system: System, count: int, *, pool: str | None) -> Iterator[None]:
    """So many workers of the queues, or of the pool beside one that runs the parent; all of them ready."""
    config = system.config
    names = ("DATABASE_URL", "RQ_REDIS_URL", "VAR_DIR", "LOG_LEVEL")
    settings = {name: str(getattr(config, name)) for name in names}
    settings |= {"TASK_MODULES": ",".join(config.TASK_MODULES), "PATH": os.defpath}
    plans = (
        [("--workers", str(count))]
        if pool is None
        else [("--workers", "1"), ("--workers", str(count), "--pool", pool)]
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "workers", *plan, "--bound-to", str(os.getpid())],
            cwd=ROOT,
            env=settings,
            stdout=subprocess.DEVNULL,
        )
        for plan in plans
    ]
    try:
        total = count + (pool is not None)
        wait_until(
            lambda: len(system.store.registry.workers()) == total,
            deadline_seconds=60,
            what=f"{total} workers",
        )
        yield
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait()


def _spans(system: System, payload: dict[str, Any]) -> list[speed_up.Span]:
    """Run the fan-out; when each of its tables began and ended, by the database's clock."""
    run = system.queue.submit(TaskRequest(RUN, payload)).task_id
    deadline = time.monotonic() + DEADLINE_SECONDS
    while (task := system.store.queries.task(run)).status in ACTIVE:
        if time.monotonic() >= deadline:
            raise click.ClickException(f"the run has not ended: {task}")
        time.sleep(0.05)
    if task.status is not Status.COMPLETED:
        raise click.ClickException(f"the run failed: {task.error}")
    rows = system.queue.families.children_of(run)
    return [(row.started_at.timestamp(), row.ended_at.timestamp()) for row in rows]


if __name__ == "__main__":
    main()
