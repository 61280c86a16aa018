"""The document of the benchmarks: its tables are written from the figures that are saved beside it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks import moves
from benchmarks.plot import svg
from benchmarks.results import Results
from benchmarks.tables import TABLES, render, tables

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"
IDLE_LOAD = 0.5


def write_document(document: Path, results: Results) -> Path:
    """Write the figures and the picture beside the document, and fill its tables. Returns the picture."""
    results.save(document.with_suffix(".json"))
    rewrite(document)
    picture = document.parent / "images" / "bench.svg"
    picture.write_text(svg(results))
    return picture


def rewrite(document: Path) -> None:
    """Fill the document's tables from the files beside it."""
    document.write_text(filled(document))


def filled(document: Path) -> str:
    """The document as the files beside it have it: the figures of the last saved runs."""
    found = blocks(Results.load(document.with_suffix(".json")))
    return render(document.read_text(), found | moves.blocks(document.with_name("benchmarks-transfer.json")))


def blocks(results: Results) -> dict[str, str]:
    """What goes between the markers of a document."""
    missing = dict.fromkeys(TABLES, "Not measured in this run.")
    tabled = {table.name: table.as_markdown() for table in tables(results)}
    return {"about": _circumstances(results)} | missing | tabled


def _circumstances(results: Results) -> str:
    """When, where and how it was measured; first of all what forbids to rely on it."""
    about = results.about
    short, busy = about["share"] < 1, about["load_at_start"] > IDLE_LOAD
    words = []
    if short or busy:
        run = f"a short run ({about['share']:g} of the usual number of tasks)" if short else "a run"
        where = " on a machine that was busy with other work" if busy else ""
        words.append(f"**Figures of {run}{where}: rates are too low, ratios rough, no verdict is final.**")
    words.append(
        f"Measured on {_run(about)}, on {about['cores']} cores. Python {about['python']}, {about['machine']}."
    )
    words += [f"What that run left out is of {_run(also)}." for also in about.get("also", [])]
    if results.failures:
        failed = "; ".join(failure.split(":")[0] for failure in results.failures)
        words.append(f"Not measured: {failed}.")
    return " ".join(words)


def _run(about: Mapping[str, Any]) -> str:
    return (
        f"{datetime.fromisoformat(about['at']):%-d %B %Y at %H:%M} UTC, load average"
        f" {about['load_at_start']} at the start, median of {about['rounds']} round(s)"
    )
