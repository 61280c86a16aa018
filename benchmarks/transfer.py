"""`python -m benchmarks.transfer`: a backlog moved from MariaDB to Redis, and back, beside the naive way.

On MariaDB with full durability. Ours is a dispatch as an operator starts it: marked, pushed, read back and
confirmed, with the window as long as the backlog, so that every row gets its ticket. The naive way is an ORM
row, `Queue.enqueue` and a commit, row by row. By hand: RQ's own hashes, written in one pipeline per 1,000
rows, and one UPDATE for them; nothing is read back or survives a kill. Rounds of all take turns.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import msgpack
from rq import Queue
from sqlalchemy import create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from app.system import System, build_system
from app.tasks.ids import first_id_of
from app.tasks.model import Priority
from app.tasks.routing import Route
from app.transfer.holders import this_process
from app.transfer.mover import Mover, Moving
from app.transfer.plans import Direction, Limits, Scope, make_plan
from app.transfer.records import TransferRecords
from benchmarks.curve import Curve, Sample, drawn
from benchmarks.page import DOCUMENT, rewrite
from benchmarks.peers import PAYLOAD
from benchmarks.processes import cpu_seconds
from benchmarks.window import LargeMariaDb
from config import Config
from tests.servers import MariaDbServer, RedisServer

LOAD_ROWS = 20_000
WAITING = "SELECT id, epoch FROM tasks WHERE status = 'QUEUED' ORDER BY id LIMIT 1000"


class Base(DeclarativeBase):
    pass


class NaiveTask(Base):
    """The same table, as an application's ORM sees it."""

    __tablename__ = "tasks"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    status: Mapped[str]
    priority: Mapped[int]
    epoch: Mapped[int]
    payload: Mapped[str]


@click.command(help=__doc__)
@click.option("--rows", default=200_000, show_default=True, help="Rows of our backlog, per round.")
@click.option("--naive-rows", default=3_000, show_default=True, help="Rows of the naive way, per round.")
@click.option("--hand-rows", default=50_000, show_default=True, help="Rows moved by hand, per round.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--docs", is_flag=True, help="Write the figures into docs/benchmarks.md.")
@click.option("--output", type=click.Path(path_type=Path), default=Path("var/bench-transfer.json"))
def main(rows: int, naive_rows: int, hand_rows: int, rounds: int, docs: bool, output: Path) -> None:
    measured = Measured()
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        redis = stack.enter_context(RedisServer())
        mariadb = stack.enter_context(LargeMariaDb(durable=True))
        for number in range(rounds):
            system = installed(Path(folder) / str(number), mariadb, redis, window=2 * rows)
            load(system, naive_rows)
            measured.naive.append(_report("naive rows per second", naive_way(system, redis)))
            _empty(system, redis)
            load(system, hand_rows)
            measured.by_hand.append(_report("rows per second by hand", hand_built(system, redis)))
            _empty(system, redis)
            load(system, rows)
            _there_and_back(system, rows, {"mariadb": mariadb.pid, "redis": redis.pid}, measured)
            system.close()
    ratio = statistics.median(measured.ours) / statistics.median(measured.naive)
    figures: dict[str, Any] = {
        "rows": rows,
        "rounds": rounds,
        "machine": platform.platform(),
        "dispatched_rows_per_second": measured.ours,
        "recalled_rows_per_second": measured.back,
        "naive_rows_per_second": measured.naive,
        "hand_built_rows_per_second": measured.by_hand,
        "ratio": ratio,
        "dispatch_cpu_microseconds_per_row": measured.costs,
        "peak_memory_megabytes": measured.peak_megabytes,
        "memory_curve": [asdict(sample) for sample in measured.samples],
    }
    _report("times the naive way (medians)", ratio)
    _report("times the way by hand", statistics.median(measured.ours) / statistics.median(measured.by_hand))
    _report("peak memory of the mover, MB", measured.peak_megabytes)
    _write(output, figures, drawn(measured.samples, f"Memory while {rows:,} rows move to Redis"))
    if docs:
        shutil.copy(output, DOCUMENT.with_name("benchmarks-transfer.json"))
        rewrite(DOCUMENT)


@dataclass
class Measured:
    """Rows a second of each round, and what a dispatch takes."""

    ours: list[float] = field(default_factory=list)
    back: list[float] = field(default_factory=list)
    naive: list[float] = field(default_factory=list)
    by_hand: list[float] = field(default_factory=list)
    costs: list[dict[str, float]] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    peak_megabytes: float = 0.0


def _there_and_back(system: System, rows: int, servers: Mapping[str, int], measured: Measured) -> None:
    far = Far()
    watched = {"mover": os.getpid(), "redis": servers["redis"]}
    with Curve(watched, lambda: far.rows) as curve, Cost({"mover": os.getpid(), **servers}, rows) as cost:
        measured.ours.append(_report("dispatched rows per second", moved(system, Direction.DISPATCH, far)))
    measured.peak_megabytes = max(measured.peak_megabytes, curve.peak("mover"))
    measured.samples = curve.samples
    click.echo("\n".join(curve.as_lines()))
    measured.costs.append(cost.microseconds)
    _report("processor time of that, microseconds a row", sum(cost.microseconds.values()))
    _check(system, rows)
    measured.back.append(_report("recalled rows per second", moved(system, Direction.RECALL, Far())))


def _write(output: Path, figures: Mapping[str, Any], picture: str) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    output.with_suffix(".svg").write_text(picture)
    output.write_text(json.dumps({"at": datetime.now(UTC).isoformat()} | dict(figures), indent=2))
    click.echo(f"All figures: {output}")


def _report(what: str, value: Any) -> Any:
    click.echo(f"{what:40} {value:,}" if isinstance(value, int) else f"{what:40} {value:,.1f}")
    return value


