"""`python -m benchmarks.idle`: what an idle pool costs, and how long it takes to start a task that comes.

Latency is taken from before the call of `submit` to the first line of the handler, on one clock, with the
row committed to the disk before and after. Cost is what the servers themselves counted for the whole pool,
its sweeper included, divided by its workers.
"""

from __future__ import annotations

import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import psutil
from rich.console import Console
from rich.table import Table

from app.system import System, build_system
from app.tasks.submission import TaskRequest
from benchmarks.stamp import RECORD
from config import Config
from tests.servers import MariaDbServer, PostgresServer, RedisServer
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[1]
GAP_SECONDS = (0.02, 0.06)
SETTLE_SECONDS = 6.0


@dataclass(frozen=True, slots=True)
class Installation:
    """A system under measurement, and the servers that count for it. `redis` None: the database alone."""

    name: str
    system: System
    settings: dict[str, Any]
    database: MariaDbServer | PostgresServer | None
    redis: RedisServer | None


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds from the submission to the handler's first line."""

    p50: float
    p90: float
    p99: float
    submit_p50: float
    load: float

    @classmethod
    def of(cls, samples: list[Sample]) -> Latency:
        cuts = statistics.quantiles([sample.start_ms for sample in samples], n=100, method="inclusive")
        submit = statistics.median(sample.submit_ms for sample in samples)
        return cls(cuts[49], cuts[89], cuts[98], submit, os.getloadavg()[0])


@dataclass(frozen=True, slots=True)
class Sample:
    """One task: until `submit` had answered, and until the handler ran."""

    submit_ms: float
    start_ms: float


@dataclass(frozen=True, slots=True)
class IdleCost:
    """Of a pool that does nothing: per minute and worker. None: nobody counts there."""

    workers: int
    statements: float | None
    redis_commands: float | None
    cpu_seconds: float


@dataclass(slots=True)
class Figures:
    """Everything measured of one installation."""

    latency: list[Latency] = field(default_factory=list)
    cost: list[IdleCost] = field(default_factory=list)


# --- measuring --------------------------------------------------------------------------------------------


def measure_latency(system: System, *, count: int, folder: Path) -> list[Sample]:
    """`count` tasks, one after the other, each into an idle pool, which must know `benchmarks.stamp`."""
    record = folder / f"stamps-{random.getrandbits(32):x}"
    samples = []
    for number in range(count):
        time.sleep(random.uniform(*GAP_SECONDS))
        request = TaskRequest("bench.stamp", {"number": number, "path": str(record)})
        began = time.monotonic_ns()
        system.queue.submit(request)
        submitted = time.monotonic_ns()
        started = wait_until(
            lambda number=number: _started(record, number),  # type: ignore[misc]
            deadline_seconds=30,
            what=f"sample {number} to start",
        )
        samples.append(Sample((submitted - began) / 1e6, (started - began) / 1e6))
    return samples


def measure_idle_cost(place: Installation, pool: psutil.Process, *, seconds: float, workers: int) -> IdleCost:
    """Let the running pool do nothing for `seconds` and ask the servers what it asked of them."""
    time.sleep(SETTLE_SECONDS)
    counters: list[Callable[[], float | None]] = [
        _statements(place),
        _redis_commands(place),
        lambda: _cpu_seconds(pool),
    ]
    before = [count() for count in counters]
    began = time.monotonic()
    time.sleep(seconds)
    factor = 60 / (time.monotonic() - began) / workers
    after = [count() for count in counters]
    spent = [None if b is None or a is None else (a - b) * factor for a, b in zip(after, before, strict=True)]
    return IdleCost(workers, spent[0], spent[1], spent[2] or 0.0)


