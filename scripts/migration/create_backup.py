"""Back up every table, and record the baseline that later verifications hold rows against."""

from __future__ import annotations

from pathlib import Path

import click

from app.system import System
from app.transfer import backup, baseline
from app.transfer.progress import Progress
from app.transfer.wiring import settings_of
from scripts.migration.commands import backups, baselines, json_option, running_system, say, stamp


@click.command(help=__doc__)
@click.option("--folder", type=click.Path(path_type=Path), help="Default: a new one in var/backups.")
@click.option("--dump", is_flag=True, help="Add the database's own dump, where its tool is installed.")
@click.option("--baseline/--no-baseline", "with_baseline", default=True, show_default=True)
@click.option("--baseline-only", is_flag=True, help="Record a baseline and make no backup.")
@json_option
def main(folder: Path | None, dump: bool, with_baseline: bool, baseline_only: bool, as_json: bool) -> None:
    with running_system() as system:
        name, progress, made = stamp(), Progress("rows"), {}
        try:
            if not baseline_only:
                made["backup"] = back_up(
                    system, folder or backups(system) / name, dump=dump, progress=progress
                )
            if with_baseline or baseline_only:
                made["baseline"] = record(system, baselines(system) / name, progress=progress)
        finally:
            progress.end()
        say(made, text(made), as_json=as_json)


def back_up(system: System, folder: Path, *, dump: bool, progress: Progress) -> dict[str, object]:
    facts = {"settings": settings_of(system)}
    done = backup.create(system.store.database, folder, facts=facts, with_dump=dump, progress=progress)
    return {"folder": str(folder), "tables": done["tables"], "dump": done["dumped_by"]}


def record(system: System, folder: Path, *, progress: Progress) -> dict[str, object]:
    progress.stage("baseline")
    done = baseline.record(system.store.database, folder, progress=progress)
    return {"folder": str(folder), "rows": done["rows"]}


def text(made: dict[str, dict[str, object]]) -> str:
    lines = [f"{what}: {facts['folder']}" for what, facts in made.items()]
    if "backup" in made:
        lines.append(f"tables: {made['backup']['tables']}; dump: {made['backup']['dump'] or 'none'}")
    if "baseline" in made:
        lines.append(f"rows in the baseline: {made['baseline']['rows']}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
