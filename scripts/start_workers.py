"""Start workers: `python scripts/start_workers.py --workers 3 --pool etl` becomes `python -m workers`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parents[1]


@click.command(help=__doc__)
@click.option(
    "--workers", type=click.IntRange(1, 1024), default=3, show_default=True, help="Workers per track."
)
@click.option("--queues", help="Serve only these, in this order: urgent,high")
@click.option("--weights", help="Visit queues by weights: urgent=8,high=4,low=1")
@click.option("--pool", help="Take the tasks of this pool alone.")
@click.option("--memory-mb", type=click.IntRange(0), help="Memory at which a worker is replaced.")
def main(
    workers: int, queues: str | None, weights: str | None, pool: str | None, memory_mb: int | None
) -> None:
    given = {"--queues": queues, "--weights": weights, "--pool": pool, "--memory-mb": memory_mb}
    options = [word for name, value in given.items() if value is not None for word in (name, str(value))]
    # the same process goes on: signals and the exit code are the pool's own
    os.chdir(ROOT)
    os.execv(sys.executable, [sys.executable, "-m", "workers", "--workers", str(workers), *options])


if __name__ == "__main__":
    main()
