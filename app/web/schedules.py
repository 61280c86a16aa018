"""Schedules over HTTP: make, look, change, pause, run now, remove. For admins: a schedule acts for years."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from flask import Blueprint, Response, jsonify
from pydantic import Field

from app.tasks.model import Schedule, ScheduleState, Status
from app.tasks.schedule_requests import ScheduleRequest
from app.web import auth, parts
from app.web.audit import audit
from app.web.bodies import body_as
from app.web.representation import submitted_json
from app.web.schemas import RequestBody
from app.web.times import iso

UPCOMING = 5

schedules = Blueprint("schedules", __name__, url_prefix="/api/schedules")
schedules.before_request(auth.guard(auth.Role.ADMIN))
schedules.after_request(audit)


class ChangeBody(RequestBody):
    """`PATCH /api/schedules/{name}`: what is left out stays."""

    task: str = ""
    cron: str | None = None
    interval_seconds: int | None = None
    time_zone: str = "UTC"
    payload: Any = None
    priority: str | None = None
    user_id: str | None = None
    max_retries: int | None = None
    timeout_seconds: int | None = None
    overlap: Literal["skip", "allow"] = "skip"
    enabled: bool = True


class ScheduleBody(ChangeBody):
    """`POST /api/schedules`. What is None takes the default of the handler, the priority or the settings."""

    name: str
    task: Annotated[str, Field(min_length=1, max_length=100)]


@schedules.get("")
def list_schedules() -> dict[str, Any]:
    """Every schedule with its next time and its last task."""
    found = parts.queue().schedules.list()
    statuses = parts.store().queries.statuses([one.last_task_id for one in found if one.last_task_id])
    now = parts.store().database.now()
    return {"schedules": [schedule_json(one, statuses) for one in found], "now": iso(now)}


@schedules.post("")
def create() -> tuple[Response, int, dict[str, str]]:
    """Make a schedule: 201. Its first run is planned for the next time that the rule names."""
    made = parts.queue().schedules.create(ScheduleRequest(**body_as(ScheduleBody).model_dump()))
    body = schedule_json(made)
    return jsonify(body), 201, {"Location": body["links"]["self"]}


@schedules.get("/<name>")
def show(name: str) -> dict[str, Any]:
    """One schedule, with the next planned times in `upcoming`."""
    return _shown(parts.queue().schedules.get(name))


@schedules.patch("/<name>")
def change(name: str) -> dict[str, Any]:
    """Change the given fields; `enabled` pauses and resumes. What the code declares can only be paused."""
    changes = body_as(ChangeBody).model_dump(exclude_unset=True)
    return _shown(parts.queue().schedules.change(name, changes))


@schedules.delete("/<name>")
def remove(name: str) -> tuple[str, int]:
    """Forget a schedule; its tasks stay. 409 for one that the code declares."""
    parts.queue().schedules.remove(name)
    return "", 204


@schedules.post("/<name>/run")
def run_now(name: str) -> tuple[dict[str, Any], int]:
    """Run once now, beside the plan: 202 with the task. 409 while a run is open that it must not overlap."""
    return submitted_json(parts.queue().schedules.run_now(name)), 202


def _shown(schedule: Schedule) -> dict[str, Any]:
    upcoming = [iso(moment) for moment in schedule.upcoming(UPCOMING)]
    ids = [schedule.last_task_id] if schedule.last_task_id else []
    return schedule_json(schedule, parts.store().queries.statuses(ids)) | {"upcoming": upcoming}


def schedule_json(schedule: Schedule, statuses: dict[int, Status] | None = None) -> dict[str, Any]:
    """A schedule as programs see it. `last_task` has no status once the task has been deleted."""
    rule, last = schedule.recurrence, schedule.last_task_id
    status = (statuses or {}).get(last) if last else None
    path = f"/api/schedules/{schedule.name}"
    return {
        "name": schedule.name,
        "task": schedule.task,
        "cron": rule.cron,
        "interval_seconds": rule.interval_seconds,
        "time_zone": rule.time_zone,
        "payload": json.loads(schedule.payload),
        "priority": schedule.priority.value,
        "user_id": schedule.user_id,
        "max_retries": schedule.max_retries,
        "timeout_seconds": schedule.timeout_seconds,
        "overlap": schedule.overlap.value,
        "origin": schedule.origin.value,
        "state": schedule.state.value,
        "enabled": schedule.state is ScheduleState.ACTIVE,
        "next_run_at": iso(schedule.next_run_at),
        "last_run_at": iso(schedule.last_run_at),
        "last_task": {"id": str(last), "status": status.value if status else None} if last else None,
        "skipped": schedule.skipped,
        "skip_reason": schedule.skip_reason,
        "created_at": iso(schedule.created_at),
        "changed_at": iso(schedule.changed_at),
        "links": {"self": path, "run": f"{path}/run"},
    }
