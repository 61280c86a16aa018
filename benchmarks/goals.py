"""Goals that were set as absolute figures, on a machine whose peers' figures are known.

A figure in seconds says as much about the machine as about the program. So each goal stands beside what a
named peer did where it was set, and is judged twice: as it is written, and by that peer in the same run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.results import Results


@dataclass(frozen=True, slots=True)
class Goal:
    """`there`: what `peer` reached on the machine on which `goal` was set. A rate is to be reached; a
    latency, in milliseconds, not to be passed."""

    title: str
    ours: tuple[str, str]
    goal: float
    peer: tuple[str, str]
    there: float
    is_rate: bool = True

    def reached(self, value: float, goal: float) -> bool:
        return value >= goal if self.is_rate else value <= goal


@dataclass(frozen=True, slots=True)
class Judged:
    """A goal that was measured, with its peer. `scaled` is the goal in this machine's measure."""

    goal: Goal
    value: float
    peer: float

    @property
    def scaled(self) -> float:
        return self.goal.goal * self.peer / self.goal.there

    @property
    def as_written(self) -> str:
        return _word(self.goal.reached(self.value, self.goal.goal))

    @property
    def by_the_peer(self) -> str:
        return _word(self.goal.reached(self.value, self.scaled))


def judged(results: Results) -> Iterator[Judged]:
    """The goals of which both sides were measured."""
    for goal in GOALS:
        value, peer = results.median(*goal.ours), results.median(*goal.peer)
        if value is not None and peer is not None:
            yield Judged(goal, value, peer)


def _word(reached: bool) -> str:
    return "met" if reached else "NOT MET"


def _goals() -> Iterator[Goal]:
    one, bulk = ("RQ SimpleWorker", "submit"), ("RQ SimpleWorker", "bulk")
    for kind in ("MariaDB", "PostgreSQL"):
        yield Goal(f"submit, 64 threads: {kind}", (kind, "submit_threads_redis"), 5_000, one, 7_800)
    for track, name in (("redis", ""), ("database", ", database track")):
        for kind in ("MariaDB", "PostgreSQL"):
            yield Goal(f"submit in bulk: {kind}{name}", (kind, f"bulk_{track}"), 32_000, bulk, 20_000)
    for percent, most, there in (("p50", 2.0, 1.6), ("p99", 5.0, 2.4)):
        peer = ("RQ SimpleWorker", percent)
        for kind in ("SQLite", "MariaDB", "PostgreSQL"):
            yield Goal(f"idle {percent}: {kind}", (kind, f"{percent}_redis"), most, peer, there, False)
    ours = ("PostgreSQL", "p50_database")
    yield Goal("idle p50: PostgreSQL, database track", ours, 4.0, ("pgqueuer", "p50"), 2.0, False)


GOALS = tuple(_goals())
