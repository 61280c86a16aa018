"""`python -m benchmarks`: medians over interleaved rounds, as a table and as JSON.

The databases run with full durability: every commit reaches the disk.
"""

from __future__ import annotations

import json
import platform
import statistics
import tempfile
from collections import defaultdict
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks import ours, rq_peer
from tests.servers import MariaDbServer, PostgresServer, RedisServer

Figures = dict[str, dict[str, list[float]]]

DURABILITY = {
    "SQLite": "row, WAL",
    "MariaDB": "row, fsync at each commit",
    "PostgreSQL": "row, fsync at each commit",
    "RQ Worker": "none",
    "RQ SimpleWorker": "none",
}


@click.command(help=__doc__)
@click.option("--rounds", default=3, show_default=True, help="Rounds; the median counts.")
@click.option("--tasks", default=20_000, show_default=True, help="Tasks per drain of ours.")
@click.option("--peer-tasks", default=2_000, show_default=True, help="Jobs per drain of a peer.")
@click.option("--workers", default=2, show_default=True, help="Worker processes on both sides.")
@click.option("--output", type=click.Path(path_type=Path), default=Path("var/bench.json"), show_default=True)
def main(rounds: int, tasks: int, peer_tasks: int, workers: int, output: Path) -> None:
    figures: Figures = defaultdict(lambda: defaultdict(list))
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder, Progress(transient=True) as progress:
        redis = stack.enter_context(RedisServer())
        mariadb = stack.enter_context(MariaDbServer(durable=True))
        postgres = stack.enter_context(PostgresServer(durable=True))
        bar = progress.add_task("measuring", total=rounds * (3 + len(rq_peer.WORKER_CLASSES)))
        for number in range(rounds):
            place = Path(folder) / str(number)
            urls = {
                "SQLite": f"sqlite:///{place}-sqlite.db",
                "MariaDB": mariadb.create_database(),
                "PostgreSQL": postgres.create_database(),
            }
            for name, url in urls.items():
                redis.client().flushall()
                _measure(figures[name], place / name, url, redis.url, tasks, workers)
                progress.advance(bar)
            for name, worker_class in rq_peer.WORKER_CLASSES.items():
                redis.client().flushall()
                figures[name]["submit"].append(rq_peer.submit_one_by_one(redis.url, 1000))
                rate = rq_peer.drain(redis.url, peer_tasks, workers=workers, worker_class=worker_class)
                figures[name]["drain"].append(rate)
                progress.advance(bar)
    medians = {
        name: {key: statistics.median(rates) for key, rates in of.items()} for name, of in figures.items()
    }
    _show(medians, workers)
    output.parent.mkdir(parents=True, exist_ok=True)
    about = {"at": datetime.now(UTC).isoformat(), "machine": platform.platform(), "workers": workers}
    output.write_text(json.dumps({"about": about, "rounds": figures, "medians": medians}, indent=2))
    click.echo(f"All rounds: {output}")


def _measure(
    figures: dict[str, list[float]], folder: Path, database_url: str, redis_url: str, tasks: int, workers: int
) -> None:
    with ours.installation(folder, database_url, redis_url, redis_track=True) as system:
        figures["drain"].append(ours.drain(system, tasks, workers=workers))
        figures["submit"].append(ours.submit_one_by_one(system, 1000))
        figures["bulk"].append(ours.submit_in_bulk(system, 10_000))


def _show(medians: dict[str, dict[str, float]], workers: int) -> None:
    table = Table(
        *("", "keeps a record", "drain/s", "x Worker", "x SimpleWorker", "submit/s", "bulk/s"),
        title=f"no-op tasks, 200-byte payload, {workers} worker processes",
    )
    for name, of in medians.items():
        ratios = [f"{of['drain'] / medians[peer]['drain']:.1f}" for peer in rq_peer.WORKER_CLASSES]
        bulk = f"{of['bulk']:,.0f}" if "bulk" in of else ""
        row = [name, DURABILITY[name], f"{of['drain']:,.0f}", *ratios, f"{of['submit']:,.0f}", bulk]
        table.add_row(*row)
    Console().print(table)


if __name__ == "__main__":
    main()
