"""What was measured: samples, their medians, the ratios that the project promises, and the file of it all."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

OURS = ("SQLite", "MariaDB", "PostgreSQL")


@dataclass(frozen=True, slots=True)
class Target:
    """A ratio of medians. `least` None: shown for information; `stretch`: wished, not promised."""

    title: str
    over: tuple[str, str]
    under: tuple[str, str]
    least: float | None = None
    stretch: bool = False


TARGETS = (
    Target("MariaDB ÷ RQ Worker", ("MariaDB", "drain_redis"), ("RQ Worker", "drain"), 60),
    Target("MariaDB ÷ RQ SimpleWorker", ("MariaDB", "drain_redis"), ("RQ SimpleWorker", "drain"), 12),
    Target("SQLite ÷ RQ SimpleWorker", ("SQLite", "drain_redis"), ("RQ SimpleWorker", "drain"), 20),
    Target("PostgreSQL ÷ pgqueuer", ("PostgreSQL", "drain_redis"), ("pgqueuer", "drain"), 1),
    Target("MariaDB ÷ Huey", ("MariaDB", "drain_redis"), ("Huey", "drain"), 1, stretch=True),
    Target(
        "batch of one: SQLite ÷ RQ SimpleWorker", ("SQLite", "drain_one"), ("RQ SimpleWorker", "drain"), 3
    ),
    Target(
        "batch of one: MariaDB ÷ RQ SimpleWorker", ("MariaDB", "drain_one"), ("RQ SimpleWorker", "drain"), 3
    ),
    Target(
        "batch of one: PostgreSQL ÷ RQ SimpleWorker",
        ("PostgreSQL", "drain_one"),
        ("RQ SimpleWorker", "drain"),
        3,
    ),
    Target("MariaDB, database track ÷ RQ Worker", ("MariaDB", "drain_database"), ("RQ Worker", "drain")),
    Target(
        "SQLite, database track ÷ RQ SimpleWorker", ("SQLite", "drain_database"), ("RQ SimpleWorker", "drain")
    ),
    Target("PostgreSQL, database track ÷ pgqueuer", ("PostgreSQL", "drain_database"), ("pgqueuer", "drain")),
    Target("submit one by one: MariaDB ÷ RQ", ("MariaDB", "submit_redis"), ("RQ SimpleWorker", "submit")),
    Target("submit in bulk: MariaDB ÷ RQ", ("MariaDB", "bulk_redis"), ("RQ SimpleWorker", "bulk")),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A target with its measured ratio; None if one of the two was not measured."""

    target: Target
    ratio: float | None

    @property
    def word(self) -> str:
        """Met or not, plainly."""
        if self.ratio is None:
            return "not measured"
        if self.target.least is None:
            return ""
        if self.ratio >= self.target.least:
            return "met"
        return "not met (stretch)" if self.target.stretch else "NOT MET"


@dataclass(slots=True)
class Results:
    """One run of the benchmark. `about` says where and how it ran, `failures` what could not be measured, and
    `figures` holds the values of all rounds by system and figure."""

    about: dict[str, Any] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    figures: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def add(self, series: str, figures: Iterable[tuple[str, float]]) -> None:
        """Values of one system in one round."""
        of = self.figures.setdefault(series, {})
        for figure, value in figures:
            of.setdefault(figure, []).append(float(f"{value:.5g}"))

    def add_missing(self, other: Results) -> None:
        """What only the other run measured; `about` then says so under "also"."""
        added = False
        for series, figures in other.figures.items():
            of = self.figures.setdefault(series, {})
            missing = {name: values for name, values in figures.items() if name not in of}
            of |= missing
            added = added or bool(missing)
        if added:
            also = {name: other.about[name] for name in ("at", "load_at_start", "rounds")}
            self.about["also"] = [*self.about.get("also", []), also]

    def median(self, series: str, figure: str) -> float | None:
        """None if it was not measured."""
        values = self.figures.get(series, {}).get(figure)
        return statistics.median(values) if values else None

    def series(self) -> list[str]:
        """Ours first, then the others, in the order of their measuring."""
        return [*(n for n in OURS if n in self.figures), *(n for n in self.figures if n not in OURS)]

    def ratio(self, over: tuple[str, str], under: tuple[str, str]) -> float | None:
        """Of two medians; None if one is missing."""
        upper, lower = self.median(*over), self.median(*under)
        return upper / lower if upper is not None and lower else None

    def verdicts(self, targets: Sequence[Target] = TARGETS) -> list[Verdict]:
        """All of them, measured or not."""
        return [Verdict(target, self.ratio(target.over, target.under)) for target in targets]

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, path: Path) -> Results:
        """What `save` wrote. Raises `OSError`, or `ValueError` for any other file."""
        try:
            read = json.loads(path.read_text())
            return cls(read["about"], read["failures"], read["figures"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path} was not written by this benchmark") from error


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest value below which `percent` of them lie. Raises `ValueError` for none."""
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]
