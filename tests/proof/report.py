"""The figures of a proof in docs/verification.md: written from the run's JSON alone."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from benchmarks.tables import render
from tests.soak.report import ROOT, commit, machine, write

PAGE = ROOT / "docs" / "verification.md"
FIGURES = ROOT / "docs" / "verification.json"


def circumstances() -> dict[str, Any]:
    """Of which state of the code, when and where. Ask before a run, not after."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": machine(),
        "load_average": round(os.getloadavg()[0], 1),
    }


def is_proven(figures: Mapping[str, Any]) -> bool:
    """Whether each planted fault was named, and nothing else, there and under load."""
    invented = figures["invented"] or figures["load"]["runs_with_findings"]
    return figures["found"] == figures["planted"] and not invented


def publish(figures: Mapping[str, Any]) -> None:
    """Write docs/verification.json, and the figures of docs/verification.md from it."""
    write(figures, FIGURES)
    PAGE.write_text(filled(PAGE.read_text(), json.loads(FIGURES.read_text())))


def filled(page: str, figures: Mapping[str, Any]) -> str:
    """The page with these figures between its marks."""
    return render(page, {"rates": _rates(figures), "proof": _proof(figures)})


def _rates(figures: Mapping[str, Any]) -> str:
    rows = [
        ("a baseline is recorded", [figures["recorded_per_second"]]),
        *((f"verified, {way}", rates) for way, rates in figures["clean"].items()),
    ]
    return "\n".join(
        (
            f"{figures['at']}, commit {figures['commit']}, {figures['machine']}, {figures['servers']}, "
            f"load average {figures['load_average']} at the start; "
            f"seed {figures['seed']}. {figures['rows']:,} rows, "
            f"{figures['tickets']:,} of them with a ticket, all of them in the baseline, which takes "
            f"{figures['baseline_bytes'] / figures['rows']:.0f} bytes a row on disk.",
            "",
            *(f"- {what}: {_span(rates)} rows a second" for what, rates in rows),
        )
    )


def _span(rates: Sequence[int]) -> str:
    lowest, highest = min(rates), max(rates)
    return f"{lowest:,}" if lowest == highest else f"{lowest:,} to {highest:,}"


def _proof(figures: Mapping[str, Any]) -> str:
    load = figures["load"]
    unsure = load["runs"] - load["runs_clean"] - load["runs_with_findings"]
    verdict = "" if is_proven(figures) else "**Not proven.** "
    return (
        f"{verdict}Of {figures['planted']:,} faults of {len(figures['classes'])} classes, "
        f"planted among these rows, {figures['found']:,} were named by their class; "
        f"named beside them: {figures['invented']}.\n\n"
        f"Of {load['runs']} verifications of a system under load, {load['runs_clean']} were clean, "
        f"{load['runs_with_findings']} named a fault, {unsure} could not say everything. In all it took "
        f"{load['submitted']:,} tasks; meanwhile it ended {load['ended_while_verified']:,}."
    )
