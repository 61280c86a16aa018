"""Prove a rollback by id: every row is back in the database, as the baseline recorded it, and has no ticket.

Exit 0: clean. 1: a mismatch, each named by id and class. 2: something is pending or could not be read.
"""

from __future__ import annotations

from typing import Any

import click

from scripts.migration.verifying import Asked, verify, verifying_options


@click.command(help=__doc__)
@verifying_options
def main(**options: Any) -> None:
    verify(Asked(**options), subject="tasks moved back to the database", left_status="DISPATCHED")


if __name__ == "__main__":
    main()
