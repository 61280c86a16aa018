"""Which measurements a run makes, in which order: every round takes all systems in turn, so that what slows
the machine for a while slows none of them alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks import ours
from benchmarks.arena import Arena
from benchmarks.floor import floor
from benchmarks.peers import PEERS, Listed
from benchmarks.results import OURS, TARGETS, percentile

Figures = Iterable[tuple[str, float]]

SECTIONS = ("submit", "drain", "one", "sweep", "latency", "idle", "statements")
PEER_SECTIONS = ("submit", "drain", "latency")
ONCE = ("sweep", "latency", "idle", "statements")
TRACKS = ("redis", "database")
COMPARED = {target.under[0] for target in TARGETS}  # the others come in the first round only
DRAIN_TASKS = {"SQLite": 60_000, "MariaDB": 30_000, "PostgreSQL": 40_000}
ONE_TASKS = {"SQLite": 10_000, "MariaDB": 5_000, "PostgreSQL": 5_000}
SWEEP_WORKERS = (1, 4)
SWEEP_BATCHES = (10, 500)
LATENCY_TASKS = 80
IDLE_SECONDS = 60.0  # sleepers look by themselves two or three times in it
SUBMIT_TASKS = 1_000
THREADS = 64  # of a busy web process
PEER_DEADLINE_SECONDS = 400


@dataclass(frozen=True, slots=True)
class Choice:
    """What the user asked for. `share` is the part of the usual number of tasks; `peers_python` runs the
    optional peers."""

    sections: Sequence[str] = SECTIONS
    series: Sequence[str] = ()
    share: float = 1.0
    workers: int = 2
    peers_python: Path | None = None

    def wants(self, series: str) -> bool:
        """Is this system chosen? Names are compared by their beginnings, small and capital letters alike."""
        names = [name.lower() for name in self.series]
        return not names or any(series.lower().startswith(name) for name in names)

    def tasks(self, usual: int, *, least: int = 200) -> int:
        return max(least, int(usual * self.share))


@dataclass(frozen=True, slots=True)
class Step:
    """One measurement of one system. `seconds` is a guess; `once`: not repeated in later rounds."""

    series: str
    section: str
    seconds: float
    once: bool
    measure: Callable[[Arena], Figures]

    @property
    def title(self) -> str:
        return f"{self.series}: {self.section}"


def steps_of(choice: Choice) -> list[Step]:
    """The measurements of one round, in order: for each section all systems, ours and the others mixed."""
    steps = []
    for section in choice.sections:
        for kind in OURS:
            if choice.wants(kind):
                steps += _ours(choice, section, kind)
        for name, listed in PEERS.items():
            available = listed.stock or choice.peers_python is not None
            if section in PEER_SECTIONS and available and choice.wants(name):
                measure = partial(_measure_peer, choice, section, name, listed)
                seconds = {"submit": 4, "drain": 4 + 10 * choice.share, "latency": 8}[section]
                once = section in ONCE or name not in COMPARED
                steps.append(Step(name, section, seconds, once, measure))
    return steps


def _ours(choice: Choice, section: str, kind: str) -> list[Step]:
    def step(measure: Callable[[Arena], Figures], seconds: float) -> Step:
        return Step(kind, section, 3 + seconds * choice.share, section in ONCE, measure)

    match section:
        case "submit":
            return [step(partial(_submit, choice, kind, track=track), 4) for track in TRACKS]
        case "drain":
            return [step(partial(_drain, choice, kind, track=track), 6) for track in TRACKS]
        case "one":
            return [step(partial(_one, choice, kind), 5)]
        case "sweep":
            workers = [step(partial(_sweep, choice, kind, workers=number), 6) for number in SWEEP_WORKERS]
            sizes = [step(partial(_sweep, choice, kind, batch_size=size), 6) for size in SWEEP_BATCHES]
            return [*workers, *sizes]
        case "latency":
            bare = step(partial(_floor, choice, kind), 30)
            tracks = ours.SETTINGS_OF_TRACK
            return [bare, *(step(partial(_latency, choice, kind, track=track), 30) for track in tracks)]
        case "idle":
            return [step(partial(_idle, choice, kind, track=track), 70) for track in ours.SETTINGS_OF_TRACK]
        case "statements":
            return [step(partial(_statements, choice), 4)] if kind == "PostgreSQL" else []
    raise ValueError(f"there is no section {section!r}; there are {', '.join(SECTIONS)}")


def _submit(choice: Choice, kind: str, arena: Arena, *, track: str) -> Figures:
    with ours.installation(arena, kind, track=track) as on:
        count = choice.tasks(SUBMIT_TASKS)
        ours.submit_one_by_one(on, 20)  # connections
        yield f"submit_{track}", ours.submit_one_by_one(on, count)
        many = choice.tasks(20 * SUBMIT_TASKS, least=THREADS)
        yield f"submit_threads_{track}", ours.submit_one_by_one(on, many, threads=THREADS)
        yield f"bulk_{track}", ours.submit_in_bulk(on, choice.tasks(10_000, least=2_000))


def _drain(choice: Choice, kind: str, arena: Arena, *, track: str) -> Figures:
    with ours.installation(arena, kind, track=track) as on:
        count = choice.tasks(DRAIN_TASKS[kind], least=2_000)
        for name, value in ours.drain(on, count, workers=choice.workers).items():
            yield f"{name}_{track}", value


def _one(choice: Choice, kind: str, arena: Arena) -> Figures:
    with ours.installation(arena, kind, batch_size=1) as on:
        yield "drain_one", ours.drain(on, choice.tasks(ONE_TASKS[kind]), workers=choice.workers)["drain"]


def _sweep(
    choice: Choice, kind: str, arena: Arena, *, workers: int | None = None, batch_size: int | None = None
) -> Figures:
    with ours.installation(arena, kind, batch_size=batch_size or 100) as on:
        count = choice.tasks(DRAIN_TASKS[kind] // 2, least=2_000)
        rate = ours.drain(on, count, workers=workers or choice.workers)["drain"]
        yield (f"drain_workers_{workers}" if workers else f"drain_batch_{batch_size}"), rate


def _latency(choice: Choice, kind: str, arena: Arena, *, track: str) -> Figures:
    with ours.installation(arena, kind, track=track) as on:
        found = ours.latency(on, choice.tasks(LATENCY_TASKS, least=10), workers=choice.workers)
        for name, value in found.items():
            yield f"{name}_{track}", value


def _floor(choice: Choice, kind: str, arena: Arena) -> Figures:
    return floor(arena.site(kind), choice.tasks(LATENCY_TASKS, least=10)).items()


def _idle(choice: Choice, kind: str, arena: Arena, *, track: str) -> Figures:
    counted = "counting" if kind == "PostgreSQL" else kind
    with ours.installation(arena, counted, track=track) as on:
        seconds = max(5.0, IDLE_SECONDS * choice.share)
        for name, value in ours.idle(on, seconds, workers=choice.workers).items():
            yield f"{name}_{track}", value


def _statements(choice: Choice, arena: Arena) -> Figures:
    """PostgreSQL counts statements in a library that costs time: its rates are not kept."""
    for track in TRACKS:
        with ours.installation(arena, "counting", track=track) as on:
            found = ours.drain(on, choice.tasks(10_000, least=2_000), workers=choice.workers)
            yield f"statements_{track}", found["statements"]


def _measure_peer(choice: Choice, section: str, name: str, listed: Listed, arena: Arena) -> Figures:
    """Runs `benchmarks.peers.measure` in the peer's own environment."""
    site = arena.site("PostgreSQL" if listed.server == "postgres" else "SQLite")
    postgres = site.database_url.replace("+psycopg", "") if listed.server == "postgres" else "none"
    server = arena.database("PostgreSQL") if listed.server == "postgres" else arena.redis
    assert server is not None
    python = Path(sys.executable) if listed.stock else choice.peers_python
    measuring = subprocess.Popen(
        [
            *(str(python), "-m", "benchmarks.peers.measure", name, "--folder", str(site.folder)),
            *("--redis", site.redis_url, "--postgres", postgres, "--server-pid", str(server.pid)),
            *("--parts", section, "--workers", str(choice.workers), "--share", str(choice.share)),
        ],
        cwd=site.folder,
        env={"PATH": os.defpath, "PYTHONPATH": str(ours.ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with measuring:
        try:
            answer, said = measuring.communicate(timeout=PEER_DEADLINE_SECONDS)
        finally:
            measuring.terminate()  # it ends its workers then
    if measuring.returncode:
        raise RuntimeError(f"{name} could not be measured:\n{said[-1500:]}")
    figures = json.loads(answer)
    if listed.server == "redis" and "server_cpu" in figures:
        figures["redis_cpu"] = figures.pop("server_cpu")
    latencies = figures.pop("latencies", None)
    if latencies:
        figures |= {"p50": percentile(latencies, 50), "p99": percentile(latencies, 99)}
    yield from figures.items()
