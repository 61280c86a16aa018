"""A report as one page of HTML that needs nothing beside it: calm, dark where the reader's screen is, and
readable on a phone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from app.transfer.verification.faults import meaning_of
from app.transfer.verification.report import Report

NAMED = 200
_WORDS = {0: "clean", 1: "mismatch", 2: "incomplete"}

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2530; --soft: #5c6773; --paper: #fbfbf9; --line: #e2e3df;
  --clean: #2f7d4f; --mismatch: #b23b3b; --incomplete: #97700b; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7ea; --soft: #98a2ad; --paper: #14181d;
  --line: #2b323a; --clean: #6fc28f; --mismatch: #ef8a84; --incomplete: #e0bb5f; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 60rem; padding: 1.5rem 1rem 4rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.4rem; line-height: 1.3; margin: 0; border-left: .35rem solid; padding-left: .8rem; }
h2 { font-size: 1.05rem; margin: 2rem 0 .4rem; }
p { margin: .3rem 0; color: var(--soft); }
.clean { color: var(--clean); } .mismatch { color: var(--mismatch); }
.incomplete { color: var(--incomplete); }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .6rem; }
.figures div { border: 1px solid var(--line); border-radius: .5rem; padding: .5rem .7rem; }
.figures b { display: block; font-size: 1.15rem; font-variant-numeric: tabular-nums; }
.figures span { color: var(--soft); font-size: .85rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
td { border-top: 1px solid var(--line); padding: .3rem .8rem .3rem 0; vertical-align: top; }
td:first-child { font-family: ui-monospace, monospace; white-space: nowrap; }
"""


def page(report: Report) -> str:
    """The whole page."""
    word = _WORDS[report.exit_code]
    took = f"{report.seconds:.1f} s, {report.rows_per_second:,.0f} rows a second"
    head = f"{report.subject}, {report.at}. {took}."
    parts = [f'<h1 class="{word}">{escape(report.verdict)}</h1>', f"<p>{escape(head)}</p>"]
    parts += ["<h2>Rows</h2>", _figures({"in all": report.rows} | report.statuses)]
    tickets = {"Redis was": "not asked"} if report.tickets is None else report.tickets
    parts += ["<h2>Tickets</h2>", _figures(tickets | {"rows beyond the window": report.beyond_window})]
    if report.baseline is not None:
        parts += ["<h2>Baseline</h2>", _figures(report.baseline)]
    for fault, named in report.by_fault().items():
        rows = ((finding.key, finding.detail) for finding in named[:NAMED])
        parts += [f"<h2>{escape(fault)}: {len(named):,}</h2>", f"<p>{escape(meaning_of(named[0].fault))}</p>"]
        parts += [_table(rows), _more(len(named))]
    if report.pending:
        parts += [
            "<h2>Pending</h2>",
            _table(list(report.pending.items())[:NAMED]),
            _more(len(report.pending)),
        ]
    if report.unread:
        parts += ["<h2>Not read</h2>", _table(("", reason) for reason in report.unread)]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(word)}: verification</title><style>{_STYLE}</style></head>"
        f"<body>{''.join(parts)}</body></html>\n"
    )


def _figures(numbers: Mapping[str, Any]) -> str:
    cells = (
        f"<div><b>{f'{n:,}' if isinstance(n, int) else escape(str(n))}</b><span>{escape(name)}</span></div>"
        for name, n in numbers.items()
    )
    return f'<div class="figures">{"".join(cells)}</div>'


def _table(rows: Iterable[tuple[str, str]]) -> str:
    lines = (f"<tr><td>{escape(key)}</td><td>{escape(said)}</td></tr>" for key, said in rows)
    return f'<div class="scroll"><table>{"".join(lines)}</table></div>'


def _more(count: int) -> str:
    return f"<p>and {count - NAMED:,} more, all of them in --json</p>" if count > NAMED else ""
