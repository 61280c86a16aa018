"""Verification as the gates of a procedure want it: with its baseline, and with a page that stays."""

from __future__ import annotations

from collections.abc import Collection

from app.system import System
from app.tasks.model import PRIORITIES, Priority
from app.transfer.baseline import Baseline
from app.transfer.procedure.gates import Ground, Outcome
from app.transfer.verification.page import page
from app.transfer.verification.report import Report
from app.transfer.verification.suspects import Patience
from app.transfer.verification.tickets import TicketReader
from app.transfer.verification.verifier import Verifier, Wanted
from app.transfer.wiring import reader_of, time_limits_of


def verified(
    ground: Ground, what: str, *, left: str | None = None, of: Collection[Priority] = PRIORITIES
) -> Outcome:
    """Verify the whole system and keep the page. `left`: the status that rows of these priorities were to
    leave; None: both tracks are in use. While Redis is away the rows alone are verified.

    The page is named in `ground.facts["reports"]`.
    """
    report = _report(ground, what, left, of)
    path = ground.place(f"{what.replace(' ', '-')}.html")
    path.write_text(page(report), encoding="utf-8")
    named = {"name": path.name, "of": what, "verdict": report.verdict, "exit_code": report.exit_code}
    ground.facts.setdefault("reports", []).append(named)
    asked = "" if report.tickets is not None else ", rows only: Redis was not asked"
    said = f"{report.verdict}; {report.rows:,} rows in {report.seconds:.1f} s{asked}, {path.name}"
    if report.exit_code == 0:
        return Outcome(True, said)
    return Outcome(False, said, "open the page, see to what it names, then --resume; or --rollback")


def _report(ground: Ground, what: str, left: str | None, of: Collection[Priority]) -> Report:
    system = ground.system
    folder = ground.known("baseline")
    wanted = Wanted(
        subject=f"{ground.subject}: {what}",
        left_status=left,
        left_ranks=frozenset(priority.rank for priority in of),
        grace_seconds=system.config.RQ_TICKET_GRACE,
        foreign_allowed=system.config.RQ_ALLOW_FOREIGN_JOBS,
        patience=Patience.of(ground.plan.choices.patience_seconds),
    )
    baseline = None if folder is None else Baseline(folder)
    limits = time_limits_of(system)
    return Verifier(system.store.database, _reader(system), limits, baseline=baseline, wanted=wanted).run()


def _reader(system: System) -> TicketReader | None:
    """None while Redis is away, and known to be."""
    return reader_of(system) if system.tickets is not None and system.tickets.ping() else None
