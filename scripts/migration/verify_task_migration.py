"""Prove a move to Redis: every row against its ticket, its baseline, and the track that it was to leave; with
--source an import: every legacy row is moved with one task, or named, and was told its task's end.

Exit 0: clean. 1: a mismatch, each named by id and class. 2: something is pending or could not be read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from scripts.migration.verifying import Asked, verify, verify_import, verifying_options


@click.command(help=__doc__)
@verifying_options
@click.option("--source", type=click.Path(path_type=Path), help="A mapping file: prove its import instead.")
def main(source: Path | None, **options: Any) -> None:
    if source is not None:
        verify_import(Asked(**options), source)
    verify(Asked(**options), subject="tasks moved to Redis", left_status="QUEUED")


if __name__ == "__main__":
    main()
