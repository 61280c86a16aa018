"""The tables of a run, for the terminal and for a document. Pure: results in, text out."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from rich.table import Table as RichTable

from benchmarks.goals import judged
from benchmarks.peers import PEERS
from benchmarks.results import OURS, Results

DURABILITY = {
    "SQLite": "row, WAL",
    "MariaDB": "row, fsync",
    "PostgreSQL": "row, fsync",
} | {name: listed.durability for name, listed in PEERS.items()}

NOT_MEASURED = "-"
TABLES = ("drain", "targets", "goals", "submit", "cost", "polling", "latency", "idle", "sweep")


@dataclass(frozen=True, slots=True)
class Table:
    """A table of words. `name` marks its place in a document."""

    name: str
    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def for_terminal(self) -> RichTable:
        table = RichTable(title=self.title, title_justify="left")
        for number, head in enumerate(self.header):
            table.add_column(head, justify="left" if number == 0 else "right")
        for row in self.rows:
            table.add_row(*row)
        return table

    def as_markdown(self) -> str:
        lines = [
            "| " + " | ".join(self.header) + " |",
            "|---" + "|--:" * (len(self.header) - 1) + "|",
            *("| " + " | ".join(row) + " |" for row in self.rows),
        ]
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class _Column:
    """One figure of all systems. Ours are measured on two tracks, the others on one of their own."""

    head: str
    figure: str
    form: Callable[[float], str]
    track: str = "redis"
    """Whose figure of ours; empty: a figure that has no track."""

    def cell(self, results: Results, series: str) -> str:
        name = f"{self.figure}_{self.track}" if series in OURS and self.track else self.figure
        if series not in OURS and self.track != "redis":
            return ""
        value = results.median(series, name)
        return NOT_MEASURED if value is None else self.form(value)


def number(value: float) -> str:
    """Three digits that mean something."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def tables(results: Results) -> list[Table]:
    """All tables that have something to show."""
    made = [
        _drain(results),
        _targets(results),
        _goals(results),
        _of_columns(results, "submit", "Submissions a second, one client process", _SUBMIT),
        _of_columns(results, "cost", f"{_COST_TITLE}; Redis track", _COST),
        _of_columns(results, "polling", f"{_COST_TITLE}; database track", _COST_DATABASE),
        _of_columns(results, "latency", "Idle latency in ms: submit call → first line of the task", _LATENCY),
        _of_columns(results, "idle", "What an idle worker costs a minute", _IDLE),
        _sweep(results),
    ]
    return [table for table in made if table.rows]


_SUBMIT = (
    _Column("one by one", "submit", number),
    _Column("64 threads", "submit_threads", number),
    _Column("in bulk", "bulk", number),
    _Column("database track: one by one", "submit", number, "database"),
    _Column("64 threads", "submit_threads", number, "database"),
    _Column("in bulk", "bulk", number, "database"),
)
_COST_TITLE = "CPU seconds per 1,000 tasks, calls per task, memory per worker"
_COST = (
    _Column("workers' CPU s", "cpu", number),
    _Column("database CPU s", "server_cpu", number),
    _Column("Redis CPU s", "redis_cpu", number),
    _Column("statements", "statements", number),
    _Column("Redis commands", "redis_commands", number),
    _Column("scripts", "redis_scripts", number),
    _Column("PSS MB", "pss", number),
    _Column("USS MB", "uss", number),
)
_COST_DATABASE = tuple(replace(column, track="database") for column in _COST if "redis" not in column.figure)
_LATENCY = (
    _Column("p50", "p50", number),
    _Column("p99", "p99", number),
    _Column("database track: p50", "p50", number, "database"),
    _Column("p99", "p99", number, "database"),
    _Column("beside Redis: p50", "p50", number, "beside"),
    _Column("p99", "p99", number, "beside"),
    _Column("bare drivers: p50", "floor_p50", number, ""),
    _Column("p99", "floor_p99", number, ""),
)
_IDLE = (
    _Column("statements", "idle_statements", number),
    _Column("Redis commands", "idle_redis_commands", number),
    _Column("CPU s", "idle_cpu", number),
    _Column("database track: statements", "idle_statements", number, "database"),
    _Column("CPU s", "idle_cpu", number, "database"),
    _Column("beside Redis: statements", "idle_statements", number, "beside"),
    _Column("Redis commands", "idle_redis_commands", number, "beside"),
    _Column("CPU s", "idle_cpu", number, "beside"),
)


