"""The state of records now: a snapshot, and its grade."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from app.distributed.flow_runs import own_processor
from app.distributed.processor import DistributedProcessor
from app.monitoring.capacity import LONG_SECONDS, more_workers_wanted
from app.monitoring.databases import connection_pool_monitoring, database_health_check
from app.monitoring.record_figures import Ended, Held, RecordFigures, Waiting
from app.monitoring.reports import tally
from app.monitoring.thresholds import Judgement, alerts, grade, judged, score
from app.monitoring.upkeep import orphan_hours
from app.tasks.errors import DatabaseUnavailable, TaskError

SUCCESS_HOURS = 24.0

ADVICE = {
    "success_rate": "Look at the most frequent errors: python scripts/records.py report errors",
    "processing_rate": "Start more processes for the flows that wait, or look at why theirs do not claim.",
    "failed": "Look at the errors, then let failed records wait again: python scripts/records.py maintain",
    "orphaned": "Bring orphaned records back: python scripts/records.py maintain --no-reset",
    "database_response": "The database is slow: look at its load, and at its longest statements.",
    "pool_use": "Raise DB_POOL_SIZE or DB_MAX_OVERFLOW, or let fewer threads work in one process.",
    "oldest_waiting": "Records wait long: start more processes for their flows.",
}


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a handful of statements say of all records at one moment."""

    status: dict[str, Any]
    lanes: dict[str, int]
    held: Sequence[Held]
    ended: Sequence[Ended]
    heads: Sequence[Waiting]

    @property
    def overall(self) -> dict[str, int]:
        """The counts over all flows."""
        return {name: number for name, number in self.status.items() if name != "by_flow"}

    @property
    def busy(self) -> set[int]:
        """Lanes that somebody works on: holds records of, or ended some of in the last hour."""
        return {held.lane for held in self.held} | {one.lane for one in self.ended if one.lately}

    @property
    def orphans(self) -> int:
        return sum(held.orphans for held in self.held)

    @property
    def oldest_seconds(self) -> float | None:
        return max((head.oldest_seconds for head in self.heads), default=None)

    @property
    def success_percent(self) -> float | None:
        return tally(self.ended).success_percent

    @property
    def completed_lately(self) -> int:
        return tally(self.ended).lately


def snapshot(processor: DistributedProcessor, *, orphaned_after_seconds: float) -> Snapshot:
    """Taken by six statements, and one more for each further hundred of flows with waiting records. Raises
    `DatabaseUnavailable`."""
    figures = RecordFigures(processor.system.store.database)
    status = processor.get_queue_status()
    lanes = processor.system.store.records.lanes()
    waiting = [lanes[flow] for flow, of in status["by_flow"].items() if of["pending_records"]]
    return Snapshot(
        status,
        lanes,
        figures.held(orphaned_after_seconds=orphaned_after_seconds),
        figures.ended(hours=SUCCESS_HOURS),
        figures.waiting(waiting, longer_than_seconds=LONG_SECONDS),
    )


def distributed_queue_monitoring(
    include_detailed_metrics: bool = True, *, processor: DistributedProcessor | None = None
) -> dict[str, Any]:
    """How the queue of records is.

    `queue_health_assessment` has `queue_health` (healthy; degraded: a metric is beyond its warning; critical)
    and `health_score` (100, less 15 for each warning and 40 for each critical metric; 0 if the database is
    away). `overall_queue_status` counts, `metrics` shows each figure beside its thresholds,
    `operational_alerts` are those beyond one, `recommendations` what to do. The success rate is over what
    ended in 24 hours, the processing rate over the last hour; it counts once a record has waited longer than
    the warning for the oldest one. Never raises for a database that is away.
    """
    own = processor or own_processor()
    health = database_health_check(own.database.name, processor=own)
    try:
        if not health["connection"]:
            raise DatabaseUnavailable(f"the database {own.database.name} cannot be reached")
        taken = snapshot(own, orphaned_after_seconds=orphan_hours(own, None) * 3600)
    except TaskError as error:
        return _nothing_known(health, str(error))
    metrics = _judgements(own, taken, health)
    advice = [ADVICE[one.metric] for one in metrics if one.level != "ok"]
    if more_workers_wanted(taken.status["pending_records"], taken.heads):
        advice.append("More than 500 records have waited for 30 minutes: start more processes.")
    said = {
        "queue_health_assessment": {"queue_health": grade(metrics), "health_score": score(metrics)},
        "overall_queue_status": taken.overall,
        "metrics": [one.as_json() for one in metrics],
        "operational_alerts": alerts(metrics),
        "recommendations": advice,
    }
    return said | ({"detailed_metrics": _details(taken, health)} if include_detailed_metrics else {})


def _judgements(own: DistributedProcessor, taken: Snapshot, health: dict[str, Any]) -> list[Judgement]:
    config = own.system.config
    oldest = taken.oldest_seconds
    late = oldest is not None and oldest > config.ALERT_OLDEST_WAITING_WARNING
    values: dict[str, float | None] = {
        "success_rate": taken.success_percent,
        "processing_rate": taken.completed_lately if late else None,
        "failed": taken.status["failed_records"],
        "orphaned": taken.orphans,
        "database_response": health["response_time_ms"],
        "pool_use": connection_pool_monitoring(own.database.name, processor=own)["utilization_percent"],
        "oldest_waiting": None if oldest is None else round(oldest),
    }
    return [judged(config, name, value) for name, value in values.items()]


def _details(taken: Snapshot, health: dict[str, Any]) -> dict[str, Any]:
    by_lane = {head.lane: head for head in taken.heads}
    oldest = {
        flow: round(by_lane[lane].oldest_seconds, 1) for flow, lane in taken.lanes.items() if lane in by_lane
    }
    return {
        "by_flow": taken.status["by_flow"],
        "oldest_waiting_seconds": oldest,
        "active_instances": len({held.holder for held in taken.held}),
        "database": health,
    }


def _nothing_known(health: dict[str, Any], reason: str) -> dict[str, Any]:
    names = ("total", "pending", "processing", "completed", "failed")
    advice = "Start the database, or correct its address: scripts/validate_database_config.py"
    return {
        "queue_health_assessment": {"queue_health": "critical", "health_score": 0},
        "overall_queue_status": {f"{name}_records": None for name in names},
        "metrics": [],
        "operational_alerts": [f"CRITICAL: {reason}"],
        "recommendations": [] if health["connection"] else [advice],
        "detailed_metrics": {"database": health},
    }
