"""Move the tasks that wait in the database to Redis, while the system runs. Exit 0: every row is moved,
proven by a count of zero. 1: it ended early, or rows are in quarantine. 2: it could not run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from app.transfer.plans import Direction
from scripts.migration.commands import guarded, json_option, running_system, stop
from scripts.migration.moving import Wanted, move, move_options


@click.command(help=__doc__)
@move_options
@click.option("--source", type=click.Path(path_type=Path), help="A mapping file of another task table.")
@json_option
def main(source: Path | None, **options: Any) -> None:
    if source is not None:
        stop("only the project's own table can be moved yet: leave --source away")
    wanted = Wanted(**options)
    with running_system() as system:
        guarded(lambda: move(system, Direction.DISPATCH, wanted))


if __name__ == "__main__":
    main()
