"""What `python -m benchmarks.transfer` measured, as a table. Pure: its file in, text out."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.tables import Table, number

WAYS = {
    "dispatched_rows_per_second": "Twintrack, to Redis",
    "recalled_rows_per_second": "Twintrack, back",
    "hand_built_rows_per_second": "by hand, 1,000 at once",
    "naive_rows_per_second": "row by row",
}


def table_of(figures: Mapping[str, Any]) -> Table:
    """Medians of the rounds, and what each is of the two other ways."""
    medians = {name: statistics.median(figures[name]) for name in WAYS}
    naive, by_hand = medians["naive_rows_per_second"], medians["hand_built_rows_per_second"]
    rows = [
        [way, number(medians[name]), number(medians[name] / naive), number(medians[name] / by_hand)]
        for name, way in WAYS.items()
    ]
    title = (
        f"{figures['rows']:,} waiting rows on MariaDB; the mover's peak {figures['peak_memory_megabytes']} MB"
    )
    return Table("moves", title, ["", "rows/s", "of row by row", "of by hand"], rows)


def blocks(path: Path) -> dict[str, str]:
    """What goes between the document's markers, from the file that a run saved."""
    if not path.exists():
        return {"moves": "", "moved": "Not measured yet."}
    figures = json.loads(path.read_text())
    table = table_of(figures)
    return {
        "moves": table.as_markdown(),
        "moved": f"{table.title}. Median of {figures['rounds']} rounds, {figures['at']:.10}.",
    }
