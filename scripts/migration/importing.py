"""What the commands say and ask when a mapping file names another task table."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import click

from app.system import System
from app.transfer.legacy.beginning import (
    Consent,
    needed_statements,
    plan_import,
    require_guard,
    start_import,
    table_of,
)
from app.transfer.legacy.giving_back import give_back
from app.transfer.legacy.mapping import read_mapping
from app.transfer.legacy.table import LegacyTable
from app.transfer.plans import Direction, Plan
from app.transfer.progress import Progress
from app.transfer.records import TransferRecords
from scripts.migration.commands import GOOD, say
from scripts.migration.moving import Wanted, confirm_plan, control, go_on, run_shown, the_open_one


@dataclass(frozen=True, slots=True)
class Source:
    """A mapping file, and what the operator allows."""

    path: Path
    consent: Consent


def import_rows(system: System, source: Source, wanted: Wanted) -> int:
    """Do what the options say; returns the exit code."""
    direction = Direction.IMPORT
    wanted = replace(wanted, source=read_mapping(source.path).name)
    if wanted.pause or wanted.abort or wanted.status:
        return control(system, direction, wanted)
    table = table_of(system.queue, source.path)
    if wanted.resume and not wanted.dry_run:
        the_open_one(TransferRecords(system.store.database), direction, wanted)
        require_guard(table, source.consent, tell=_tell)
        return go_on(system, direction, wanted)
    plan = plan_import(system.queue, table, wanted.scope)
    if wanted.dry_run:
        return show_import(system, table, plan, as_json=wanted.as_json)
    confirm_plan(plan, wanted.plan_hash)
    return run_shown(
        system,
        lambda show: start_import(
            system.queue, table, plan, wanted.limits, source.consent, watcher=show, tell=_tell
        ),
        sum(plan.rows.values()),
        wanted,
    )


def _tell(sentence: str) -> None:
    click.echo(sentence, err=True)


def show_import(system: System, table: LegacyTable, plan: Plan, *, as_json: bool) -> int:
    needed = needed_statements(table)
    total = sum(plan.rows.values())
    value = plan.to_json() | {"hash": plan.hash, "total": total, "needed": needed, "skipped": table.skipped}
    lines = [f"import of {total:,} rows of {table.mapping.table}, plan {plan.hash}"]
    lines += [f"  {priority.value:7} {count:,}" for priority, count in plan.rows.items()]
    lines += [f"  needed first: {statement}" for statement in needed]
    lines += [f"  not looked for, a table is missing: {name}" for name in table.skipped]
    say(value, "\n".join(lines), as_json=as_json)
    return GOOD


def give_rows_back(system: System, path: Path, wanted: Wanted) -> int:
    """The rollback of an import; returns the exit code."""
    mapping = read_mapping(path)
    progress = Progress("given back:")
    try:
        done = give_back(system.queue, mapping.name, watcher=lambda rows: progress.step(rows - progress.done))
    finally:
        progress.end()
    text = f"{done.rows:,} rows of {mapping.table} are queued for the old workers again."
    text += "".join(f" Import {number} was aborted." for number in done.aborted)
    say(asdict(done), text, as_json=wanted.as_json)
    return GOOD
