"""How the system is, in one word and with reasons, for monitors and load balancers.

These answers are public: they name no host, no path and no driver's words.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from flask import Blueprint, current_app

from app.system import System
from app.tasks.errors import DatabaseUnavailable
from app.tasks.migrate import pending
from app.web import parts
from app.web.problems import RETRY_SECONDS, Problem, Refused

SCHEMA_SLOT = "twintrack.schema_current"

health = Blueprint("health", __name__)


class Grade(StrEnum):
    """From good to bad; `disabled` is a part that the settings leave out."""

    DISABLED = "disabled"
    OK = "ok"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"


_ORDER = list(Grade)


@dataclass(frozen=True, slots=True)
class Check:
    """One part's grade. `reason` is a short sentence for people."""

    status: Grade
    reason: str
    response_time_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Health:
    """The whole is as good as its worst part."""

    database: Check
    redis: Check
    workers: Check

    @property
    def status(self) -> Grade:
        worst = max((check.status for check in (self.database, self.redis, self.workers)), key=_ORDER.index)
        return max(worst, Grade.OK, key=_ORDER.index)

    def as_json(self) -> dict[str, Any]:
        return {"status": self.status} | asdict(self)


@health.get("/health")
def overall() -> tuple[dict[str, Any], int]:
    """Every part with its grade: 200 while tasks are taken and brought to their end, else 503."""
    found = assess(parts.system())
    return found.as_json(), 503 if found.status is Grade.UNHEALTHY else 200


@health.get("/health/live")
def live() -> dict[str, str]:
    """200 as long as this process answers: nothing else is asked."""
    return {"status": "ok"}


@health.get("/health/ready")
def ready() -> dict[str, str]:
    """200 once the database answers and has this version's tables; 503 until then."""
    check = _database(parts.system())
    if check.status is not Grade.OK:
        raise Refused(
            Problem(503, "not-ready", "Not ready", f"{check.reason}.", retry_after_seconds=RETRY_SECONDS)
        )
    return {"status": "ok"}


def assess(system: System) -> Health:
    """Look at every part. Takes as long as the slowest answer, seconds during an outage."""
    database = _database(system)
    if database.status is Grade.UNHEALTHY:
        unknown = Check(Grade.DEGRADED, "Unknown while the database is away")
        return Health(database, _redis(system, fallback=False), unknown)
    try:
        rules = system.store.routing.refresh()
        alive = len(system.workers())
    except DatabaseUnavailable:
        gone = Check(Grade.UNHEALTHY, "The database does not answer")
        return Health(gone, _redis(system, fallback=False), Check(Grade.DEGRADED, "Unknown"))
    fallback = any(route.fallback for route in rules.values())
    return Health(database, _redis(system, fallback=fallback), _workers(alive))


def _database(system: System) -> Check:
    try:
        spent, _ = _timed(system.store.database.now)
        if not _schema_is_current(system):
            return Check(Grade.UNHEALTHY, "The tables are not up to date", spent)
    except DatabaseUnavailable:
        return Check(Grade.UNHEALTHY, "The database does not answer")
    return Check(Grade.OK, "The database answers", spent)


def _schema_is_current(system: System) -> bool:
    """Looked up until it is true once: a schema does not go back under a running process."""
    if not current_app.extensions.get(SCHEMA_SLOT):
        current_app.extensions[SCHEMA_SLOT] = not pending(system.store.database)
    return bool(current_app.extensions[SCHEMA_SLOT])


def _redis(system: System, *, fallback: bool) -> Check:
    if system.tickets is None:
        return Check(Grade.DISABLED, "Tasks go by the database only")
    spent, answers = _timed(system.tickets.ping)
    if answers and fallback:
        return Check(Grade.DEGRADED, "Redis is back; tasks still go by the database", spent)
    if answers:
        return Check(Grade.OK, "Redis answers", spent)
    if system.config.RQ_FALLBACK_ENABLED or system.config.pollers_enabled:
        return Check(Grade.DEGRADED, "Redis does not answer; tasks go by the database")
    return Check(Grade.UNHEALTHY, "Redis does not answer, and the fallback is switched off")


def _workers(alive: int) -> Check:
    if not alive:
        return Check(Grade.DEGRADED, "No worker is alive: tasks wait")
    return Check(Grade.OK, f"{alive} alive")


def _timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Milliseconds that the call took, and its answer."""
    began = time.perf_counter()
    answer = call()
    return round((time.perf_counter() - began) * 1000, 2), answer
