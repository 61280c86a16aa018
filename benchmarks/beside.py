"""`python -m benchmarks.beside`: what a submission takes while a backlog moves beside it.

On MariaDB with full durability. A process submits evenly to the queue that moves, and notes how long each
submission took. Quiet stretches and moves take turns, one move for each way to hold it back, so that a
change of the machine's own load shows in the quiet stretches.
"""

from __future__ import annotations

import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from app.system import System, build_system
from app.tasks.model import Priority
from app.tasks.submission import TaskRequest
from app.transfer.holders import this_process
from app.transfer.mover import Mover
from app.transfer.plans import Direction, Limits, Scope, make_plan
from app.transfer.records import TransferRecords
from benchmarks.peers import PAYLOAD
from benchmarks.transfer import installed, load
from benchmarks.window import LargeMariaDb
from config import Config
from tests.servers import RedisServer

EVERY_SECONDS = 0.005
QUIET_SECONDS = 8.0


@dataclass(slots=True)
class Way:
    """A way to hold a move back, and what was measured: milliseconds a submission, rows a second."""

    name: str
    limits: Limits
    before: list[float] = field(default_factory=list)
    during: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        before, during = p95(self.before), p95(self.during)
        return {
            "name": self.name,
            "rows_per_second": round(statistics.median(self.rates)),
            "submissions": [len(self.before), len(self.during)],
            "p50_before": round(statistics.median(self.before), 2),
            "p50_during": round(statistics.median(self.during), 2),
            "p95_before": round(before, 2),
            "p95_during": round(during, 2),
            "p95_rise_percent": round((during / before - 1) * 100, 1),
        }


def ways(rates: Sequence[float], rises: Sequence[float]) -> list[Way]:
    """As fast as it goes, at these rates, and with so much room for submissions, in percent."""
    found = [Way("not held back", Limits())]
    found += [Way(f"{rate:g} rows a second", Limits(rows_per_second=rate)) for rate in rates]
    found += [Way(f"a rise of {rise:g} %", Limits(submit_rise_percent=rise)) for rise in rises]
    return found


@click.command(help=__doc__)
@click.option("--rows", default=200_000, show_default=True, help="Rows of a move that is not held back.")
@click.option("--rate", "rates", multiple=True, type=float, default=(2000.0,), show_default=True)
@click.option("--rise", "rises", multiple=True, type=float, default=(20.0,), show_default=True)
@click.option("--polite-rows", default=20_000, show_default=True, help="Rows of a move with a rise.")
@click.option("--seconds", default=15.0, show_default=True, help="How long a move at a rate lasts.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--output", type=click.Path(path_type=Path), default=Path("var/bench-beside.json"))
def main(
    rows: int,
    rates: tuple[float, ...],
    rises: tuple[float, ...],
    polite_rows: int,
    seconds: float,
    rounds: int,
    output: Path,
) -> None:
    measured = ways(rates, rises)
    with ExitStack() as stack, tempfile.TemporaryDirectory() as name:
        redis = stack.enter_context(RedisServer())
        mariadb = stack.enter_context(LargeMariaDb(durable=True))
        for number in range(rounds):
            for way in measured:
                folder = Path(name) / f"{number}-{way.name}"
                system = installed(folder, mariadb, redis, window=4 * rows)
                redis.client().flushall()
                rate = way.limits.rows_per_second
                held = polite_rows if way.limits.submit_rise_percent else rows
                load(system, held if rate is None else int(rate * seconds))
                measure(system, way, folder)
                system.close()
                click.echo(f"round {number + 1}: {way.as_json()}")
    figures = {"at": datetime.now(UTC).isoformat(), "ways": [way.as_json() for way in measured]}
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(figures, indent=2))
    click.echo(f"All figures: {output}")


def measure(system: System, way: Way, folder: Path) -> None:
    """A quiet stretch, then the move, with submissions beside both."""
    notes = folder / "submissions"
    context = multiprocessing.get_context("spawn")
    over = context.Event()
    submitter = context.Process(target=submit_evenly, args=(system.config.model_dump(), notes, over))
    submitter.start()
    try:
        while not notes.exists():
            if not submitter.is_alive():
                raise click.ClickException("the process that submits ended before its first submission")
            time.sleep(0.05)
        time.sleep(QUIET_SECONDS)
        records = TransferRecords(system.store.database)
        plan = make_plan(system.store, Direction.DISPATCH, Scope((Priority.NORMAL,)))
        began = time.monotonic()
        transfer = records.begin(plan, way.limits, holder=this_process())
        done = Mover(system.queue, transfer, holder=this_process()).run()
        ended = time.monotonic()
    finally:
        over.set()
        submitter.join()
    way.rates.append(done.moved / (ended - began))
    lines = [tuple(map(float, line.split())) for line in notes.read_text().splitlines()]
    way.before += [took for at, took in lines if began - QUIET_SECONDS <= at < began]
    way.during += [took for at, took in lines if began <= at < ended]


def submit_evenly(settings: dict[str, Any], notes: Path, over: Any) -> None:
    """A task every `EVERY_SECONDS`, or at once after one that took longer; when each began, and what it took
    in milliseconds."""
    system = build_system(Config.for_tests(**settings))
    for _ in range(50):
        system.queue.submit(TaskRequest("test.noop", PAYLOAD))
    with notes.open("w", buffering=1) as file:
        due = time.monotonic()
        while not over.is_set():
            time.sleep(max(0.0, due - time.monotonic()))
            began = time.monotonic()
            system.queue.submit(TaskRequest("test.noop", PAYLOAD))
            file.write(f"{began} {(time.monotonic() - began) * 1000}\n")
            due = max(due + EVERY_SECONDS, time.monotonic())
    system.close()


def p95(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=20)[-1]


if __name__ == "__main__":
    main()
