"""A diagnosis of records: a sentence for each thing that is wrong, with its cause and what helps."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.distributed.flow_runs import own_processor
from app.distributed.flow_settings import Place, small
from app.distributed.processor import DistributedProcessor
from app.distributed.variables import StoredVariables
from app.monitoring.record_figures import RecordFigures, Waiting, named
from app.monitoring.record_states import SUCCESS_HOURS, Snapshot, snapshot
from app.monitoring.reports import TOP_ERRORS, owner_rows, tally
from app.monitoring.upkeep import orphan_hours
from config import ConfigError

SLOW_SECONDS = 1800.0
IDLE_SECONDS = 60.0
SHOWN = 10
MESSAGES_READ = 500
SHOWN_CHARACTERS = 120
# What tells two messages of one error apart: numbers, hexadecimal ones too, and what stands in quotes.
_VARYING = re.compile(r"0x[0-9a-fA-F]+|'[^']*'|\"[^\"]*\"|\d+(?:[.:-]\d+)*")


def distributed_processing_diagnostics(
    include_orphaned_analysis: bool = True,
    include_performance_analysis: bool = True,
    *,
    orphaned_timeout_hours: float | None = None,
    processor: DistributedProcessor | None = None,
) -> dict[str, Any]:
    """What is wrong with records: `issues_found`, a sentence each (none: nothing was found), and what they
    rest on: `queue_status`, `failed_records_analysis` (`top_errors`, and `error_patterns`, where messages
    that differ in numbers and quoted parts count as one), and if wanted `orphaned_records_analysis`
    (`total_orphaned_records`, `by_owner`) and `performance_analysis` (`slow_records`: a living owner has them
    for more than 30 minutes; `last_24_hours`). Settings of the environment are this process's. Raises
    `DatabaseUnavailable`."""
    own = processor or own_processor()
    hours = orphan_hours(own, orphaned_timeout_hours)
    taken = snapshot(own, orphaned_after_seconds=hours * 3600)
    figures = RecordFigures(own.system.store.database)
    messages = figures.errors(hours=SUCCESS_HOURS, limit=MESSAGES_READ)
    patterns = error_patterns(messages, taken.lanes)
    issues = [*_claims(own, figures, taken), *_intake(own, taken), *_failed(taken, patterns)]
    said: dict[str, Any] = {
        "issues_found": issues,
        "queue_status": taken.overall,
        "failed_records_analysis": {
            "total_failed_records": taken.status["failed_records"],
            "top_errors": [
                {"error_message": message, "error_count": number, "flow_name": named(taken.lanes, lane)}
                for lane, message, number in messages[:TOP_ERRORS]
            ],
            "error_patterns": [pattern.as_json() for pattern in patterns[:TOP_ERRORS]],
        },
    }
    if include_orphaned_analysis:
        overdue = [row for row in owner_rows(taken.held, taken.lanes) if row["overdue_records"]]
        issues += _orphans(taken, hours)
        said["orphaned_records_analysis"] = {"total_orphaned_records": taken.orphans, "by_owner": overdue}
    if include_performance_analysis:
        slow = _slow(figures, taken.lanes)
        issues += _crowded(own, taken) + _slow_issues(slow)
        recent = tally(taken.ended).figures(SUCCESS_HOURS)
        said["performance_analysis"] = {"slow_records": slow, "last_24_hours": recent}
    return said


# --- records that are not claimed ---------------------------------------------------------------------------


def _claims(own: DistributedProcessor, figures: RecordFigures, taken: Snapshot) -> Iterator[str]:
    """Flows whose records wait while nobody takes any: because none may be claimed, or for want of somebody
    who can."""
    counts = taken.status["by_flow"]
    waiting = [flow for flow in counts if counts[flow]["pending_records"]]
    stopped = _switched_off(own, waiting, "process_records")
    for flow, reason in stopped.items():
        yield f"{flow}: {counts[flow]['pending_records']} records wait, and none may be claimed: {reason}"
    idle = [head for head in _idle(taken) if named(taken.lanes, head.lane) not in stopped]
    last_runs = figures.last_runs([named(taken.lanes, head.lane) for head in idle])
    for head in idle:
        flow = named(taken.lanes, head.lane)
        run = last_runs.get(flow)
        cause = "no process claims any: is one running that has the flow's business logic?"
        if run is not None and not run.claimed and run.error:
            cause = f"{run.instance} can claim none: {run.error}"
        yield f"{flow}: records wait, the oldest for {head.oldest_seconds / 60:.0f} minutes, and {cause}"


def _intake(own: DistributedProcessor, taken: Snapshot) -> Iterator[str]:
    """Flows that take no records in, but for those that went back to standard mode and should take none."""
    for flow, reason in _switched_off(own, taken.status["by_flow"], "accept_records").items():
        if not _was_turned_back(own, flow):
            yield f"{flow}: no records are taken in: {reason}"


def _switched_off(own: DistributedProcessor, flows: Iterable[str], key: str) -> dict[str, str]:
    """Of these flows those that a key turns off, with what turned it off and how to turn it on. Asks for none
    of them while nobody has set the key anywhere."""
    present = [*own.system.config.variables(), *StoredVariables(own.system.store.database).all()]
    if not any(name.lower().endswith(key) for name in present):
        return {}
    reasons = {flow: _off(own, flow, key) for flow in flows}
    return {flow: reason for flow, reason in reasons.items() if reason is not None}


def _was_turned_back(own: DistributedProcessor, flow: str) -> bool:
    """A flow that went back to standard mode takes nothing in, and should not."""
    key = "use_distributed_processing"
    return _found(own, flow, key).origin != "default" and _off(own, flow, key) is not None


def _off(own: DistributedProcessor, flow: str, key: str) -> str | None:
    """What turned this off, and how to turn it on; None if it is on."""
    try:
        if own.settings_of(flow).get_variable(key):
            return None
    except ConfigError as error:
        return str(error)
    place = _found(own, flow, key)
    if place.origin == "stored":
        name = f"{own.settings_of(flow).tier}.{small(flow)}.{key}"
        return f"{place.name} is {place.text} (python scripts/variables.py set {name} true)"
    return f"{place.name} is {place.text} (in the {place.origin}: change it there)"


def _found(own: DistributedProcessor, flow: str, key: str) -> Place:
    return next(place for place in own.settings_of(flow).trace(key) if place.text is not None)


def _idle(taken: Snapshot) -> list[Waiting]:
    busy = taken.busy
    return [head for head in taken.heads if head.lane not in busy and head.oldest_seconds > IDLE_SECONDS]


def _crowded(own: DistributedProcessor, taken: Snapshot) -> list[str]:
    """Flows whose records wait long, though they are worked on."""
    limit = own.system.config.ALERT_OLDEST_WAITING_WARNING
    return [
        f"{named(taken.lanes, head.lane)}: records wait, the oldest for"
        f" {head.oldest_seconds / 60:.0f} minutes,"
        " though processes work on the flow: start more (python scripts/records.py capacity says how many)"
        for head in taken.heads
        if head.lane in taken.busy and head.oldest_seconds > limit
    ]


# --- records that failed ------------------------------------------------------------------------------------


@dataclass(slots=True)
class ErrorPattern:
    """Messages of one flow that differ in numbers and quoted parts only, which are shown as `…`."""

    flow: str
    pattern: str
    records: int = 0
    messages: int = 0

    def as_json(self) -> dict[str, Any]:
        return {
            "error_pattern": self.pattern,
            "error_count": self.records,
            "different_messages": self.messages,
            "flow_name": self.flow,
        }


def error_patterns(messages: Sequence[tuple[int, str, int]], lanes: Mapping[str, int]) -> list[ErrorPattern]:
    """(lane, message, how many), put together by flow and pattern, the most frequent first. One message
    alone is told as it is."""
    found: dict[tuple[int, str], ErrorPattern] = {}
    alone: dict[tuple[int, str], str] = {}
    for lane, message, number in messages:
        key = (lane, _VARYING.sub("…", message))
        one = found.setdefault(key, ErrorPattern(named(lanes, lane), key[1]))
        one.records += number
        one.messages += 1
        alone[key] = message
    for key, one in found.items():
        if one.messages == 1:
            one.pattern = alone[key]
    return sorted(found.values(), key=lambda one: (-one.records, one.flow, one.pattern))


def _failed(taken: Snapshot, patterns: Sequence[ErrorPattern]) -> Iterator[str]:
    for flow, counts in taken.status["by_flow"].items():
        if counts["failed_records"]:
            worst = next((one for one in patterns if one.flow == flow), None)
            because = (
                "" if worst is None else f"; most often{_alike(worst)}: {worst.pattern[:SHOWN_CHARACTERS]}"
            )
            yield f"{flow}: {counts['failed_records']} records failed{because}"


def _alike(pattern: ErrorPattern) -> str:
    return f", {pattern.records} alike" if pattern.messages > 1 else ""


# --- records in processing ----------------------------------------------------------------------------------


def _orphans(taken: Snapshot, hours: float) -> list[str]:
    return [
        f"{named(taken.lanes, held.lane)}: {held.orphans} records are orphaned:"
        f" {held.holder or 'nobody'} claimed them more than {hours:g} hours ago, and its leases are over"
        for held in taken.held
        if held.orphans
    ]


def _slow(figures: RecordFigures, lanes: Mapping[str, int]) -> list[dict[str, Any]]:
    return [
        {"id": task_id, "flow_name": named(lanes, lane), "minutes": round(seconds / 60, 1)}
        for task_id, lane, seconds in figures.overlong(seconds=SLOW_SECONDS, limit=SHOWN)
    ]


def _slow_issues(rows: Sequence[dict[str, Any]]) -> list[str]:
    return [
        f"{row['flow_name']}: record {row['id']} has been in processing for {row['minutes']} minutes"
        for row in rows
    ]
