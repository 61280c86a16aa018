"""What `python -m benchmarks.fan_out` measured, as tables. Pure: figures in, text out."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.page import IDLE_LOAD
from benchmarks.tables import Table, number, render

WAYS = {"queues": "workers of the queues", "pool": "workers of a pool"}
Span = tuple[float, float]


def most_at_once(spans: Iterable[Span]) -> int:
    """How many of these (begin, end) run at the same moment, at most. One that begins when another ends does
    not run beside it."""
    turns = sorted(turn for begin, end in spans for turn in ((begin, 1), (end, -1)))
    running = most = 0
    for _, change in turns:
        running += change
        most = max(most, running)
    return most


def ideal_seconds(tables: int, seconds: float, at_once: int) -> float:
    """What so many tables take if nothing but their own work takes time."""
    return math.ceil(tables / at_once) * seconds


def speed_ups(figures: Mapping[str, Any]) -> Table:
    """Medians by number of workers, each beside the ideal."""
    rows = []
    for workers, by_way in figures["speed_up"].items():
        ideal = ideal_seconds(figures["tables"], figures["seconds"], int(workers))
        row = [workers, number(ideal)]
        for way in WAYS:
            median = statistics.median(by_way[way])
            row += [number(median), f"{100 * ideal / median:.0f} %"]
        rows.append(row)
    heads = [head for way in WAYS.values() for head in (f"{way}, s", "of the ideal")]
    return Table("speedup", "", ["workers", "ideal, s", *heads], rows)


def limits(figures: Mapping[str, Any]) -> Table:
    """How many ran at once under a limit, in all rounds."""
    rows = []
    for kind, limit in figures["limits"].items():
        ideal = ideal_seconds(figures["tables"], figures["seconds"], limit["at_most"])
        median = statistics.median(limit["took"])
        rows.append(
            [
                f"{kind}, {limit['at_most']} at a time",
                str(max(limit["at_once"])),
                number(ideal),
                number(median),
                f"{100 * ideal / median:.0f} %",
            ]
        )
    return Table(
        "limits", "", ["limit, with 10 workers", "most at once", "ideal, s", "took, s", "of the ideal"], rows
    )


def exceeded(figures: Mapping[str, Any]) -> list[str]:
    """The limits that were not held."""
    return [kind for kind, limit in figures["limits"].items() if max(limit["at_once"]) > limit["at_most"]]


def about(figures: Mapping[str, Any]) -> str:
    """When, where and how it was measured; first of all what forbids to rely on it."""
    busy = figures["load_at_start"] > IDLE_LOAD
    words = ["**The machine was busy with other work: the times are too long.**"] if busy else []
    words.append(
        f"{figures['tables']} tables that take {figures['seconds']:g} s each, on MariaDB and Redis,"
        f" {figures['cores']} cores, {datetime.fromisoformat(figures['at']):%-d %B %Y}, load average"
        f" {figures['load_at_start']} at the start, median of {figures['rounds']} round(s). Counted from the"
        " start of the first table to the end of the last, by the database's clock."
    )
    return " ".join(words)


def tables_of(figures: Mapping[str, Any]) -> Sequence[Table]:
    """Both."""
    return speed_ups(figures), limits(figures)


def filled(document: Path, figures: Path) -> str:
    """The document with these saved figures between its markers."""
    saved = json.loads(figures.read_text())
    blocks = {table.name: table.as_markdown() for table in tables_of(saved)}
    return render(document.read_text(), blocks | {"spread": about(saved)})
