"""Move the tasks that wait in the database to Redis, while the system runs; with --source, make tasks of the
queued rows of another table. Exit 0: every row is moved, proven by a count of zero. 1: it ended early, or
rows are in quarantine. 2: it could not run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from app.system import System
from app.transfer.legacy.beginning import Consent
from app.transfer.plans import Direction
from app.transfer.wiring import mapping_file_of
from scripts.migration.commands import guarded, json_option, running_system
from scripts.migration.importing import Source, import_rows
from scripts.migration.moving import Wanted, move, move_options


@click.command(help=__doc__)
@move_options
@click.option(
    "--source",
    type=click.Path(path_type=Path),
    help="A mapping file of another task table; default: MIGRATION_SOURCE.",
)
@click.option("--native", is_flag=True, help="Our own table, whatever MIGRATION_SOURCE says.")
@click.option("--alter", is_flag=True, help="Add the word for moved rows to the table's status.")
@click.option("--install-guard", is_flag=True, help="Install the trigger that stops late old workers.")
@click.option("--old-workers-stopped", is_flag=True, help="No old worker lives: no trigger is needed.")
@json_option
def main(
    source: Path | None,
    native: bool,
    alter: bool,
    install_guard: bool,
    old_workers_stopped: bool,
    **options: Any,
) -> None:
    wanted, consent = Wanted(**options), Consent(alter, install_guard, old_workers_stopped)
    with running_system() as system:
        guarded(lambda: _run(system, None if native else mapping_file_of(system, source), consent, wanted))


def _run(system: System, source: Path | None, consent: Consent, wanted: Wanted) -> int:
    if source is None:
        return move(system, Direction.DISPATCH, wanted)
    return import_rows(system, Source(source, consent), wanted)


if __name__ == "__main__":
    main()