def _of_columns(results: Results, name: str, title: str, columns: Sequence[_Column]) -> Table:
    """One row per system that has any of these figures."""
    rows = []
    for series in results.series():
        cells = [column.cell(results, series) for column in columns]
        if any(cell not in ("", NOT_MEASURED) for cell in cells):
            rows.append([series, *cells])
    return Table(name, title, ["", *(column.head for column in columns)], rows)


def _drain(results: Results) -> Table:
    workers = results.about.get("workers", 2)
    title = f"Tasks a second, {workers} worker processes, no-op task, payload of 200 bytes"
    columns = (
        _Column("tasks/s", "drain", number),
        _Column("database track", "drain", number, "database"),
        _Column("batch of one", "drain_one", number, ""),
    )
    rows = []
    for series in results.series():
        figure = "drain_redis" if series in OURS else "drain"
        if results.median(series, figure) is None:
            continue
        cells = [column.cell(results, series) for column in columns]
        rows.append([series, DURABILITY.get(series, ""), *cells, *_multiples(results, series, figure)])
    head = ["", "what it keeps", *(c.head for c in columns), "of RQ Worker", "of RQ SimpleWorker"]
    return Table("drain", title, head, rows)


def _multiples(results: Results, series: str, figure: str) -> list[str]:
    ratios = [results.ratio((series, figure), (rq, "drain")) for rq in ("RQ Worker", "RQ SimpleWorker")]
    return [NOT_MEASURED if ratio is None else number(ratio) for ratio in ratios]


def _targets(results: Results) -> Table:
    rows = []
    for verdict in results.verdicts():
        if verdict.ratio is None:
            continue
        least = verdict.target.least
        wish = "" if least is None else f"≥ {least:g}" if least > 1 else "> 1"
        rows.append([verdict.target.title, number(verdict.ratio), wish, verdict.word])
    return Table("targets", "Ratios of medians", ["", "measured", "target", "verdict"], rows)


def _goals(results: Results) -> Table:
    head = [
        "",
        "goal",
        "measured",
        "as written",
        "peer",
        "there",
        "here",
        "goal by the peer",
        "verdict by the peer",
    ]
    rows = [
        [
            one.goal.title,
            f"{'≥' if one.goal.is_rate else '≤'} {number(one.goal.goal)}",
            number(one.value),
            one.as_written,
            one.goal.peer[0],
            number(one.goal.there),
            number(one.peer),
            number(one.scaled),
            one.by_the_peer,
        ]
        for one in judged(results)
    ]
    return Table("goals", "Goals of another machine, in the measure of a peer", head, rows)


def _sweep(results: Results) -> Table:
    workers, batch = results.about.get("workers", 2), 100
    figures = {
        "1 worker": "drain_workers_1",
        f"{workers} workers": "drain_redis",
        "4 workers": "drain_workers_4",
        "batch 1": "drain_one",
        "batch 10": "drain_batch_10",
        f"batch {batch}": "drain_redis",
        "batch 500": "drain_batch_500",
    }
    rows = []
    for kind in OURS:
        values = [results.median(kind, figure) for figure in figures.values()]
        if results.median(kind, "drain_workers_1") is not None:
            rows.append([kind, *(NOT_MEASURED if value is None else number(value) for value in values)])
    title = f"Tasks a second by workers (batch {batch}) and by batch size ({workers} workers), Redis track"
    return Table("sweep", title, ["", *figures], rows)


def render(document: str, blocks: dict[str, str]) -> str:
    """The document with each block's text between its markers, `<!-- bench:NAME -->` and `<!-- /bench -->`.

    Raises `ValueError` for a marker that no block fills.
    """

    def fill(match: re.Match[str]) -> str:
        if match["name"] not in blocks:
            raise ValueError(f"nothing was measured for <!-- bench:{match['name']} -->")
        return f"{match['open']}\n\n{blocks[match['name']]}\n\n<!-- /bench -->"

    pattern = r"(?P<open><!-- bench:(?P<name>[a-z]+) -->).*?<!-- /bench -->"
    return re.sub(pattern, fill, document, flags=re.DOTALL)