@contextmanager
def running_pool(place: Installation, *, workers: int) -> Iterator[psutil.Process]:
    """`python -m workers`, from when all have announced themselves."""
    environment = {"PATH": os.defpath} | {name: str(value) for name, value in place.settings.items()}
    command = [sys.executable, "-m", "workers", "--workers", str(workers), "--bound-to", str(os.getpid())]
    process = subprocess.Popen(command, cwd=ROOT, env=environment)
    expected = workers * tracks_of(place.system)
    try:
        wait_until(
            lambda: len(place.system.store.registry.workers()) >= expected,
            deadline_seconds=30,
            what="the workers to announce themselves",
        )
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(60)


def tracks_of(system: System) -> int:
    """How many tracks have workers of their own; a pool has its number of workers for each."""
    return int(system.config.RQ_ENABLED) + int(system.config.pollers_enabled)


def _started(record: Path, number: int) -> int:
    """The nanoseconds at which sample `number` started; 0 before that."""
    if not record.exists():
        return 0
    records = RECORD.iter_unpack(record.read_bytes()[-4 * RECORD.size :])
    return next((moment for found, moment in records if found == number), 0)


def _statements(place: Installation) -> Callable[[], float | None]:
    """The database server's count of statements, less those of the counting itself."""
    server = place.database
    if isinstance(server, MariaDbServer):
        own = _questions(server)
        own = _questions(server) - own
        counted = iter(range(1, 1000))
        return lambda: _questions(server) - own * next(counted)
    if isinstance(server, PostgresServer):
        name = place.settings["DATABASE_URL"].rpartition("/")[2]
        return lambda: float(server.log.read_text(errors="replace").count(f"@{name} LOG:  "))
    return lambda: None


def _questions(server: MariaDbServer) -> float:
    return float(server.execute("SHOW GLOBAL STATUS LIKE 'Questions'")[0][1])


def _redis_commands(place: Installation) -> Callable[[], float | None]:
    if place.redis is None:
        return lambda: None
    client = place.redis.client()
    counted = iter(range(1000))
    return lambda: float(client.info("stats")["total_commands_processed"]) - next(counted)


def _cpu_seconds(pool: psutil.Process) -> float:
    family = [pool, *pool.children(recursive=True)]
    return sum(times.user + times.system for times in (process.cpu_times() for process in family))


# --- installations ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Case:
    """Which database, and whether Redis is there; `track` names the way that its tasks take."""

    database: str
    redis: bool
    hybrid: bool = False

    @property
    def name(self) -> str:
        if self.hybrid:
            return f"{self.database}, database track beside Redis"
        return f"{self.database}, {'Redis' if self.redis else 'database'} track"


CASES = [
    Case("MariaDB", redis=True),
    Case("PostgreSQL", redis=True),
    Case("SQLite", redis=True),
    Case("PostgreSQL", redis=True, hybrid=True),
    Case("PostgreSQL", redis=False),
    Case("SQLite", redis=False),
    Case("MariaDB", redis=False),
]


@dataclass(frozen=True, slots=True)
class Servers:
    """All servers of a run."""

    redis: RedisServer
    mariadb: MariaDbServer
    postgres: PostgresServer

    def of(self, database: str) -> MariaDbServer | PostgresServer | None:
        if database == "SQLite":
            return None
        return self.mariadb if database == "MariaDB" else self.postgres


@contextmanager
def installed(case: Case, servers: Servers, folder: Path) -> Iterator[Installation]:
    """A fresh installation of this case."""
    folder.mkdir(parents=True)
    server = servers.of(case.database)
    servers.redis.client().flushall()
    settings: dict[str, Any] = {
        "DATABASE_URL": server.create_database() if server else f"sqlite:///{folder / 'bench.db'}",
        "RQ_REDIS_URL": servers.redis.url,
        "VAR_DIR": folder,
        "RQ_ENABLED": case.redis,
        "RQ_HYBRID_MODE": case.hybrid,
        "RQ_ROLLOUT_PERCENT": 0 if case.hybrid else 100,
        "TASK_MODULES": "app.handlers,benchmarks.stamp",
        "LOG_LEVEL": "error",
    }
    system = build_system(Config.for_tests(**settings))
    system.prepare()
    try:
        yield Installation(case.name, system, settings, server, servers.redis if case.redis else None)
    finally:
        system.close()


