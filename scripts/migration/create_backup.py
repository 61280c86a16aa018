"""Back up every table, and record the baseline that later verifications hold rows against."""

from __future__ import annotations

from pathlib import Path

import click

from app.transfer import backup, baseline
from app.transfer.progress import Progress
from config import Config
from scripts.migration.commands import backups, baselines, json_option, running_system, say, stamp


@click.command(help=__doc__)
@click.option("--folder", type=click.Path(path_type=Path), help="Default: a new one in var/backups.")
@click.option("--dump", is_flag=True, help="Add the database's own dump, where its tool is installed.")
@click.option("--baseline/--no-baseline", "with_baseline", default=True, show_default=True)
@click.option("--baseline-only", is_flag=True, help="Record a baseline and make no backup.")
@json_option
def main(folder: Path | None, dump: bool, with_baseline: bool, baseline_only: bool, as_json: bool) -> None:
    with running_system() as system:
        database, name = system.store.database, stamp()
        progress, made = Progress("rows"), {}
        if not baseline_only:
            place = folder or backups(system) / name
            facts = {"settings": settings(system.config)}
            counts = backup.create(database, place, facts=facts, with_dump=dump, progress=progress)
            made["backup"] = {"folder": str(place), "tables": counts["tables"], "dump": counts["dumped_by"]}
        if with_baseline or baseline_only:
            place = baselines(system) / name
            progress.stage("baseline")
            recorded = baseline.record(database, place, progress=progress)
            made["baseline"] = {"folder": str(place), "rows": recorded["rows"]}
        progress.end()
        say(made, text(made), as_json=as_json)


def settings(config: Config) -> dict[str, str]:
    """What was in force; secrets are not in it."""
    return {name: config.shown(name) for name in type(config).model_fields}


def text(made: dict[str, dict[str, object]]) -> str:
    lines = [f"{what}: {facts['folder']}" for what, facts in made.items()]
    if "backup" in made:
        lines.append(f"tables: {made['backup']['tables']}; dump: {made['backup']['dump'] or 'none'}")
    if "baseline" in made:
        lines.append(f"rows in the baseline: {made['baseline']['rows']}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
