"""The operator's view of queues and workers, and the switches: pause, resume, clear, routing."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from flask import Blueprint
from pydantic import Field

from app.system import System
from app.tasks.model import PRIORITIES, Priority, Status
from app.tasks.routing import Route, Routing
from app.tasks.store.registry import WorkerRow
from app.web import auth, parts
from app.web.audit import audit
from app.web.bodies import body_as
from app.web.health import Grade, assess
from app.web.problems import invalid, refused
from app.web.schemas import RequestBody
from app.web.snapshot import Snapshot, redis_key
from app.web.times import iso

admin = Blueprint("admin", __name__, url_prefix="/admin/rq")
admin.before_request(auth.guard(auth.Role.ADMIN))
admin.after_request(audit)

PriorityWord = Literal["urgent", "high", "normal", "low"]
Mode = Literal["database", "hybrid", "redis"]
# What is shown of the rows while nobody can read them.
_NO_PICTURE: dict[str, Any] = {
    "workers": [],
    "queues": {},
    "processing": None,
    "fallback_active": None,
    "redis": None,
}
PERCENT_OF_MODE = {"database": 0, "redis": 100}


class RoutingBody(RequestBody):
    """`redis_percent` belongs to hybrid; without it, the setting RQ_ROLLOUT_PERCENT is taken."""

    mode: Mode | None = None
    redis_percent: Annotated[int, Field(ge=0, le=100)] | None = None
    priorities: Annotated[list[PriorityWord], Field(min_length=1)] | None = None


# --- look -----------------------------------------------------------------------------------------


@admin.get("/health")
def health() -> tuple[dict[str, Any], int]:
    """The whole picture; `.status` says how good it is. 503 if it is unhealthy, with what can be seen."""
    system = parts.system()
    graded = assess(system)
    status = 503 if graded.status is Grade.UNHEALTHY else 200
    checks = {name: check for name, check in graded.as_json().items() if name != "status"}
    picture = _picture(system) if graded.database.status is not Grade.UNHEALTHY else _NO_PICTURE
    return {"status": graded.status, "checks": checks, **picture}, status


def _picture(system: System) -> dict[str, Any]:
    seen = Snapshot.take(system)
    return {
        "workers": [worker_json(worker) for worker in seen.workers],
        "queues": {priority.value: _queue_json(system, seen, priority) for priority in PRIORITIES},
        "processing": seen.total(Status.PROCESSING),
        "fallback_active": seen.fallback_active,
        "redis": _redis_json(system, seen),
    }


@admin.get("/stats")
def stats() -> dict[str, Any]:
    """Rows by status, per queue and in total."""
    system = parts.system()
    seen = Snapshot.take(system)
    return {
        "queues": {priority.value: _queue_stats(system, seen, priority) for priority in PRIORITIES},
        "counts": {status.value: seen.total(status) for status in Status},
        "processing": seen.total(Status.PROCESSING),
        "completed_total": seen.total(Status.COMPLETED),
        "failed_total": seen.total(Status.FAILED),
        "oldest_waiting_seconds": seen.oldest_waiting_seconds,
        "workers_alive": len(seen.workers),
        "fallback_active": seen.fallback_active,
        "redis": _redis_json(system, seen),
    }


@admin.get("/workers")
def workers() -> dict[str, Any]:
    """The workers that gave a sign of life lately."""
    return {"workers": [worker_json(worker) for worker in parts.system().workers()]}


def worker_json(worker: WorkerRow) -> dict[str, Any]:
    return {
        "id": worker.worker_id,
        "host": worker.host,
        "pid": worker.pid,
        "track": worker.track,
        "queues": [name for name in worker.queues.split(",") if name],
        "state": worker.state,
        "done": worker.done,
        "started_at": iso(worker.started_at),
        "seen_at": iso(worker.seen_at),
        "idle_seconds": round(worker.idle_seconds, 1),
    }


def _queue_json(system: System, seen: Snapshot, priority: Priority) -> dict[str, Any]:
    route = seen.routing[priority]
    return {
        "redis_key": redis_key(system, priority),
        "tickets": None if seen.tickets is None else seen.tickets[priority],
        "dispatched": seen.counts[Status.DISPATCHED][priority],
        "queued": seen.counts[Status.QUEUED][priority],
        "scheduled": seen.counts[Status.SCHEDULED][priority],
        "processing": seen.counts[Status.PROCESSING][priority],
        "paused": route.paused,
        "redis_percent": route.redis_percent,
    }


def _queue_stats(system: System, seen: Snapshot, priority: Priority) -> dict[str, Any]:
    counts = {status.value: seen.counts[status][priority] for status in Status}
    return {**_queue_json(system, seen, priority), "counts": counts}


def _redis_json(system: System, seen: Snapshot) -> dict[str, Any]:
    return {
        "enabled": system.tickets is not None,
        "connected": seen.tickets is not None,
        "away_seconds": round(seen.redis_away_seconds, 1),
    }


# --- switch queues --------------------------------------------------------------------------------


@admin.post("/queues/<word>/pause")
def pause_queue(word: str) -> dict[str, Any]:
    """Hand out nothing of this queue from now on; what runs goes on."""
    priority = _priority(word)
    return _route_json(parts.queue().pause([priority])[priority])


@admin.post("/queues/<word>/resume")
def resume_queue(word: str) -> dict[str, Any]:
    """Hand out tasks of this queue again."""
    priority = _priority(word)
    return _route_json(parts.queue().resume([priority])[priority])


@admin.post("/queues/<word>/clear")
def clear_queue(word: str) -> dict[str, Any]:
    """Cancel every task that waits in this queue."""
    priority = _priority(word)
    return {"priority": priority.value, "cancelled": parts.queue().clear(priority)}


def _priority(word: str) -> Priority:
    try:
        return Priority.of_queue(word)
    except ValueError:
        raise refused(404, f"There is no such queue; the queues are {', '.join(PRIORITIES)}.") from None


# --- routing --------------------------------------------------------------------------------------


@admin.get("/routing")
def show_routing() -> dict[str, Any]:
    """The rules per priority as they are now."""
    return _routing_json(parts.store().routing.refresh())


@admin.put("/routing")
def change_routing() -> dict[str, Any]:
    """Send this share of tasks by Redis from now on; waiting rows follow within seconds."""
    body = body_as(RoutingBody)
    percent = _percent(body, parts.system())
    chosen = PRIORITIES if body.priorities is None else [Priority(word) for word in body.priorities]
    return _routing_json(parts.queue().route(redis_percent=percent, priorities=chosen))


def _percent(body: RoutingBody, system: System) -> int:
    if body.mode is None and body.redis_percent is None:
        raise invalid("mode", "is required, or redis_percent")
    fixed = PERCENT_OF_MODE.get(body.mode or "hybrid")
    if fixed is None:
        percent = system.config.RQ_ROLLOUT_PERCENT if body.redis_percent is None else body.redis_percent
    elif body.redis_percent in (None, fixed):
        percent = fixed
    else:
        raise invalid("redis_percent", f"must be {fixed} in {body.mode} mode")
    if percent and system.tickets is None:
        raise refused(409, "This system runs without Redis: set RQ_ENABLED and start it again.")
    return percent


def _routing_json(rules: Routing) -> dict[str, Any]:
    percents = {route.redis_percent for route in rules.values()}
    mode = {frozenset({0}): "database", frozenset({100}): "redis"}.get(frozenset(percents), "hybrid")
    return {
        "mode": mode,
        "fallback_active": any(route.fallback for route in rules.values()),
        "priorities": {priority.value: _route_json(rules[priority]) for priority in PRIORITIES},
    }


def _route_json(route: Route) -> dict[str, Any]:
    return {
        "priority": route.priority.value,
        "redis_percent": route.redis_percent,
        "name_percents": dict(route.name_percents),
        "paused": route.paused,
        "fenced_track": route.fenced_track.value if route.fenced_track else None,
        "fallback": route.fallback,
        "version": route.version,
    }