@contextmanager
def started_servers() -> Iterator[Servers]:
    with ExitStack() as stack:
        redis = stack.enter_context(RedisServer())
        mariadb = stack.enter_context(MariaDbServer(durable=True))
        postgres = stack.enter_context(PostgresServer(durable=True))
        yield Servers(redis, mariadb, postgres)


def _log_statements(server: PostgresServer, *, on: bool) -> None:
    """Have PostgreSQL write each statement into its log, which is how they are counted."""
    server.execute("ALTER SYSTEM SET log_line_prefix = '@%d '")
    server.execute(f"ALTER SYSTEM SET log_statement = '{'all' if on else 'none'}'")
    server.execute("SELECT pg_reload_conf()")


# --- the command ------------------------------------------------------------------------------------------


@click.command(help=__doc__)
@click.option("--windows", default=3, show_default=True, help="Windows of latency; the best counts.")
@click.option("--samples", default=200, show_default=True, help="Tasks in a window.")
@click.option("--seconds", default=60.0, show_default=True, help="How long a pool idles; 0 leaves that out.")
@click.option("--workers", default="2,1", show_default=True, help="Sizes of the idle pools.")
@click.option("--only", default="", help="Only cases whose name contains this.")
@click.option("--output", type=click.Path(path_type=Path), default=Path("var/idle.json"), show_default=True)
def main(windows: int, samples: int, seconds: float, workers: str, only: str, output: Path) -> None:
    figures: dict[str, Figures] = {}
    sizes = [int(size) for size in workers.split(",")] if seconds else []
    with started_servers() as servers, tempfile.TemporaryDirectory() as name:
        for case in CASES:
            if only in case.name:
                figures[case.name] = _measured(case, servers, Path(name), windows, samples, seconds, sizes)
    _show(figures)
    output.parent.mkdir(parents=True, exist_ok=True)
    about = {"at": datetime.now(UTC).isoformat(), "machine": platform.platform(), "cpus": os.cpu_count()}
    found = {name: asdict(of) for name, of in figures.items()}
    output.write_text(json.dumps({"about": about, "cases": found}, indent=2))
    click.echo(f"All windows: {output}")


def _measured(
    case: Case, servers: Servers, folder: Path, windows: int, samples: int, seconds: float, sizes: list[int]
) -> Figures:
    figures = Figures()
    place_folder = folder / str(len(list(folder.iterdir())))
    with installed(case, servers, place_folder) as place:
        if windows:
            with running_pool(place, workers=2):
                for _ in range(windows):
                    taken = measure_latency(place.system, count=samples, folder=place_folder)
                    figures.latency.append(Latency.of(taken))
        _log_statements(servers.postgres, on=True)
        for size in sizes:
            with running_pool(place, workers=size) as pool:
                running = size * tracks_of(place.system)
                cost = measure_idle_cost(place, pool, seconds=seconds, workers=running)
                figures.cost.append(cost)
        _log_statements(servers.postgres, on=False)
    return figures


def _show(figures: dict[str, Figures]) -> None:
    console = Console()
    table = Table("", "p50 ms", "p90 ms", "p99 ms", "submit p50", "load", title="idle latency, best window")
    for name, of in figures.items():
        if of.latency:
            best = min(of.latency, key=lambda window: window.p50)
            shown = (best.p50, best.p90, best.p99, best.submit_p50, best.load)
            table.add_row(name, *(f"{value:.2f}" for value in shown))
    console.print(table)
    table = Table("", "workers", "SQL", "Redis", "CPU s", title="idle cost per minute and worker")
    for name, of in figures.items():
        for cost in of.cost:
            counts = (cost.statements, cost.redis_commands)
            words = ["" if value is None else f"{value:.1f}" for value in counts]
            table.add_row(name, str(cost.workers), *words, f"{cost.cpu_seconds:.2f}")
    console.print(table)


if __name__ == "__main__":
    main()
