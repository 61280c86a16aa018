"""How much the processes that work on records could do, how much they do, and how many the rest needs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from app.distributed.flow_runs import own_processor
from app.distributed.processor import DistributedProcessor
from app.monitoring.record_figures import RecordFigures, Waiting

MANY_PENDING = 500
LONG_SECONDS = 1800.0


def workers_needed(pending: int, *, batch_size: int, batches_per_hour: float, hours: float = 1.0) -> int:
    """How many workers finish so many records in so many hours, each of them doing so many batches an hour:
    pending / (batch size x rate), rounded up. Raises `ValueError` for a size or rate that is not positive."""
    if batch_size < 1 or batches_per_hour <= 0 or hours <= 0:
        raise ValueError("batch_size, batches_per_hour and hours must be positive")
    return math.ceil(max(0, pending) / (batch_size * batches_per_hour * hours))


def more_workers_wanted(pending: int, heads: Sequence[Waiting]) -> bool:
    """True if more than 500 records wait, and did so for 30 minutes: more than 500 of them are that old."""
    return pending > MANY_PENDING and sum(head.long_waiting for head in heads) > MANY_PENDING


def calculate_capacity_utilization(*, processor: DistributedProcessor | None = None) -> dict[str, Any]:
    """What the last hour's runs of flows say of capacity, in records per hour.

    `current_load` is what ended; `theoretical_capacity` what the same instances had ended without a pause
    between their runs; `utilization_percent` the one of the other, 0 if nobody ran. `workers_needed` is for
    the backlog to be done in an hour (None: no run to measure by), `scale_up` says that more are wanted now.
    Raises `DatabaseUnavailable`.
    """
    own = processor or own_processor()
    records = own.system.store.records
    figures = RecordFigures(own.system.store.database)
    runs = figures.runs(hours=1)
    per_instance = 3600 * runs.records / runs.seconds if runs.seconds > 0 else 0.0
    capacity = runs.instances * per_instance
    by_flow = own.get_queue_status()["by_flow"]
    lanes = records.lanes()
    waiting = {lanes[name]: of["pending_records"] for name, of in by_flow.items() if of["pending_records"]}
    pending = sum(waiting.values())
    heads = figures.waiting(list(waiting), longer_than_seconds=LONG_SECONDS)
    needed = None
    if per_instance > 0:
        needed = workers_needed(pending, batch_size=1, batches_per_hour=per_instance)
    return {
        "current_load": runs.records,
        "theoretical_capacity": round(capacity, 2),
        "utilization_percent": round(100 * runs.records / capacity, 2) if capacity else 0.0,
        "active_instances": runs.instances,
        "records_per_instance_hour": round(per_instance, 2),
        "pending_records": pending,
        "workers_needed": needed,
        "scale_up": more_workers_wanted(pending, heads),
    }
