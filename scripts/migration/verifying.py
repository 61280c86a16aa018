"""What the two verifying commands share: their options, and one run with its report."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import click

from app.system import System
from app.tasks.model import PRIORITIES
from app.transfer.backup import latest
from app.transfer.baseline import KIND, Baseline
from app.transfer.legacy.mapping import read_mapping
from app.transfer.legacy.table import database_of
from app.transfer.progress import Progress
from app.transfer.verification.imports import ImportVerifier
from app.transfer.verification.page import page
from app.transfer.verification.report import Report
from app.transfer.verification.suspects import Patience
from app.transfer.verification.verifier import Verifier, Wanted
from app.transfer.wiring import reader_of, time_limits_of
from scripts.migration.commands import baselines, guarded, json_option, running_system, say, stop

_OPTIONS = (
    click.option("--baseline", type=click.Path(path_type=Path), help="Folder; default: the newest one."),
    click.option("--no-baseline", is_flag=True, help="Verify tickets against rows only."),
    click.option(
        "--priority",
        "priorities",
        type=click.Choice([priority.value for priority in PRIORITIES]),
        multiple=True,
        help="Only of these nothing must be left behind; default: of all.",
    ),
    click.option("--live", is_flag=True, help="Both tracks are in use: nothing counts as left behind."),
    click.option("--rows-only", is_flag=True, help="Do not ask Redis: it is gone, and known to be."),
    click.option("--patience", default=90.0, show_default=True, help="Seconds to look at what is suspect."),
    click.option(
        "--digests",
        type=click.Choice(["database", "process"]),
        default="database",
        show_default=True,
        help="Who computes them.",
    ),
    click.option("--report", "report_file", type=click.Path(path_type=Path), help="Write a page, too."),
    json_option,
)


@dataclass(frozen=True, slots=True)
class Asked:
    """The options of one run."""

    baseline: Path | None
    no_baseline: bool
    priorities: Sequence[str]
    live: bool
    rows_only: bool
    patience: float
    digests: str
    report_file: Path | None
    as_json: bool


def verifying_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def verify(asked: Asked, *, subject: str, left_status: str) -> None:
    """Verify, tell, and exit: 0 clean, 1 a mismatch, 2 incomplete."""
    with running_system() as system:
        report = _verifier(system, asked, subject=subject, left_status=left_status).run()
        sys.exit(_told(report, asked))


def verify_import(asked: Asked, source: Path) -> NoReturn:
    """As `verify`, of the import that a mapping file names."""
    with running_system() as system:
        guarded(lambda: _told(_import_verifier(system, source).run(), asked))
    raise AssertionError("unreachable: the command has ended")


def _import_verifier(system: System, source: Path) -> ImportVerifier:
    mapping = read_mapping(source)
    theirs = database_of(system.store, mapping)
    return ImportVerifier(system.store.database, mapping, theirs=theirs)


def _told(report: Report, asked: Asked) -> int:
    if asked.report_file is not None:
        asked.report_file.write_text(page(report), encoding="utf-8")
    say(report.as_json(), report.as_text(), as_json=asked.as_json)
    return report.exit_code


def _verifier(system: System, asked: Asked, *, subject: str, left_status: str) -> Verifier:
    names = asked.priorities or [priority.value for priority in PRIORITIES]
    wanted = Wanted(
        subject=subject,
        left_status=None if asked.live else left_status,
        left_ranks=frozenset(rank for rank, priority in enumerate(PRIORITIES) if priority.value in names),
        grace_seconds=system.config.RQ_TICKET_GRACE,
        foreign_allowed=system.config.RQ_ALLOW_FOREIGN_JOBS,
        digests_in_database=asked.digests == "database",
        patience=Patience.of(asked.patience),
    )
    return Verifier(
        system.store.database,
        None if asked.rows_only else reader_of(system),
        time_limits_of(system),
        baseline=None if asked.no_baseline else Baseline(_baseline_folder(system, asked)),
        wanted=wanted,
        progress=Progress("rows"),
    )


def _baseline_folder(system: System, asked: Asked) -> Path:
    folder = asked.baseline or latest(baselines(system), KIND)
    if folder is None:
        stop("There is no baseline: record one with create_backup.py before a move, or say --no-baseline.")
    return folder
