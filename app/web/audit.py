"""Who changed what: one log line per change that an admin asks for."""

from __future__ import annotations

import structlog
from flask import Response, g, request

from app.web.auth import SAFE_METHODS, Caller

log = structlog.get_logger(__name__)


def audit(response: Response) -> Response:
    """An `after_request` function for admin blueprints."""
    if request.method not in SAFE_METHODS:
        who: Caller | None = g.get("caller")
        log.info(
            "admin.changed",
            action=request.endpoint,
            path=request.path,
            status=response.status_code,
            means=who.means.value if who else None,
            remote=request.remote_addr,
        )
    return response
