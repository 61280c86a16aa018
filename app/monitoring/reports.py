"""Reports on what records did in a window: rates, hours, flows, errors, and who holds what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.distributed.flow_runs import own_processor
from app.distributed.processor import DistributedProcessor
from app.monitoring.record_figures import Ended, Held, RecordFigures, named
from app.monitoring.thresholds import alerts, judged
from app.monitoring.upkeep import orphan_hours
from app.tasks.model import Status

TOP_ERRORS = 10


@dataclass(slots=True)
class Tally:
    """What ended, added up."""

    completed: int = 0
    failed: int = 0
    lately: int = 0
    seconds: float = 0.0
    slowest: float = 0.0

    def add(self, one: Ended) -> None:
        if one.status is Status.COMPLETED:
            self.completed += one.records
            self.lately += one.lately
            self.seconds += one.seconds
            self.slowest = max(self.slowest, one.slowest_seconds)
        else:
            self.failed += one.records

    @property
    def success_percent(self) -> float | None:
        """None if nothing ended."""
        ended = self.completed + self.failed
        return round(100 * self.completed / ended, 2) if ended else None

    @property
    def mean_seconds(self) -> float:
        return self.seconds / self.completed if self.completed else 0.0

    def figures(self, hours: float) -> dict[str, Any]:
        return {
            "records_completed": self.completed,
            "records_failed": self.failed,
            "success_rate_percent": self.success_percent or 0.0,
            "avg_processing_rate_per_hour": round(self.completed / hours, 2),
            "avg_processing_time_minutes": round(self.mean_seconds / 60, 4),
            "max_processing_time_minutes": round(self.slowest / 60, 4),
        }


def tally(ended: Iterable[Ended]) -> Tally:
    total = Tally()
    for one in ended:
        total.add(one)
    return total


def processing_performance_monitoring(
    time_window_hours: float = 24,
    include_error_analysis: bool = True,
    *,
    processor: DistributedProcessor | None = None,
) -> dict[str, Any]:
    """What ended in the last so many hours.

    `overall_metrics`; `hourly_metrics`, one row per clock hour (UTC) in which something ended;
    `flow_metrics`, the flows side by side; `error_analysis.top_errors` (empty if not wanted);
    `recommendations`. Processing time is from claim to end, of completed records. Raises
    `DatabaseUnavailable`, and `ValueError` for a window that is not positive.
    """
    if time_window_hours <= 0:
        raise ValueError("time_window_hours must be positive")
    own = processor or own_processor()
    figures = RecordFigures(own.system.store.database)
    ended = figures.ended(hours=time_window_hours)
    lanes = own.system.store.records.lanes()
    errors: list[dict[str, Any]] = []
    if include_error_analysis:
        errors = top_errors(figures, lanes, hours=time_window_hours)
    total = tally(ended)
    return {
        "time_window_hours": time_window_hours,
        "overall_metrics": total.figures(time_window_hours),
        "hourly_metrics": _hourly(ended),
        "flow_metrics": _flows(ended, lanes, time_window_hours),
        "error_analysis": {"top_errors": errors},
        "recommendations": _recommendations(own, total, errors),
    }


def top_errors(
    figures: RecordFigures, lanes: Mapping[str, int], *, hours: float, limit: int = TOP_ERRORS
) -> list[dict[str, Any]]:
    """The most frequent errors: `error_message`, `error_count`, `flow_name`."""
    return [
        {"error_message": message, "error_count": number, "flow_name": named(lanes, lane)}
        for lane, message, number in figures.errors(hours=hours, limit=limit)
    ]


def owners(
    *, orphaned_timeout_hours: float | None = None, processor: DistributedProcessor | None = None
) -> list[dict[str, Any]]:
    """Who holds records, the suspicious first: an owner is suspicious if a lease of its is over. Raises
    `DatabaseUnavailable`."""
    own = processor or own_processor()
    seconds = orphan_hours(own, orphaned_timeout_hours) * 3600
    held = RecordFigures(own.system.store.database).held(orphaned_after_seconds=seconds)
    return owner_rows(held, own.system.store.records.lanes())


def owner_rows(held: Iterable[Held], lanes: Mapping[str, int]) -> list[dict[str, Any]]:
    """As `owners`, of figures that are there."""
    rows = [
        {
            "flow_instance_id": one.holder,
            "flow_name": named(lanes, one.lane),
            "processing_records": one.records,
            "overdue_records": one.overdue,
            "orphaned_records": one.orphans,
            "oldest_claim_minutes": round(one.oldest_claim_seconds / 60, 2),
            "suspicious": one.overdue > 0,
        }
        for one in held
    ]
    return sorted(rows, key=lambda row: (-row["overdue_records"], row["flow_instance_id"], row["flow_name"]))


def _hourly(ended: Sequence[Ended]) -> list[dict[str, Any]]:
    hours: dict[datetime, list[Ended]] = {}
    for one in ended:
        hours.setdefault(one.hour, []).append(one)
    return [{"hour": hour.isoformat(), **tally(rows).figures(1)} for hour, rows in sorted(hours.items())]


def _flows(ended: Sequence[Ended], lanes: Mapping[str, int], hours: float) -> dict[str, dict[str, Any]]:
    by_lane: dict[int, list[Ended]] = {}
    for one in ended:
        by_lane.setdefault(one.lane, []).append(one)
    return {named(lanes, lane): tally(rows).figures(hours) for lane, rows in sorted(by_lane.items())}


def _recommendations(own: DistributedProcessor, total: Tally, errors: Sequence[dict[str, Any]]) -> list[str]:
    said = alerts([judged(own.system.config, "success_rate", total.success_percent)])
    advice = [f"{one}. Look at the errors before you reset anything." for one in said]
    if errors and 2 * errors[0]["error_count"] > total.failed:
        advice.append(
            f"Most failures are one error, {errors[0]['error_count']} of {total.failed}:"
            f" {errors[0]['error_message'][:120]}"
        )
    return advice
