"""Who calls in these tests, and what they look at."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from flask import Flask

from app.system import System

ADMIN_TOKEN = "admin-token-of-the-tests"
API_TOKEN = "api-token-of-the-tests"
ADMIN = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
SUBMITTER = {"Authorization": f"Bearer {API_TOKEN}"}

MakeApp = Callable[..., Flask]


class Clock:
    """A clock that moves when the test says so."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **duration: float) -> None:
        self.now += timedelta(**duration)


def system_of(app: Flask) -> System:
    found: System = app.extensions["twintrack"]
    return found
