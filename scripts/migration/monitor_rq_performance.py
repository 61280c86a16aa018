"""Watch the system: what ends a second, what waits on each track, how old the oldest is, and how long tasks
took. Text on a terminal, with --json one object a line. Exit 0: watched to the end, or until Ctrl+C."""

from __future__ import annotations

import json
import time
from pathlib import Path

import click

from app.system import System
from app.transfer.sampling import Sample, Sampler
from scripts.migration.commands import GOOD, guarded, json_option, running_system


@click.command(help=__doc__)
@click.option("--duration", type=click.FloatRange(min=0), default=7200.0, show_default=True, help="Seconds.")
@click.option("--interval", type=click.FloatRange(min=0.1), default=5.0, show_default=True, help="Seconds.")
@click.option("--output", type=click.Path(path_type=Path), help="Append the JSON lines to this file, too.")
@json_option
def main(duration: float, interval: float, output: Path | None, as_json: bool) -> None:
    with running_system() as system:
        guarded(lambda: watch(system, duration, interval, output, as_json=as_json))


def watch(system: System, duration: float, interval: float, output: Path | None, *, as_json: bool) -> int:
    sampler, until = Sampler(system), time.monotonic() + duration
    try:
        while True:
            seen = sampler.take()
            line = json.dumps(seen.as_json())
            click.echo(line if as_json else _line(seen))
            if output is not None:
                with output.open("a", encoding="utf-8") as lines:
                    lines.write(line + "\n")
            left = until - time.monotonic()
            if left <= 0:
                return GOOD
            time.sleep(min(interval, left))
    except KeyboardInterrupt:
        return GOOD


def _line(seen: Sample) -> str:
    rate = "-" if seen.ended_per_second is None else f"{seen.ended_per_second:,.1f}/s"
    tracks = "  ".join(f"{name} {d.redis:,}+{d.database:,}" for name, d in seen.depths.items())
    times = f"p50 {_seconds(seen.p50_seconds)} p95 {_seconds(seen.p95_seconds)}"
    state = "  FALLBACK" if seen.fallback else ""
    lag = f"lag {_seconds(seen.lag_seconds)}"
    return f"{seen.at:%H:%M:%S}  {rate:>10}  redis+database: {tracks}  {lag}  {times}{state}"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"


if __name__ == "__main__":
    main()