def installed(folder: Path, mariadb: MariaDbServer, redis: RedisServer, *, window: int) -> System:
    """A fresh system whose tasks wait in the database."""
    config = Config.for_tests(
        DATABASE_URL=mariadb.create_database(),
        RQ_REDIS_URL=redis.url,
        VAR_DIR=str(folder),
        RQ_HYBRID_MODE=True,
        RQ_ROLLOUT_PERCENT=0,
        RQ_TICKET_WINDOW=window,
        TASK_MODULES=("benchmarks.tasks", "app.handlers.testing"),
        LOG_LEVEL="error",
    )
    system = build_system(config)
    system.prepare()
    return system


def load(system: System, rows: int) -> None:
    """A backlog of QUEUED rows, in SQL."""
    first = first_id_of(datetime.now(UTC))
    payload = json.dumps(PAYLOAD)
    for start in range(0, rows, LOAD_ROWS):
        values = ",".join(
            f"({first + (number << 14)},'test.noop','QUEUED',2,1,%s,UTC_TIMESTAMP(6),UTC_TIMESTAMP(6))"
            for number in range(start, min(rows, start + LOAD_ROWS))
        )
        count = min(rows, start + LOAD_ROWS) - start
        statement = (
            "INSERT INTO tasks (id, name, status, priority, epoch, payload, created_at, waiting_since)"
            f" VALUES {values}"
        )
        system.store.database.run(
            lambda on, text=statement, n=count: on.exec_driver_sql(text, (payload,) * n)  # type: ignore[misc]
        )


class Far:
    """How far a move is: its watcher."""

    rows = 0

    def __call__(self, moving: Moving) -> None:
        self.rows = moving.moved


def moved(system: System, direction: Direction, far: Far) -> float:
    """Rows a second of one whole transfer of the normal queue."""
    records = TransferRecords(system.store.database)
    plan = make_plan(system.store, direction, Scope((Priority.NORMAL,)))
    total = sum(plan.rows.values())
    began = time.perf_counter()
    transfer = records.begin(plan, Limits(patience_seconds=10), holder=this_process())
    done: Moving = Mover(system.queue, transfer, holder=this_process(), watcher=far).run()
    seconds = time.perf_counter() - began
    assert done.moved == total, f"{done.moved} of {total} rows moved"
    return total / seconds


def naive_way(system: System, redis: RedisServer) -> float:
    """Rows a second by an ORM row, `Queue.enqueue` and a commit each."""
    queue = Queue("naive", connection=redis.client())
    engine = create_engine(system.config.DATABASE_URL)
    count = 0
    with Session(engine) as session:
        began = time.perf_counter()
        for task in session.scalars(select(NaiveTask).where(NaiveTask.status == "QUEUED")).all():
            queue.enqueue("app.jobs.run_ticket", task.id, task.epoch, job_id=f"naive-{task.id}")
            task.status = "DISPATCHED"
            session.commit()
            count += 1
        seconds = time.perf_counter() - began
    engine.dispose()
    return count / seconds


def hand_built(system: System, redis: RedisServer) -> float:
    """Rows a second by one who knows RQ's hashes: read 1,000, write jobs in one pipeline, mark, commit."""
    client, engine = redis.client(), create_engine(system.config.DATABASE_URL)
    count = 0
    began = time.perf_counter()
    with engine.connect() as on:
        while rows := on.exec_driver_sql(WAITING).all():
            pipeline = client.pipeline(transaction=False)
            for task_id, epoch in rows:
                job: dict[Any, Any] = {
                    "data": msgpack.packb(("app.jobs.run_ticket", None, (task_id, epoch), {})),
                    "origin": "hand",
                    "status": "queued",
                    "created_at": "2026-01-01T00:00:00.000000Z",
                    "enqueued_at": "2026-01-01T00:00:00.000000Z",
                    "timeout": 3600,
                }
                pipeline.hset(f"rq:job:hand-{task_id}", mapping=job)
            pipeline.rpush("rq:queue:hand", *(f"hand-{task_id}" for task_id, _ in rows))
            pipeline.execute()
            marks = ", ".join(str(task_id) for task_id, _ in rows)
            on.exec_driver_sql(f"UPDATE tasks SET status = 'DISPATCHED' WHERE id IN ({marks})")
            on.commit()
            count += len(rows)
    seconds = time.perf_counter() - began
    engine.dispose()
    return count / seconds


def _empty(system: System, redis: RedisServer) -> None:
    redis.client().flushall()
    system.store.database.run(lambda on: on.exec_driver_sql("TRUNCATE TABLE tasks"))


def _check(system: System, rows: int) -> None:
    assert system.tickets is not None
    assert system.tickets.lengths()[Priority.NORMAL] == rows
    route: Route = system.store.routing.refresh()[Priority.NORMAL]
    assert (route.redis_percent, route.transfer_id) == (100, None)


class Cost:
    """Processor time inside the block, of each process, in microseconds a row: it tells more than the rate on
    a machine that does something else, too."""

    def __init__(self, processes: Mapping[str, int], rows: int) -> None:
        self._processes, self._rows = processes, rows
        self._before: dict[str, float] = {}
        self.microseconds: dict[str, float] = {}

    def _seconds(self) -> dict[str, float]:
        return {name: cpu_seconds([pid]) for name, pid in self._processes.items()}

    def __enter__(self) -> Cost:
        self._before = self._seconds()
        return self

    def __exit__(self, *_: object) -> None:
        after = self._seconds()
        self.microseconds = {
            name: round((after[name] - before) / self._rows * 1e6, 2) for name, before in self._before.items()
        }
        click.echo(f"  {self.microseconds}")


if __name__ == "__main__":
    main()
