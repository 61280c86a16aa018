"""Tasks as JSON. Ids are strings: JavaScript's numbers do not hold 63 bits."""

from __future__ import annotations

from typing import Any

from app.tasks.model import Event, Moved, Status, Submitted, Task, Track
from app.web.times import iso

_TRACKS = {Status.DISPATCHED: Track.REDIS, Status.QUEUED: Track.DATABASE}


def track_of(status: Status) -> str | None:
    """The track on which a task of this status waits; None if it does not wait for a worker."""
    track = _TRACKS.get(status)
    return track.value if track else None


def task_json(task: Task) -> dict[str, Any]:
    """One task with everything that its submitter may see."""
    run = task.planned_run
    return {
        "id": str(task.task_id),
        "name": task.name,
        "status": task.status.value,
        "priority": task.priority.value,
        "user_id": task.user_id,
        "payload": task.payload,
        "result": task.result,
        "error": task.error,
        "progress": {"percent": task.progress_percent, "step": task.progress_step},
        "attempt": task.attempt,
        "failures": task.failures,
        "max_retries": task.max_retries,
        "timeout_seconds": task.timeout_seconds,
        "cancel_requested": task.cancel_requested,
        "held": task.held,
        "track": track_of(task.status),
        "worker": task.holder,
        "created_at": iso(task.created_at),
        "run_at": iso(task.run_at),
        "waiting_since": iso(task.waiting_since),
        "started_at": iso(task.started_at),
        "ended_at": iso(task.ended_at),
        "schedule": run.schedule if run else None,
        "planned_at": iso(run.planned_at) if run else None,
    }


def event_json(event: Event) -> dict[str, Any]:
    return {"at": iso(event.at), "kind": event.kind, "detail": dict(event.detail)}


def submitted_json(submitted: Submitted) -> dict[str, Any]:
    """The answer to a submission; `created` is false when the idempotency key named an older task."""
    return {
        "id": str(submitted.task_id),
        "status": submitted.status.value,
        "priority": submitted.priority.value,
        "created": submitted.created,
        "links": links(submitted.task_id),
    }


def moved_json(moved: Moved) -> dict[str, Any]:
    """The answer to a verb on one task: where it is now."""
    return {
        "id": str(moved.task_id),
        "status": moved.status.value,
        "track": track_of(moved.status),
        "links": links(moved.task_id),
    }


def links(task_id: int) -> dict[str, str]:
    path = f"/api/tasks/{task_id}"
    return {"self": path, "events": f"{path}/events"}
