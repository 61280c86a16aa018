"""Start a pool of workers: `python scripts/start_workers.py --workers 3` becomes `python -m workers`."""

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
def main(workers: int) -> None:
    # the same process goes on: signals and the exit code are the pool's own
    os.chdir(ROOT)
    os.execv(sys.executable, [sys.executable, "-m", "workers", "--workers", str(workers)])


if __name__ == "__main__":
    main()
