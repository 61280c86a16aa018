"""`python -m benchmarks.records`: records per second with 1, 2 and 4 processes, beside the naive way, and by
the size of a batch, with advice.

The naive way is what teams write first: a process locks the oldest pending row, marks it, works, marks it
again, one row at a time. Both run on the same servers, with full durability, in the same run. A rate is
counted from the first claim to the last end, by the database's clock.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from sqlalchemy import Engine, create_engine, text

from app.distributed import DatabaseManager, DistributedProcessor
from benchmarks.record_logic import WAIT_SECONDS
from config import Config
from tests.servers import MariaDbServer, PostgresServer

ROOT = Path(__file__).resolve().parents[1]
PROCESSES = (1, 2, 4)
SIZES = (1, 5, 20, 50, 100, 500)
SIZED_BY = 2  # processes, for the table by size
PAYLOAD = {"text": "x" * 180}
NAIVE_TABLE = (
    "CREATE TABLE naive (id INTEGER PRIMARY KEY, payload TEXT, status VARCHAR(12) NOT NULL,"
    " claimed_at {moment}, completed_at {moment})"
)
NAIVE_INDEX = "CREATE INDEX ix_naive ON naive (status, id)"
MOMENTS = {"mysql": ("DATETIME(6)", "UTC_TIMESTAMP(6)"), "postgresql": ("timestamptz", "clock_timestamp()")}


@click.command(help=__doc__)
@click.option("--records", type=click.IntRange(100), default=10_000, show_default=True)
@click.option("--batch-size", type=click.IntRange(1), default=100, show_default=True)
@click.option("--only", type=click.Choice(["processes", "sizes"]), help="One of the two tables.")
def main(records: int, batch_size: int, only: str | None) -> None:
    click.echo(f"{records} records of 200 bytes, rates per second")
    for name, server in (("MariaDB", MariaDbServer), ("PostgreSQL", PostgresServer)):
        with server(durable=True) as running, running.database() as url:
            for flow, seconds in (("nothing", 0.0), ("waiting", WAIT_SECONDS)):
                number = records if not seconds else records // 5
                if only != "sizes":
                    _by_processes(f"{name:<11} {flow:<8}", url, flow, number, batch_size, seconds)
                if only != "processes":
                    _by_size(f"{name:<11} {flow:<8}", url, flow, number)


def _by_processes(title: str, url: str, flow: str, records: int, batch_size: int, seconds: float) -> None:
    rates = {n: _ours(url, flow, n, records, batch_size) for n in PROCESSES}
    naive = {n: _naive(url, n, records // 5, seconds) for n in PROCESSES}
    for n in PROCESSES:
        click.echo(
            f"{title} {n} processes, batches of {batch_size}: {rates[n]:>7,.0f}"
            f"   naive {naive[n]:>7,.0f}   {rates[n] / naive[n]:.1f} x"
            f"   {rates[n] / rates[1]:.2f} x one process"
        )


def _by_size(title: str, url: str, flow: str, records: int) -> None:
    rates = {size: _ours(url, flow, SIZED_BY, min(records, 400 * size), size) for size in SIZES}
    for size, rate in rates.items():
        click.echo(
            f"{title} {SIZED_BY} processes, batches of {size:>4}: {rate:>7,.0f}"
            f"   a batch takes {SIZED_BY * size / rate:6.2f} s"
        )
    click.echo(f"{title} advice: distributed_batch_size = {advised(rates)}")


def advised(rates: Mapping[int, float]) -> int:
    """The smallest batch that is within a tenth of the fastest: a process that is killed costs every record
    of its batch one failure, and what a stopped process gives back was claimed in vain."""
    best = max(rates.values())
    return min(size for size, rate in rates.items() if rate >= 0.9 * best)


def _ours(url: str, flow: str, processes: int, records: int, batch_size: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        settings = {"DATABASE_URL": url, "RQ_ENABLED": "false", "VAR_DIR": folder}
        database = DatabaseManager(Config.for_tests(**settings))
        with DistributedProcessor(database) as processor:
            processor.system.prepare()
            processor.add_records_to_queue(flow, (PAYLOAD for _ in range(records)))
            command = [sys.executable, "scripts/process_flow.py", flow, "--module", "benchmarks.record_logic"]
            command += ["--processes", str(processes), "--batch-size", str(batch_size), "--json"]
            surroundings = settings | {"PYTHONPATH": str(ROOT), "PATH": os.defpath}
            subprocess.run(command, cwd=ROOT, env=surroundings, check=True, capture_output=True)
            engine = processor.system.store.database.engine
            rate = _rate(engine, "processing_queue", records)
            database.execute_query("DELETE FROM tasks")
        database.close()
    return rate


def _rate(engine: Engine, table: str, records: int) -> float:
    query = f"SELECT MIN(claimed_at), MAX(completed_at), COUNT(completed_at) FROM {table}"
    with engine.connect() as on:
        first, last, count = on.execute(text(query)).one()
    assert count == records, f"{count} of {records} records ended"
    return float(records / (last - first).total_seconds())


def _naive(url: str, processes: int, records: int, seconds: float) -> float:
    engine = create_engine(Config.for_tests(DATABASE_URL=url).DATABASE_URL)
    moment, _ = MOMENTS[engine.dialect.name]
    with engine.begin() as on:
        on.execute(text(NAIVE_TABLE.format(moment=moment)))
        on.execute(text(NAIVE_INDEX))
        rows = [{"id": number, "payload": PAYLOAD["text"]} for number in range(records)]
        on.execute(text("INSERT INTO naive (id, payload, status) VALUES (:id, :payload, 'pending')"), rows)
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_work_naively, args=(url, seconds)) for _ in range(processes)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    try:
        return _rate(engine, "naive", records)
    finally:
        with engine.begin() as on:
            on.execute(text("DROP TABLE naive"))
        engine.dispose()


def _work_naively(url: str, seconds: float) -> None:
    engine = create_engine(Config.for_tests(DATABASE_URL=url).DATABASE_URL)
    _, now = MOMENTS[engine.dialect.name]
    take = "SELECT id FROM naive WHERE status = 'pending' ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED"
    mark = f"UPDATE naive SET status = 'processing', claimed_at = {now} WHERE id = :id"
    end = f"UPDATE naive SET status = 'completed', completed_at = {now} WHERE id = :id"
    while True:
        with engine.begin() as on:
            found: Any = on.execute(text(take)).scalar()
            if found is None:
                break
            on.execute(text(mark), {"id": found})
        time.sleep(seconds)
        with engine.begin() as on:
            on.execute(text(end), {"id": found})
    engine.dispose()


if __name__ == "__main__":
    main()
