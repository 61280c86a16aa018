"""The web part: the API, the admin endpoints, health, metrics and pages over one System.

Builds the Flask app and nothing else: it migrates nothing and starts nothing, and it answers 503 while the
database is away.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from datetime import datetime, timedelta

import structlog
from flask import Flask

from app.logs import configure_logging
from app.system import System, build_system
from app.tasks.queue import utc_now
from app.web import (
    admin,
    api,
    auth,
    dashboard,
    dead_letters,
    flows,
    headers,
    health,
    maintenance,
    metrics,
    migration,
    pages,
    parts,
    problems,
    schedules,
    sessions,
    streams,
    uploads,
)
from config import Config

SESSION_LIFETIME = timedelta(hours=12)
# A character of a payload takes up to six bytes in JSON (\u0000); the rest is for the other fields.
ESCAPED_BYTES = 6
OTHER_FIELDS_BYTES = 64 * 1024

log = structlog.get_logger(__name__)


def build_app(
    config: Config | None = None, system: System | None = None, *, clock: Callable[[], datetime] = utc_now
) -> Flask:
    """Build the app over `system`, or over a new one from `config`.

    Raises `config.ConfigError` for a wrong setting. The entrance calls `system.prepare()` when the database
    answers, and sets `app.extensions["stopping"]` when the process shuts down.
    """
    config = system.config if system is not None else config or Config()
    configure_logging(config.LOG_LEVEL, json=config.LOG_JSON)
    app = Flask(__name__)
    app.secret_key = config.SECRET_KEY or secrets.token_hex(32)
    app.config.update(
        MAX_CONTENT_LENGTH=config.TASK_PAYLOAD_LIMIT_BYTES * ESCAPED_BYTES + OTHER_FIELDS_BYTES,
        SESSION_COOKIE_NAME="twintrack_session",
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Strict",
        SESSION_COOKIE_SECURE=config.production,
        PERMANENT_SESSION_LIFETIME=SESSION_LIFETIME,
    )
    app.json.sort_keys = False  # type: ignore[attr-defined]
    system = system or build_system(config)
    parts.install(app, system, clock)
    headers.install(app, config)
    problems.install(app)
    _register(app, system)
    _warn_of_missing_tokens(config)
    return app


def _register(app: Flask, system: System) -> None:
    sessions.install(app)
    metrics.install(app, system)
    streams.install(app)
    for blueprint in (
        api.api,
        uploads.uploads,
        schedules.schedules,
        health.health,
        admin.admin,
        dead_letters.dead_letters,
        maintenance.maintenance,
        flows.flows,
        migration.migration,
        pages.pages,
        pages.admin_pages,
    ):
        app.register_blueprint(blueprint)
    if system.tickets is not None:
        dashboard.install(app, system.tickets)


def _warn_of_missing_tokens(config: Config) -> None:
    if auth.no_token_needed(config):
        log.info(
            "auth.loopback_only", reason="no token is set: only direct requests from this machine are served"
        )
    elif not config.ADMIN_TOKEN:
        log.warning("auth.no_admin", reason="ADMIN_TOKEN is not set: nobody can use the admin endpoints")
