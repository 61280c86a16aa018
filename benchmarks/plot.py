"""The picture of a run: tasks a second as bars, an SVG that follows the reader's light or dark mode."""

from __future__ import annotations

from dataclasses import dataclass
from xml.sax.saxutils import escape

from benchmarks.results import OURS, Results
from benchmarks.tables import DURABILITY

WIDTH = 760
LEFT = 190
BAR_WIDTH = 400
ROW = 30
TOP = 64
BOTTOM = 44

STYLE = """
  text { font: 13px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #3b4350 }
  .title { font-size: 15px; font-weight: 600; fill: #1b212b }
  .quiet { font-size: 11.5px; fill: #6b7482 }
  .ours { fill: #2f7d6b }
  .beside { fill: #9cc9bd }
  .peer { fill: #c3c9d2 }
  .ground { fill: #ffffff }
  @media (prefers-color-scheme: dark) {
    text { fill: #c9d1db }
    .title { fill: #eef2f6 }
    .quiet { fill: #8b95a3 }
    .ours { fill: #4fb39b }
    .beside { fill: #2c5f54 }
    .peer { fill: #4a5361 }
    .ground { fill: #14181e }
  }
"""


@dataclass(frozen=True, slots=True)
class Bar:
    """One system. `beside` is ours on the database track."""

    name: str
    rate: float
    beside: float | None
    note: str

    @property
    def numbers(self) -> str:
        """Its rates as words."""
        return f"{self.rate:,.0f}" + (f" · {self.beside:,.0f}" if self.beside else "")


def bars(results: Results) -> list[Bar]:
    """The systems that were drained, fastest first."""
    found = []
    for series in results.series():
        ours = series in OURS
        rate = results.median(series, "drain_redis" if ours else "drain")
        if rate is not None:
            name = f"Twintrack, {series}" if ours else series
            beside = results.median(series, "drain_database") if ours else None
            found.append(Bar(name, rate, beside, DURABILITY.get(series, "")))
    return sorted(found, key=lambda bar: -bar.rate)


def svg(results: Results) -> str:
    """The picture. Raises `ValueError` if nothing was drained."""
    shown = bars(results)
    if not shown:
        raise ValueError("no drain was measured: there is nothing to draw")
    scale = BAR_WIDTH / max(max(bar.rate, bar.beside or 0) for bar in shown)
    height = TOP + ROW * len(shown) + BOTTOM
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}"'
        f' height="{height}" role="img" aria-label="{escape(_summary(shown), {chr(34): "&quot;"})}">',
        f"<style>{STYLE}</style>",
        f'<rect class="ground" width="{WIDTH}" height="{height}" rx="8"/>',
        f'<text class="title" x="24" y="30">Tasks a second, {results.about.get("workers", 2)} worker'
        " processes</text>",
        '<text class="quiet" x="24" y="49">No-op task, payload of 200 bytes, rounds measured:'
        f" {results.about.get('rounds', '?')}. Longer is better.</text>",
    ]
    for row, bar in enumerate(shown):
        lines += _bar(bar, TOP + row * ROW, scale)
    legend = "Twintrack: thick bar and first number by Redis tickets, thin bar and second by polling."
    lines += [f'<text class="quiet" x="24" y="{height - 16}">{legend}</text>', "</svg>"]
    return "\n".join(lines) + "\n"


def _bar(bar: Bar, top: int, scale: float) -> list[str]:
    kind = "ours" if bar.name.startswith("Twintrack") else "peer"
    widest = bar.rate
    rows = [f'<text x="{LEFT - 12}" y="{top + 17}" text-anchor="end">{escape(bar.name)}</text>']
    rate_height = 18
    if bar.beside is not None:
        widest = max(widest, bar.beside)
        rate_height = 11
        width = max(1.0, bar.beside * scale)
        rows.append(f'<rect class="beside" x="{LEFT}" y="{top + 16}" width="{width:.1f}" height="6" rx="2"/>')
    width = max(1.0, bar.rate * scale)
    rows.append(
        f'<rect class="{kind}" x="{LEFT}" y="{top + 4}" width="{width:.1f}" height="{rate_height}" rx="2"/>'
    )
    label = LEFT + widest * scale + 8
    rows.append(
        f'<text x="{label:.1f}" y="{top + 17}">{bar.numbers}'
        f'<tspan class="quiet" dx="8">{escape(bar.note)}</tspan></text>'
    )
    return rows


def _summary(shown: list[Bar]) -> str:
    return "Tasks a second: " + "; ".join(f"{bar.name} {bar.rate:,.0f}" for bar in shown)
