"""Going over to the record queue, and back: watch, tidy up, turn back, and prove record by record."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

from app.distributed.flow_runs import BusinessLogic, FlowRunner, Tally, UnknownFlow, logic_of, own_processor
from app.distributed.flow_settings import small
from app.distributed.new_records import Key, parts_of
from app.distributed.processor import DistributedProcessor
from app.distributed.variables import StoredVariables
from app.monitoring.record_states import distributed_queue_monitoring
from app.monitoring.reports import processing_performance_monitoring
from app.monitoring.upkeep import purge_records
from app.tasks.handlers import write_json
from app.tasks.model import Status

SUCCESS_PERCENT = 95.0
CLEANED_DAYS = 7.0
SWITCHED = ("accept_records", "use_distributed_processing")
LOOK_SECONDS = 0.5
ISSUES_SHOWN = 100
RECORDS_AT_A_TIME = 5_000
# What finding a key says of a record that has none.
NO_KEY = (ValueError, LookupError, TypeError, AttributeError)


def migration_monitoring_flow(
    time_window_hours: float = 1.0, *, processor: DistributedProcessor | None = None
) -> dict[str, Any]:
    """Whether the queue does well after a change: `status` is "healthy", or "alert" with a sentence each in
    `alerts`: the queue is not healthy, or less than 95 % of what ended in the window has completed."""
    own = processor or own_processor()
    health = distributed_queue_monitoring(False, processor=own)["queue_health_assessment"]
    rates = processing_performance_monitoring(time_window_hours, False, processor=own)["overall_metrics"]
    alerts = []
    if health["queue_health"] != "healthy":
        alerts.append(f"the queue is {health['queue_health']} (score {health['health_score']})")
    success = rates["success_rate_percent"]
    if rates["records_completed"] + rates["records_failed"] and success < SUCCESS_PERCENT:
        alerts.append(f"{success} % of the records completed; {SUCCESS_PERCENT:g} % are expected")
    return {
        "status": "alert" if alerts else "healthy",
        "alerts": alerts,
        "queue_health_assessment": health,
        "overall_metrics": rates,
    }


def migration_cleanup_flow(
    timeout_hours: float = 1.0,
    completed_days: float = CLEANED_DAYS,
    *,
    processor: DistributedProcessor | None = None,
) -> dict[str, Any]:
    """Bring orphans back (`orphaned_cleaned`), and delete records that completed more than `completed_days`
    ago (`old_records_cleaned`). Failed ones stay."""
    own = processor or own_processor()
    cleaned = own.cleanup_orphaned_records(timeout_hours)
    purged = purge_records(completed_days, failed_days=36_500, processor=own)
    return {"orphaned_cleaned": cleaned, "old_records_cleaned": purged["completed_deleted"]}


def rollback_migration_flow(
    flow: str,
    patience_seconds: float = 300.0,
    business_logic_func: BusinessLogic | None = None,
    *,
    processor: DistributedProcessor | None = None,
    pause: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, Any]:
    """Turn a flow back to standard mode: take no more records in, work off what is there, switch the flag.

    Where the business logic is known, this process helps. `status` is "rollback_completed", or
    "rollback_incomplete" with the `remaining_records` once nothing has ended for `patience_seconds`; then
    the flag is as before, and intake stays stopped. A flag that the environment sets cannot be switched here:
    `status` is "rollback_blocked", and `message` names it. Raises `DatabaseUnavailable`.
    """
    own = processor or own_processor()
    blocking = [name for key in SWITCHED if (name := _hidden_by(own, flow, key))]
    if blocking:
        message = f"set by the environment, where nobody can switch it: {', '.join(blocking)}"
        return _turned(own, flow, "rollback_blocked") | {"message": message}
    _store(own, flow, "accept_records", "false")
    if not _drained(own, flow, business_logic_func, patience_seconds, pause, clock):
        return _turned(own, flow, "rollback_incomplete")
    _store(own, flow, "use_distributed_processing", "false")
    return _turned(own, flow, "rollback_completed")


def _drained(
    own: DistributedProcessor,
    flow: str,
    logic: BusinessLogic | None,
    patience_seconds: float,
    pause: Callable[[float], None],
    clock: Callable[[], float],
) -> bool:
    runner = _runner(own, flow, logic)
    left, since = _remaining(own, flow), clock()
    while left:
        if runner is not None:
            size = int(own.settings_of(flow).get_variable("distributed_batch_size"))
            runner.work_off(size, Tally())
        now_left = _remaining(own, flow)
        if now_left < left:
            left, since = now_left, clock()
        elif clock() - since >= patience_seconds:
            return False
        else:
            pause(LOOK_SECONDS)
    return True


def _runner(own: DistributedProcessor, flow: str, logic: BusinessLogic | None) -> FlowRunner | None:
    try:
        return FlowRunner(own, flow, logic or logic_of(flow))
    except UnknownFlow:
        return None


def _remaining(own: DistributedProcessor, flow: str) -> int:
    status = own.get_queue_status(flow)
    return int(status["pending_records"]) + int(status["processing_records"])


def _turned(own: DistributedProcessor, flow: str, status: str) -> dict[str, Any]:
    return {"flow_name": flow, "status": status, "remaining_records": _remaining(own, flow)}


def _hidden_by(own: DistributedProcessor, flow: str, key: str) -> str | None:
    """The variable of the environment that would hide what is stored for the flow."""
    found = next((place for place in own.settings_of(flow).trace(key) if place.text is not None), None)
    return None if found is None or found.origin in ("stored", "default") else found.name


def _store(own: DistributedProcessor, flow: str, key: str, value: str) -> None:
    name = f"{own.settings_of(flow).tier}.{small(flow)}.{key}"
    StoredVariables(own.system.store.database).set(name, value)


def verify_migration_integrity(
    flow: str,
    records: Iterable[Mapping[str, Any]] | None = None,
    key: Key = None,
    *,
    processor: DistributedProcessor | None = None,
) -> dict[str, Any]:
    """Reconcile a flow's records with their source, one by one. `records` and `key` are what
    `add_records_to_queue` was given; without `records` only the queue itself is looked at.

    `status` is "verified" or "issues_found"; each of the first hundred `issues` has `kind` (missing,
    duplicate, unexpected, altered or without_end) and `record`; `counts` has them all. Holds each record's
    key in memory, and the whole payload of one that has no key.
    """
    own = processor or own_processor()
    found: Counter[str] = Counter()
    payloads: dict[str, bytes] = {}
    issues: list[tuple[str, str]] = []
    for row in _rows(own, flow):
        identity = _identity(json.loads(row.payload), row.idempotency_key, key)
        found[identity] += 1
        payloads[identity] = _digest(row.payload)
        if row.status is Status.COMPLETED and row.ended_at is None:
            issues.append(("without_end", identity))
    issues += [("duplicate", identity) for identity, count in found.items() if count > 1]
    if records is not None:
        issues += _reconciled(records, key, found, payloads)
    counts = Counter(kind for kind, _ in issues)
    return {
        "status": "issues_found" if issues else "verified",
        "records": sum(found.values()),
        "counts": dict(counts),
        "issues": [{"kind": kind, "record": identity[:200]} for kind, identity in issues[:ISSUES_SHOWN]],
        "queue_status": own.get_queue_status(flow),
    }


def _reconciled(
    records: Iterable[Mapping[str, Any]], key: Key, found: Mapping[str, int], payloads: Mapping[str, bytes]
) -> list[tuple[str, str]]:
    issues, wanted = [], set()
    for record in records:
        payload, own_key = parts_of(record, key)
        text = write_json(payload)
        identity = own_key if own_key is not None else text
        wanted.add(identity)
        if identity not in found:
            issues.append(("missing", identity))
        elif payloads[identity] != _digest(text):
            issues.append(("altered", identity))
    return issues + [("unexpected", identity) for identity in found if identity not in wanted]


def _identity(payload: Any, stored_key: str | None, key: Key) -> str:
    """As the source would tell this record apart: by its key, or by all that it says."""
    if stored_key is not None:
        return stored_key.split(":", 2)[2]
    own_key = None
    if key is not None:
        with suppress(*NO_KEY):  # it came from elsewhere
            own_key = parts_of(payload, key)[1]
    return write_json(payload) if own_key is None else own_key


def _digest(text: str) -> bytes:
    return hashlib.md5(text.encode(), usedforsecurity=False).digest()


def _rows(own: DistributedProcessor, flow: str) -> Iterable[Any]:
    records = own.system.store.records
    lane, after = records.lane(flow), 0
    while lane is not None and (page := records.page(lane, after=after, limit=RECORDS_AT_A_TIME)):
        yield from page
        after = page[-1].id
