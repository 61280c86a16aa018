"""Measure this system beside others: medians over interleaved rounds, as tables, JSON and a picture.

MariaDB and PostgreSQL write every commit through to the disk. `make bench-peers` installs the peers other
than RQ.
"""

from __future__ import annotations

import os
import platform
import signal
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import click
from rich.console import Console

from benchmarks.arena import Arena
from benchmarks.page import IDLE_LOAD, write_document
from benchmarks.peers import PEERS
from benchmarks.plan import SECTIONS, Choice, Step, steps_of
from benchmarks.plot import bars, svg
from benchmarks.processes import load_average
from benchmarks.results import Results
from benchmarks.tables import tables

ROOT = Path(__file__).resolve().parents[1]
PEERS_PYTHON = ROOT / ".venv-bench" / "bin" / "python"
QUICK_SHARE = 0.2

console = Console(width=max(120, Console().width), highlight=False)


@click.command(help=__doc__)
@click.option("--rounds", type=click.IntRange(1), help="Rounds; the median counts.  [default: 3; 1 if quick]")
@click.option("--quick", is_flag=True, help="A fifth of the tasks: says whether it works, not how fast.")
@click.option("--only", help=f"Sections, with commas between: {', '.join(SECTIONS)}.")
@click.option("--series", help="Systems, with commas between, by the beginning of their names.")
@click.option("--workers", default=2, show_default=True, help="Worker processes of each system.")
@click.option("--share", type=float, help="Of the usual number of tasks per measurement.")
@click.option("--output", type=click.Path(path_type=Path), default=Path("var/bench.json"), show_default=True)
@click.option(
    "--render",
    "document",
    type=click.Path(path_type=Path, exists=True),
    help="Measure nothing: write the saved figures into this document and its picture.",
)
@click.option(
    "--add",
    "also",
    type=click.Path(path_type=Path, exists=True),
    multiple=True,
    help="With --render: figures of another run, where the first has none.",
)
def main(
    rounds: int | None,
    quick: bool,
    only: str | None,
    series: str | None,
    workers: int,
    share: float | None,
    output: Path,
    document: Path | None,
    also: tuple[Path, ...],
) -> None:
    if document is not None:
        try:
            measured = Results.load(output)
            for path in also:
                measured.add_missing(Results.load(path))
            picture = write_document(document, measured)
        except (OSError, ValueError) as error:
            raise click.ClickException(str(error)) from error
        console.print(f"Written: {document}, {document.with_suffix('.json')}, {picture}")
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # by way of every `finally`: servers, workers
    choice = Choice(
        sections=_words(only, SECTIONS) or SECTIONS,
        series=_words(series),
        share=share or (QUICK_SHARE if quick else 1.0),
        workers=workers,
        peers_python=PEERS_PYTHON if PEERS_PYTHON.exists() else None,
    )
    _announce(choice)
    results = Results(about=_about(choice, rounds or (1 if quick else 3)))
    _measure(choice, results, output)
    for table in tables(results):
        console.print(table.for_terminal())
    console.print(f"All rounds: {output}")
    if bars(results):
        output.with_suffix(".svg").write_text(svg(results))
        console.print(f"Picture: {output.with_suffix('.svg')}")
    for failure in results.failures:
        console.print(f"NOT MEASURED: {failure}", markup=False)
    sys.exit(1 if results.failures else 0)


def _words(text: str | None, allowed: tuple[str, ...] = ()) -> list[str]:
    words = [word.strip() for word in (text or "").split(",") if word.strip()]
    for word in words:
        if allowed and word not in allowed:
            raise click.UsageError(f"--only knows no {word!r}; it knows {', '.join(allowed)}")
    return words


def _announce(choice: Choice) -> None:
    missing = [name for name, listed in PEERS.items() if not listed.stock and choice.wants(name)]
    if choice.peers_python is None and missing:
        console.print(f"Without {', '.join(missing)}: `make bench-peers` installs them.")
    load = load_average()
    console.print(f"Load average {load:.2f} on {os.cpu_count()} cores.")
    if load > IDLE_LOAD:
        console.print("[bold]The machine is not idle: compare within this run only.[/bold]")


def _about(choice: Choice, rounds: int) -> dict[str, object]:
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": platform.platform(),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load_at_start": round(load_average(), 2),
        "rounds": rounds,
        "workers": choice.workers,
        "share": choice.share,
    }


def _measure(choice: Choice, results: Results, output: Path) -> None:
    """All rounds, saved after each step. A measurement that fails is noted, and the others go on."""
    rounds = int(results.about["rounds"])
    first = steps_of(choice)
    steps = first + [step for step in first if not step.once] * (rounds - 1)
    took: dict[Step, float] = {}
    with tempfile.TemporaryDirectory(prefix="twintrack-bench-") as folder, Arena(Path(folder)) as arena:
        for number, step in enumerate(steps):
            left = sum(took.get(other, other.seconds) for other in steps[number:])
            console.print(f"[{number + 1}/{len(steps)}] {step.title}, {left / 60:.0f} min left", markup=False)
            began = time.monotonic()
            try:
                results.add(step.series, list(step.measure(arena)))
            except Exception as error:  # noqa: BLE001 - one peer that breaks must not cost an hour's figures
                results.failures.append(f"{step.title}: {type(error).__name__}: {error}")
            took[step] = time.monotonic() - began
            results.save(output)


if __name__ == "__main__":
    main()
