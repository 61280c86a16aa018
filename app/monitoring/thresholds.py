"""When a figure is a warning and when critical, by the settings ALERT_<METRIC>_WARNING and _CRITICAL."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from config import Config

WARNING_COSTS, CRITICAL_COSTS = 15, 40


class Level(StrEnum):
    OK = "ok"
    WARNING = "warning"
    CRITICAL = "critical"


@dataclass(frozen=True, slots=True)
class Metric:
    """What is judged: its settings' name, what a sentence calls it, its unit, and which side is bad."""

    name: str
    words: str
    unit: str
    low_is_bad: bool = False


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("success_rate", "success rate", " %", low_is_bad=True),
        Metric("processing_rate", "records completed in the last hour", "", low_is_bad=True),
        Metric("failed", "failed records", ""),
        Metric("orphaned", "orphaned records", ""),
        Metric("database_response", "response of the database", " ms"),
        Metric("pool_use", "use of the connection pool", " %"),
        Metric("oldest_waiting", "wait of the oldest record", " s"),
    )
}


@dataclass(frozen=True, slots=True)
class Judgement:
    """A figure beside its thresholds. `value` None: there was nothing to judge."""

    metric: str
    value: float | None
    warning: float
    critical: float
    level: Level
    message: str

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def judged(config: Config, name: str, value: float | None) -> Judgement:
    """A metric's value against the settings. A value on the threshold is still good."""
    metric = METRICS[name]
    warning = float(getattr(config, f"ALERT_{name.upper()}_WARNING"))
    critical = float(getattr(config, f"ALERT_{name.upper()}_CRITICAL"))
    level = Level.OK
    for limit, beyond in ((warning, Level.WARNING), (critical, Level.CRITICAL)):
        if value is not None and (value < limit if metric.low_is_bad else value > limit):
            level = beyond
    return Judgement(
        name, value, warning, critical, level, _sentence(metric, value, level, warning, critical)
    )


def _sentence(metric: Metric, value: float | None, level: Level, warning: float, critical: float) -> str:
    shown = "nothing to judge" if value is None else f"{value:g}{metric.unit}"
    if level is Level.OK:
        return f"{metric.words}: {shown}"
    side = "below" if metric.low_is_bad else "above"
    limit = critical if level is Level.CRITICAL else warning
    return f"{level.upper()}: {metric.words}: {shown}, {side} {limit:g}{metric.unit}"


def grade(judgements: Iterable[Judgement]) -> str:
    """healthy, degraded (something is a warning) or critical."""
    levels = {judgement.level for judgement in judgements}
    if Level.CRITICAL in levels:
        return "critical"
    return "degraded" if Level.WARNING in levels else "healthy"


def score(judgements: Iterable[Judgement]) -> int:
    """100, less 15 for each warning and 40 for each critical figure, and never below 0."""
    costs = {Level.OK: 0, Level.WARNING: WARNING_COSTS, Level.CRITICAL: CRITICAL_COSTS}
    return max(0, 100 - sum(costs[judgement.level] for judgement in judgements))


def alerts(judgements: Sequence[Judgement]) -> list[str]:
    """What is beyond a threshold, the critical first."""
    worst = [one for one in judgements if one.level is Level.CRITICAL]
    return [one.message for one in [*worst, *(one for one in judgements if one.level is Level.WARNING)]]
