"""A report passes only if everything was read and nothing was found; its page shows what its text says."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest

from app.transfer.progress import Progress
from app.transfer.verification.faults import MEANINGS, Fault, Finding
from app.transfer.verification.page import page
from app.transfer.verification.report import NAMED_PER_FAULT, Report

FINDING = Finding(Fault.MISSING_TICKET, "7", "row DISPATCHED")


@pytest.mark.parametrize(
    ("report", "code", "word"),
    [
        (Report("x"), 0, "CLEAN"),
        (Report("x", pending={"7": "on its way"}), 2, "INCOMPLETE"),
        (Report("x", unread=["Redis"]), 2, "INCOMPLETE"),
        (Report("x", findings=[FINDING]), 1, "MISMATCH"),
        (Report("x", findings=[FINDING], pending={"8": "?"}, unread=["Redis"]), 1, "MISMATCH"),
    ],
)
def test_the_verdict_follows_from_what_was_found_and_what_was_not_read(
    report: Report, code: int, word: str
) -> None:
    assert report.exit_code == code
    assert report.verdict.startswith(word)
    assert report.as_json()["exit_code"] == code
    assert word.lower() in page(report)


def test_every_fault_is_explained() -> None:
    assert set(MEANINGS) == set(Fault)


def test_of_many_findings_the_text_names_some_and_json_all() -> None:
    report = Report("x", findings=[Finding(Fault.DOUBLED_TICKET, str(n)) for n in range(50)])

    assert report.as_text().count("\n  ") == NAMED_PER_FAULT + 1
    assert "30 more" in report.as_text()
    assert len(report.as_json()["findings"]) == 50


def test_what_stands_in_redis_cannot_write_into_the_page() -> None:
    report = Report("x", findings=[Finding(Fault.FOREIGN_TICKET, "<script>alert(1)</script>", "&")])

    assert "<script>" not in page(report)
    assert "&lt;script&gt;" in page(report)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_tells_count_rate_and_time_left_on_a_terminal_only() -> None:
    now, terminal, file = [0.0], Terminal(), io.StringIO()
    shown = Progress("rows", total=200, stream=terminal, clock=lambda: now[0])
    silent = Progress("rows", total=200, stream=file, clock=lambda: now[0])
    now[0] = 2.0

    shown.step(100)
    silent.step(100)

    assert shown.line() == "rows 100 of 200 (50%), 50/s, 2 s left"
    assert shown.line() in terminal.getvalue()
    assert file.getvalue() == ""


def test_the_documents_list_every_fault_with_its_meaning() -> None:
    document = Path(__file__).resolve().parents[2] / "docs" / "verification.md"
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", document.read_text(), re.MULTILINE)

    assert rows[1:] == [(fault.value, meaning) for fault, meaning in MEANINGS.items()]
