"""What a run found, in numbers: collected per crash point or fault, and written as JSON."""

from __future__ import annotations

import statistics
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.soak.oracle import Verdict

_counting = threading.Lock()


@dataclass(slots=True)
class Tally:
    """One line of the table: a crash point, a fault or a peer."""

    name: str
    rounds: int = 0
    hits: int = 0
    tasks: int = 0
    lost: int = 0
    doubled: int = 0
    wrong: int = 0
    late: int = 0
    ours: bool = True  # false for a peer, whose losses are shown and break no promise of ours
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def count(self, **more: int) -> None:
        """Add to the columns. Lanes are threads that share a line."""
        with _counting:
            for name, number in more.items():
                setattr(self, name, getattr(self, name) + number)

    def judge(self, verdict: Verdict, *, tasks: int) -> None:
        self.count(
            tasks=tasks, lost=len(verdict.lost), doubled=len(verdict.doubled), wrong=len(verdict.wrong)
        )

    def took(self, what: str, seconds: Sequence[float]) -> None:
        """Note times under a heading, such as "healed"."""
        with _counting:
            self.seconds.setdefault(what, []).extend(seconds)

    def as_json(self) -> dict[str, Any]:
        names = ("name", "rounds", "hits", "tasks", "lost", "doubled", "wrong", "late", "ours")
        return {name: getattr(self, name) for name in names} | {
            "seconds": {what: _figures(values) for what, values in self.seconds.items() if values}
        }


def _figures(values: Sequence[float]) -> dict[str, float]:
    return {
        "count": len(values),
        "p50": round(statistics.median(values), 3),
        "max": round(max(values), 3),
    }


@dataclass(slots=True)
class Chapter:
    """One kind of fault, with a line per crash point, and what must hold for it."""

    name: str
    title: str
    tallies: dict[str, Tally] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def tally(self, name: str) -> Tally:
        return self.tallies.setdefault(name, Tally(name))

    def blame(self, where: str, verdict: Verdict) -> None:
        """Each broken promise as one sentence."""
        for word in ("lost", "doubled", "wrong"):
            for task_id, sentence in getattr(verdict, word).items():
                self.problems.append(f"{where}: {word} task {task_id}: {sentence}")

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "title": self.title,
            "lines": [tally.as_json() for tally in self.tallies.values()],
            "problems": self.problems,
            "notes": self.notes,
        }
