"""A web app on a fresh SQLite database and the session's Redis, and callers with and without tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.system import System, build_system
from app.tasks.queue import TaskQueue, utc_now
from app.web import build_app
from config import Config
from tests.prepared import put_tables
from tests.web.support import ADMIN_TOKEN, API_TOKEN, MakeApp


@pytest.fixture
def make_app(tmp_path: Path) -> Iterator[MakeApp]:
    """Builds apps that are closed with the test; `prepare=False` leaves the database as it is.

    Without RQ_REDIS_URL among the settings, in database mode.
    """
    systems: list[System] = []

    def make(*, prepare: bool = True, clock: Callable[[], datetime] = utc_now, **settings: Any) -> Flask:
        chosen: dict[str, Any] = {"VAR_DIR": tmp_path / "var"} | settings
        chosen.setdefault("DATABASE_URL", f"sqlite:///{tmp_path / 'web.db'}")
        chosen.setdefault("RQ_ENABLED", "RQ_REDIS_URL" in chosen)
        built = build_system(Config.for_tests(**chosen))
        queue = TaskQueue(built.store, built.handlers, built.tickets, built.settings, now=clock)
        system = replace(built, queue=queue)
        systems.append(system)
        if prepare:
            put_tables(chosen["DATABASE_URL"])
            system.prepare()
        return build_app(system=system, clock=clock)

    yield make
    for system in systems:
        system.close()


@pytest.fixture
def app(make_app: MakeApp, redis_url: str) -> Flask:
    """Redis mode, with both tokens set."""
    return make_app(RQ_REDIS_URL=redis_url, ADMIN_TOKEN=ADMIN_TOKEN, API_TOKEN=API_TOKEN)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    """A client without a token: give each request its headers."""
    return app.test_client()


@pytest.fixture
def local_app(make_app: MakeApp) -> Flask:
    """Database mode in development without tokens: a request from this machine is an admin's."""
    return make_app()


@pytest.fixture
def local(local_app: Flask) -> FlaskClient:
    return local_app.test_client()
