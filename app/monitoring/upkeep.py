"""Upkeep of records by rule: bring back, reset, delete. A dry run changes nothing and tells what would be."""

from __future__ import annotations

from typing import Any

from app.distributed.flow_runs import own_processor
from app.distributed.flow_settings import DEFAULTS_FLOW
from app.distributed.processor import DistributedProcessor
from app.tasks.model import Status

COMPLETED_DAYS = 30.0
FAILED_DAYS = 7.0
FAILED_RETRIES = 5
DAY_SECONDS = 86_400


def orphan_hours(processor: DistributedProcessor, given: float | None) -> float:
    """After how many hours a claim whose lease is over is an orphan: as given, or as all flows are set to."""
    if given is None:
        return float(processor.settings_of(DEFAULTS_FLOW).get_variable("cleanup_timeout_hours"))
    if given < 0:
        raise ValueError("orphaned_timeout_hours must not be negative")
    return given


def distributed_system_maintenance(
    cleanup_orphaned_records: bool = True,
    reset_failed_records: bool = True,
    orphaned_timeout_hours: float | None = None,
    max_retries: int = 3,
    dry_run: bool = False,
    *,
    processor: DistributedProcessor | None = None,
) -> dict[str, Any]:
    """Let failed records below `max_retries` failures wait again, and bring orphans back.

    `cleanup_results.records_cleaned` and `reset_results.records_reset` say how many; a dry run predicts
    them exactly. Failed ones go first: an orphan that ends as failed here is told, and not reset by the same
    call. Raises `DatabaseUnavailable`; what was done until then stays done.
    """
    own = processor or own_processor()
    hours = orphan_hours(own, orphaned_timeout_hours)
    by_flow: dict[str, int] = {}
    if reset_failed_records:
        for flow in own.system.store.records.lanes():
            by_flow[flow] = own.reset_failed_records(flow, max_retries, dry_run=dry_run)
    cleaned = own.cleanup_orphaned_records(hours, dry_run=dry_run) if cleanup_orphaned_records else 0
    return {
        "dry_run": dry_run,
        "cleanup_results": {"records_cleaned": cleaned, "timeout_hours": hours},
        "reset_results": {
            "records_reset": sum(by_flow.values()),
            "max_retries": max_retries,
            "by_flow": {flow: number for flow, number in by_flow.items() if number},
        },
    }


def purge_records(
    completed_days: float = COMPLETED_DAYS,
    failed_days: float = FAILED_DAYS,
    failed_retries: int = FAILED_RETRIES,
    dry_run: bool = False,
    *,
    flow: str | None = None,
    processor: DistributedProcessor | None = None,
) -> dict[str, Any]:
    """Delete records that completed more than `completed_days` ago, and those that failed more than
    `failed_days` ago with at least `failed_retries` failures; of one flow, or of all. Returns
    `completed_deleted` and `failed_deleted`. Raises `DatabaseUnavailable`; what was deleted stays so."""
    if min(completed_days, failed_days, failed_retries) < 0:
        raise ValueError("days and retries must not be negative")
    records = (processor or own_processor()).system.store.records
    lane = None if flow is None else records.lane(flow)
    said: dict[str, Any] = {"dry_run": dry_run, "completed_deleted": 0, "failed_deleted": 0}
    if flow is not None and lane is None:
        return said
    act = records.purgeable if dry_run else records.purge
    return said | {
        "completed_deleted": act(
            lane, Status.COMPLETED, older_than_seconds=completed_days * DAY_SECONDS, failures=0
        ),
        "failed_deleted": act(
            lane, Status.FAILED, older_than_seconds=failed_days * DAY_SECONDS, failures=failed_retries
        ),
    }
