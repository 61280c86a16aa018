"""Rounds: what an operator looks at and tidies by the clock, as tasks that schedules start.

    records.monitoring        every 15 minutes            is the queue of records healthy?
    records.orphans           every 4 hours               bring orphaned records back
    records.performance       every day, 06:00            what the last 24 hours brought
    records.failed_reset      Sunday, 02:00               let failed records below the limit wait again
    records.database_review   Monday, 08:00               answers, pools, indexes, capacity
    records.purge             first Sunday of the month, 03:00   delete what ended long ago

`TASK_MODULES=app.handlers,app.monitoring.rounds` allows them to run, and `install` puts the schedules in
place, to be paused and changed like any others. A task's result is what was found or done.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import structlog

from app.distributed.flow_runs import own_processor
from app.monitoring.capacity import calculate_capacity_utilization
from app.monitoring.databases import connection_pool_monitoring, database_health_check, index_usage
from app.monitoring.record_states import distributed_queue_monitoring
from app.monitoring.reports import processing_performance_monitoring
from app.monitoring.upkeep import distributed_system_maintenance, purge_records
from app.system import System
from app.tasks.errors import ScheduleRefused
from app.tasks.handlers import task
from app.tasks.model import Schedule
from app.tasks.schedule_requests import ScheduleRequest

PRIORITY = "low"
CRONS: Mapping[str, str] = {
    "records.monitoring": "*/15 * * * *",
    "records.orphans": "0 */4 * * *",
    "records.performance": "0 6 * * *",
    "records.failed_reset": "0 2 * * sun",
    "records.database_review": "0 8 * * mon",
    "records.purge": "0 3 * * sun#1",
}

log = structlog.get_logger(__name__)


@task("records.monitoring")
def monitor(payload: dict[str, Any]) -> dict[str, Any]:
    """The grade with its alerts; one that is not healthy is logged as `records.not_healthy`."""
    found = distributed_queue_monitoring(False, processor=own_processor())
    health = found["queue_health_assessment"]
    if health["queue_health"] != "healthy":
        log.warning("records.not_healthy", **health, alerts=found["operational_alerts"])
    return found


@task("records.orphans")
def bring_orphans_back(payload: dict[str, Any]) -> dict[str, Any]:
    """Orphaned records wait again, or end as failed where no retry is left."""
    return distributed_system_maintenance(reset_failed_records=False, processor=own_processor())


@task("records.performance")
def report_performance(payload: dict[str, Any]) -> dict[str, Any]:
    """Rates, hours, flows and errors of the last 24 hours."""
    return processing_performance_monitoring(24, processor=own_processor())


@task("records.failed_reset")
def reset_failed(payload: dict[str, Any]) -> dict[str, Any]:
    """Failed records with fewer failures than the limit wait again."""
    return distributed_system_maintenance(cleanup_orphaned_records=False, processor=own_processor())


@task("records.database_review")
def review_database(payload: dict[str, Any]) -> dict[str, Any]:
    """How the database of the queue answers, and is used."""
    own = own_processor()
    name = own.database.name
    return {
        "database": database_health_check(name, processor=own),
        "pool": connection_pool_monitoring(name, processor=own),
        "capacity": calculate_capacity_utilization(processor=own),
        "index_usage": index_usage(processor=own),
    }


@task("records.purge")
def purge(payload: dict[str, Any]) -> dict[str, Any]:
    """What completed more than 30 days ago goes, and what failed for good more than 7 days ago."""
    return purge_records(processor=own_processor())


def is_known(system: System) -> bool:
    """True if this process may run rounds."""
    return all(name in system.handlers for name in CRONS)


def install(system: System, *, time_zone: str = "UTC") -> list[str]:
    """Store the schedules that are missing, and leave those that are there as they are. Returns the names of
    the new ones. Raises `InvalidTask` for a zone that nobody knows, `UnknownTaskName` unless `is_known`."""
    present = {schedule.name for schedule in system.queue.schedules.list()}
    new = []
    for name, cron in CRONS.items():
        request = ScheduleRequest(name, name, cron=cron, time_zone=time_zone, payload={}, priority=PRIORITY)
        if name not in present:
            try:
                system.queue.schedules.create(request)
            except ScheduleRefused:
                continue  # another process has installed it at this moment
            new.append(name)
    return new


def installed(system: System) -> list[Schedule]:
    """Those that are in place, the next first and the paused last."""
    found = [schedule for schedule in system.queue.schedules.list() if schedule.name in CRONS]
    return sorted(found, key=lambda one: (one.next_run_at is None, one.next_run_at or one.created_at))
