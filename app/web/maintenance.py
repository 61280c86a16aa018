"""Pausing the intake of tasks, with a reason and an end."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, Literal

from flask import Blueprint
from pydantic import AfterValidator, Field

from app.tasks.model import PRIORITIES
from app.tasks.routing import Intake, Routing
from app.web import auth, parts
from app.web.audit import audit
from app.web.bodies import body_as
from app.web.durations import parse_duration
from app.web.schemas import RequestBody
from app.web.times import iso

REASON_CHARACTERS = 500

maintenance = Blueprint("maintenance", __name__, url_prefix="/admin/maintenance")
maintenance.before_request(auth.guard(auth.Role.ADMIN))
maintenance.after_request(audit)


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("must say why, in a few words")
    return text.strip()


def _is_duration(text: str) -> str:
    parse_duration(text)
    return text


class PauseBody(RequestBody):
    """Without a duration the pause lasts until somebody resumes."""

    reason: Annotated[str, Field(max_length=REASON_CHARACTERS), AfterValidator(_not_blank)]
    duration: Annotated[str, AfterValidator(_is_duration)] | None = None
    mode: Literal["hold", "refuse"] = "hold"


@maintenance.post("/pause-task-submission")
def pause() -> dict[str, Any]:
    """Hold submissions (they wait as SCHEDULED) or refuse them (503), for a time or until resumed."""
    body = body_as(PauseBody)
    duration: timedelta | None = parse_duration(body.duration) if body.duration else None
    rules = parts.queue().pause_intake(reason=body.reason, mode=Intake(body.mode), duration=duration)
    return _status_json(rules)


@maintenance.post("/resume-task-submission")
def resume() -> dict[str, Any]:
    """Take submissions again; held tasks follow within seconds. Nothing happens if nothing was paused."""
    return _status_json(parts.queue().resume_intake())


@maintenance.get("/status")
def status() -> dict[str, Any]:
    """Whether submission is paused just now, why, and until when."""
    return _status_json(parts.store().routing.refresh())


def _status_json(rules: Routing) -> dict[str, Any]:
    paused = [
        rules[p] for p in PRIORITIES if p in rules and rules[p].intake_at(parts.now()) is not Intake.OPEN
    ]
    if not paused:
        return {"paused": False, "mode": None, "reason": None, "until": None}
    first = paused[0]
    return {
        "paused": True,
        "mode": first.intake.value,
        "reason": first.intake_reason,
        "until": iso(first.intake_until),
    }
