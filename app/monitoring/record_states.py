"""The state of records now: a snapshot with its grade, and a diagnosis that names what is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.distributed.flow_runs import own_processor
from app.distributed.processor import DistributedProcessor
from app.monitoring.capacity import LONG_SECONDS, more_workers_wanted
from app.monitoring.databases import connection_pool_monitoring, database_health_check
from app.monitoring.record_figures import Ended, Held, RecordFigures, Waiting, named
from app.monitoring.reports import owner_rows, tally, top_errors
from app.monitoring.thresholds import Judgement, alerts, grade, judged, score
from app.monitoring.upkeep import orphan_hours
from app.tasks.errors import DatabaseUnavailable, TaskError

SUCCESS_HOURS = 24.0
SLOW_SECONDS = 1800.0
SHOWN = 10

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
        "overall_queue_status": _overall(taken.status),
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


def _overall(status: dict[str, Any]) -> dict[str, int]:
    return {name: number for name, number in status.items() if name != "by_flow"}


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


# --- diagnosis ----------------------------------------------------------------------------------------------


def distributed_processing_diagnostics(
    include_orphaned_analysis: bool = True,
    include_performance_analysis: bool = True,
    *,
    orphaned_timeout_hours: float | None = None,
    processor: DistributedProcessor | None = None,
) -> dict[str, Any]:
    """What is wrong with records: `issues_found`, a sentence each (none: nothing was found), and what they
    rest on: `queue_status`, `failed_records_analysis`, and if wanted `orphaned_records_analysis`
    (`total_orphaned_records`, `by_owner`) and `performance_analysis` (`slow_records`: a living owner has them
    for more than 30 minutes; `last_24_hours`). Raises `DatabaseUnavailable`."""
    own = processor or own_processor()
    hours = orphan_hours(own, orphaned_timeout_hours)
    taken = snapshot(own, orphaned_after_seconds=hours * 3600)
    figures = RecordFigures(own.system.store.database)
    errors = top_errors(figures, taken.lanes, hours=SUCCESS_HOURS)
    issues = [*_waiting_issues(taken), *_failed_issues(taken, errors)]
    failed = taken.status["failed_records"]
    said: dict[str, Any] = {
        "issues_found": issues,
        "queue_status": _overall(taken.status),
        "failed_records_analysis": {"total_failed_records": failed, "top_errors": errors},
    }
    if include_orphaned_analysis:
        overdue = [row for row in owner_rows(taken.held, taken.lanes) if row["overdue_records"]]
        issues += _orphan_issues(taken, hours)
        said["orphaned_records_analysis"] = {"total_orphaned_records": taken.orphans, "by_owner": overdue}
    if include_performance_analysis:
        slow = _slow(figures, taken.lanes)
        issues += _slow_issues(slow)
        recent = tally(taken.ended).figures(SUCCESS_HOURS)
        said["performance_analysis"] = {"slow_records": slow, "last_24_hours": recent}
    return said


def _slow(figures: RecordFigures, lanes: Mapping[str, int]) -> list[dict[str, Any]]:
    return [
        {"id": task_id, "flow_name": named(lanes, lane), "minutes": round(seconds / 60, 1)}
        for task_id, lane, seconds in figures.overlong(seconds=SLOW_SECONDS, limit=SHOWN)
    ]


def _waiting_issues(taken: Snapshot) -> list[str]:
    """Flows whose records wait while nobody takes any."""
    busy = {held.lane for held in taken.held} | {one.lane for one in taken.ended if one.lately}
    return [
        f"{named(taken.lanes, head.lane)}: records wait, the oldest for"
        f" {head.oldest_seconds / 60:.0f} minutes, and no process claims any:"
        " is one running that has the flow's business logic?"
        for head in taken.heads
        if head.lane not in busy and head.oldest_seconds > 60
    ]


def _failed_issues(taken: Snapshot, errors: Sequence[dict[str, Any]]) -> list[str]:
    said = []
    for flow, figures in taken.status["by_flow"].items():
        if figures["failed_records"]:
            worst = next((e for e in errors if e["flow_name"] == flow), None)
            because = f"; most often: {worst['error_message'][:120]}" if worst else ""
            said.append(f"{flow}: {figures['failed_records']} records failed{because}")
    return said


def _orphan_issues(taken: Snapshot, hours: float) -> list[str]:
    return [
        f"{named(taken.lanes, held.lane)}: {held.orphans} records are orphaned:"
        f" {held.holder or 'nobody'} claimed them more than {hours:g} hours ago, and its leases are over"
        for held in taken.held
        if held.orphans
    ]


def _slow_issues(rows: Sequence[dict[str, Any]]) -> list[str]:
    return [
        f"{row['flow_name']}: record {row['id']} has been in processing for {row['minutes']} minutes"
        for row in rows
    ]
