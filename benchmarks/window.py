"""`python -m benchmarks.window`: a backlog far beyond the ticket window, beside a small one, in the same run.

On MariaDB with full durability. The long backlog is loaded in SQL, as rows whose tickets nobody pushed; a
sweeper finds them and fills the window. Then both backlogs are drained in turns by the same number of
workers. Beside the rates stands the processor time per task, of the pool and both servers: on a machine that
does something else, too, it tells more.
"""

from __future__ import annotations

import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from app.system import System, build_system
from app.tasks.healing import Sweeper
from app.tasks.ids import first_id_of
from app.tasks.model import Priority
from app.tasks.submission import TaskRequest
from app.web.snapshot import Snapshot
from benchmarks.ours import pool
from benchmarks.peers import PAYLOAD
from benchmarks.processes import cpu_seconds, tree_of
from config import Config
from tests.servers import MariaDbServer, RedisServer

LOAD_ROWS = 200_000
LONG_ROUNDS = 3
RESERVE = 5_000  # so that the small backlog is not empty before somebody looks
LOOK_SECONDS = 0.1
DEADLINE_SECONDS = 3600


class LargeMariaDb(MariaDbServer):
    """With memory as a server for millions of rows has it."""

    def command(self) -> list[str]:
        usual = [word for word in super().command() if not word.startswith("--innodb-log-file-size")]
        return [*usual, "--innodb-buffer-pool-size=4G", "--innodb-log-file-size=512M"]


@dataclass(slots=True)
class Side:
    """One installation with its backlog."""

    name: str
    system: System
    variables: dict[str, str]
    servers: tuple[int, int]
    rates: list[float] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)

    @property
    def queue_length(self) -> int:
        assert self.system.tickets is not None
        return self.system.tickets.lengths()[Priority.NORMAL]


@click.command(help=__doc__)
@click.option("--rows", default=1_000_000, show_default=True, help="Waiting rows of the long backlog.")
@click.option("--window", default=100_000, show_default=True, help="RQ_TICKET_WINDOW of the long backlog.")
@click.option("--tasks", default=20_000, show_default=True, help="Tasks per drain, and the small backlog.")
@click.option("--rounds", default=9, show_default=True, help="Drains of each backlog, in turns.")
@click.option("--sustained", default=100_000, show_default=True, help="Tasks of a long drain of each.")
@click.option("--workers", default=2, show_default=True, help="Worker processes.")
@click.option("--output", type=click.Path(path_type=Path), default=Path("var/bench-window.json"))
def main(rows: int, window: int, tasks: int, rounds: int, sustained: int, workers: int, output: Path) -> None:
    figures: dict[str, Any] = {"rows": rows, "window": window, "machine": platform.platform()}
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        redis = stack.enter_context(RedisServer())
        mariadb = stack.enter_context(LargeMariaDb(durable=True))
        small = _side("small", Path(folder), mariadb, redis, window=10**9)
        large = _side("large", Path(folder), mariadb, redis, window=window)
        stack.callback(small.system.close)
        stack.callback(large.system.close)
        empty = redis.client().info("memory")["used_memory"]
        figures["load_rows_per_second"] = _report("rows loaded per second", _load(large.system, rows))
        figures["fill_seconds"] = _report("seconds to fill the window", _fill(large, window))
        used = redis.client().info("memory")["used_memory"]
        figures["redis_used_memory_bytes"] = _report("Redis used_memory, bytes", used)
        _report("Redis used_memory when empty, bytes", empty)
        figures["looks"] = _looks(large.system)
        newest = large.system.queue.submit(TaskRequest("test.noop", PAYLOAD)).task_id
        for _ in range(rounds):
            for side in (small, large):
                _drain(side, tasks, workers)
        figures["short"] = _compare("short drains", small, large)
        for side in (small, large):
            side.rates, side.costs = [], []
        for _ in range(LONG_ROUNDS if sustained else 0):
            for side in (small, large):
                _drain(side, sustained, workers)
        figures["long"] = _compare("long drains", small, large) if sustained else None
        figures["overtaken"] = _report("rows overtaken", _overtaken(large.system, newest))
        peak = redis.client().info("memory")["used_memory_peak"]
        figures["redis_peak_memory_bytes"] = _report("Redis used_memory_peak, bytes", peak)
        figures["looks_after"] = _looks(large.system)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps({"at": datetime.now(UTC).isoformat()} | figures, indent=2))
    click.echo(f"All figures: {output}")


def _report(what: str, value: Any) -> Any:
    click.echo(f"{what:45} {value:,}" if isinstance(value, int) else f"{what:45} {value:,.3f}")
    return value


def _side(name: str, folder: Path, mariadb: MariaDbServer, redis: RedisServer, *, window: int) -> Side:
    own = folder / name
    own.mkdir()
    settings: dict[str, Any] = {"DATABASE_URL": mariadb.create_database(), "RQ_REDIS_URL": redis.url}
    settings |= {"VAR_DIR": str(own), "RQ_QUEUE_PREFIX": f"{name}-", "RQ_TICKET_WINDOW": window}
    settings |= {"LOG_LEVEL": "error"}
    system = build_system(Config.for_tests(**settings))
    system.prepare()
    system.queue.pause()
    variables = {setting: str(value) for setting, value in settings.items()}
    return Side(name, system, variables, (mariadb.pid, redis.pid))


