"""Who calls in these tests, what time it is, and how a worker would have acted."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any

from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from app.system import System
from app.tasks.model import Claim, Completed, Failed
from tests.clocks import WallClock

ADMIN_TOKEN = "admin-token-of-the-tests"
API_TOKEN = "api-token-of-the-tests"
ADMIN = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
SUBMITTER = {"Authorization": f"Bearer {API_TOKEN}"}
BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}

# Nothing listens on port 1 of this machine.
DEAD_DATABASE = "mysql+pymysql://keeper:very-secret@127.0.0.1:1/tasks"

MakeApp = Callable[..., Flask]


class Clock(WallClock):
    def advance(self, **duration: float) -> None:
        self.now += timedelta(**duration)


def system_of(app: Flask) -> System:
    found: System = app.extensions["twintrack"]
    return found


def submit(client: FlaskClient, name: str = "test.noop", headers: Any = None, **fields: Any) -> str:
    """Submit a task that must be accepted; its id."""
    answer = client.post("/api/tasks", json={"name": name, **fields}, headers=headers)
    assert answer.status_code == 202, answer.get_data(as_text=True)
    return str(answer.get_json()["id"])


def fields_of(answer: TestResponse) -> dict[str, str]:
    """The wrong fields that a problem names, with what is wrong."""
    assert answer.mimetype == "application/problem+json"
    return {error["field"]: error["message"] for error in answer.get_json()["errors"]}


def claim(app: Flask, count: int = 1) -> list[Claim]:
    """Claim QUEUED tasks as a worker would."""
    return system_of(app).store.claims.queued(holder="test worker", limit=count, lease_seconds=30)


def complete(app: Flask, claims: Iterable[Claim], result: str = "null") -> None:
    system_of(app).store.settlements.settle([Completed(one, result) for one in claims])


def fail(app: Flask, claims: Iterable[Claim], error: str = "it broke") -> None:
    system_of(app).store.settlements.settle([Failed(one, error) for one in claims])
