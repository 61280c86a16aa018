"""Fill the tables from a backup. Refuses one that was changed, and tables that hold rows unless --replace.

Stop the web app and all workers first. Exit 1: the tables hold rows. 2: the backup cannot be used.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from app.transfer.archive import ArchiveRefused
from app.transfer.backup import KIND, NotEmpty, Restore, latest
from app.transfer.progress import Progress
from scripts.migration.commands import PROBLEM, backups, json_option, running_system, say


@click.command(help=__doc__)
@click.argument("folder", type=click.Path(path_type=Path), required=False)
@click.option("--replace", is_flag=True, help="What the tables hold goes.")
@click.option("--check", is_flag=True, help="Only hold the backup against its checksums.")
@json_option
def main(folder: Path | None, replace: bool, check: bool, as_json: bool) -> None:
    with running_system() as system:
        place = folder or latest(backups(system), KIND)
        if place is None:
            raise ArchiveRefused("there is no backup")
        restore = Restore(place)
        if not check:
            system.prepare_tables()
            progress = Progress("rows")
            try:
                restore.into(system.store.database, replace=replace, progress=progress)
            except NotEmpty as error:
                click.echo(f"Nothing was changed: {error}. --replace lets them go.", err=True)
                sys.exit(PROBLEM)
            finally:
                progress.end()
        done = "checked" if check else "restored"
        rows = ", ".join(f"{table} {count:,}" for table, count in restore.counts.items() if count)
        said = f"{done}: {place}\n{rows or 'no rows'}"
        say({"folder": str(place), "done": done, "tables": restore.counts}, said, as_json=as_json)


if __name__ == "__main__":
    main()
