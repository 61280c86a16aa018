"""Clean up after a migration: remove test tasks, and archive the table of an old system; with --drop it goes
when the archive has been read back. The archive is kept, and the migration history gets a line. Exit 0: done.
1: test tasks still run. 2: it could not run."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from app.system import System
from app.transfer import history, trials
from app.transfer.progress import Progress
from app.transfer.retirement import Retired, retire
from scripts.migration.commands import (
    GOOD,
    PROBLEM,
    backups,
    guarded,
    json_option,
    running_system,
    say,
    stamp,
)


@click.command(help=__doc__)
@click.option("--table", help="The old system's table, in this database.")
@click.option("--drop", is_flag=True, help="Drop the table when its archive has been read back.")
@click.option("--folder", type=click.Path(path_type=Path), help="Of the archive; default: in var/backups.")
@click.option(
    "--history", "page", type=click.Path(path_type=Path), default=history.DEFAULT, show_default=True
)
@json_option
def main(table: str | None, drop: bool, folder: Path | None, page: Path, as_json: bool) -> None:
    if drop and table is None:
        raise click.UsageError("--drop needs --table")
    with running_system() as system:
        guarded(lambda: clean_up(system, table, folder, page, drop=drop, as_json=as_json))


def clean_up(
    system: System, table: str | None, folder: Path | None, page: Path, *, drop: bool, as_json: bool
) -> int:
    removed = trials.remove(system)
    told = [f"{removed.deleted:,} test tasks removed, {removed.left:,} are left"]
    value: dict[str, Any] = {"test_tasks": asdict(removed), "archive": None}
    if table is not None:
        retired = _retired(system, table, folder, drop=drop)
        value["archive"] = asdict(retired) | {"folder": str(retired.folder)}
        verb = "archived and dropped" if retired.dropped else "archived and kept"
        told.append(f"{table}: {retired.rows:,} rows {verb}, archive {retired.folder.name}")
    value["history"] = history.add(
        page,
        what="clean-up",
        outcome="done" if not removed.left else "test tasks left",
        evidence="; ".join(told),
    )
    say(value, "\n".join(told), as_json=as_json)
    return PROBLEM if removed.left else GOOD


def _retired(system: System, table: str, folder: Path | None, *, drop: bool) -> Retired:
    progress = Progress("rows")
    place = folder or backups(system) / f"{stamp()}-{table}"
    try:
        return retire(system.store.database, table, place, drop=drop, progress=progress)
    finally:
        progress.end()


if __name__ == "__main__":
    main()