def _load(system: System, rows: int) -> float:
    """Waiting rows with ids of yesterday, straight into the table."""
    first = first_id_of(datetime.fromtimestamp(time.time() - 86_400, UTC))
    statement = (
        "INSERT INTO tasks (id, name, status, priority, epoch, payload, created_at, waiting_since)"
        " SELECT %s + seq * 16384, 'test.noop', 'DISPATCHED', 2, 1, %s,"
        " UTC_TIMESTAMP(6) - INTERVAL 1 DAY, UTC_TIMESTAMP(6) - INTERVAL 1 DAY"
        " FROM seq_1_to_1000000000 WHERE seq BETWEEN %s AND %s"
    )
    began = time.perf_counter()
    for low in range(1, rows + 1, LOAD_ROWS):
        high = min(rows, low + LOAD_ROWS - 1)
        values = (first, json.dumps(PAYLOAD), low, high)
        system.store.database.run(lambda on, values=values: on.exec_driver_sql(statement, values))  # type: ignore[misc]
    return rows / (time.perf_counter() - began)


def _fill(side: Side, window: int) -> float:
    """Seconds until a sweeper, which knows of no ticket, has filled the window. Nobody takes any."""
    queue = side.system.queue
    queue.resume()
    sweeper = Sweeper(queue, holder="bench")
    began = time.perf_counter()
    while side.queue_length < window * 0.9:
        if sweeper.full_pass() is None or time.perf_counter() - began > DEADLINE_SECONDS:
            raise RuntimeError("the window was not filled")
    spent = time.perf_counter() - began
    sweeper.leave()
    queue.pause()
    return spent


def _looks(system: System) -> dict[str, float]:
    """Milliseconds of what pages and the sweeper ask again and again, while nobody works."""
    system.queue.resume()
    sweeper = Sweeper(system.queue, holder="bench")
    calls: dict[str, Callable[[], Any]] = {
        "counts, first": system.store.queries.counts,
        "counts, again": system.store.queries.counts,
        "snapshot": lambda: Snapshot.take(system),
        "sweeper, first full pass": sweeper.full_pass,
        "sweeper, full pass": sweeper.full_pass,
        "sweeper, step": sweeper.step,
    }
    spent = {}
    for name, call in calls.items():
        began = time.perf_counter()
        call()
        milliseconds = (time.perf_counter() - began) * 1000
        spent[name] = _report(f"{name}, ms", round(milliseconds, 1))
    sweeper.leave()
    system.queue.pause()
    return spent


def _compare(what: str, small: Side, large: Side) -> dict[str, Any]:
    """The medians of both sides, and how the long backlog stands to the small one."""
    pairs = [
        (side.name, statistics.median(side.rates), statistics.median(side.costs)) for side in (small, large)
    ]
    for name, rate, cost in pairs:
        click.echo(f"{what}, {name} backlog: {rate:,.0f} tasks/s, {cost:.1f} µs of processor time per task")
    speed, cost = pairs[1][1] / pairs[0][1], pairs[1][2] / pairs[0][2]
    click.echo(f"{what}, long to small: speed {speed:.3f}, processor time {cost:.3f}")
    rounds = {side.name: {"rates": side.rates, "costs": side.costs} for side in (small, large)}
    return {"speed_ratio": speed, "cost_ratio": cost, "rounds": rounds}


def _drain(side: Side, count: int, workers: int) -> None:
    """Tasks a second from the opening of the queue until so many more are COMPLETED, and what each cost."""
    system = side.system
    if side.name == "small":
        missing = count + RESERVE - side.queue_length
        system.queue.submit_many(TaskRequest("test.noop", PAYLOAD) for _ in range(missing))
    with pool(system, side.variables, workers=workers) as parent:
        before, spent = _completed(system), _processor_seconds(parent, *side.servers)
        began = time.perf_counter()
        system.queue.resume()
        while (done := _completed(system) - before) < count:
            if time.perf_counter() - began > DEADLINE_SECONDS:
                raise RuntimeError(f"{done} of {count} tasks were completed")
            time.sleep(LOOK_SECONDS)
        side.rates.append(done / (time.perf_counter() - began))
        side.costs.append((_processor_seconds(parent, *side.servers) - spent) / done * 1e6)
        click.echo(f"  {side.name}: {side.rates[-1]:,.0f} tasks/s, {side.costs[-1]:.1f} µs each")
        system.queue.pause()


def _processor_seconds(*roots: int) -> float:
    """What these processes and their living descendants have used until now."""
    return cpu_seconds({pid for root in roots for pid in tree_of(root)})


def _completed(system: System) -> int:
    return int(_scalar(system, "SELECT COUNT(*) FROM tasks WHERE status = 'COMPLETED'"))


def _overtaken(system: System, newest: int) -> int:
    """Waiting rows that are older than a completed one: 0 if the order was kept. Not those that a worker had
    taken and gave back when it was stopped."""
    last = _scalar(system, "SELECT MAX(id) FROM tasks WHERE status = 'COMPLETED'")
    count = _scalar(
        system, "SELECT COUNT(*) FROM tasks WHERE status = 'DISPATCHED' AND epoch = 1 AND id < %s", last
    )
    return int(count) + int(last >= newest)


def _scalar(system: System, statement: str, *values: Any) -> Any:
    return system.store.database.read(lambda on: on.exec_driver_sql(statement, values).scalar_one())


if __name__ == "__main__":
    main()
