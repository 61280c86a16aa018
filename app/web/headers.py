"""What every response carries: a request id, and what the browser may do with the content."""

from __future__ import annotations

import secrets

import structlog
from flask import Flask, Response, g, request

from app.web.auth import FOREIGN_PAGES
from config import Config

CONTENT_POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)
# rq-dashboard's own pages hold inline scripts; only an admin gets them.
FOREIGN_CONTENT_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
ALWAYS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
YEAR_SECONDS = 31_536_000


def install(app: Flask, config: Config) -> None:
    """Add the hooks. A view's own header wins over the general one."""

    @app.before_request
    def name_the_request() -> None:
        g.request_id = secrets.token_hex(8)
        structlog.contextvars.bind_contextvars(request_id=g.request_id)

    @app.teardown_request
    def forget_the_name(_error: BaseException | None) -> None:
        structlog.contextvars.unbind_contextvars("request_id")

    @app.after_request
    def protect(response: Response) -> Response:
        foreign = request.blueprint in FOREIGN_PAGES
        policy = FOREIGN_CONTENT_POLICY if foreign else CONTENT_POLICY
        response.headers.setdefault("Content-Security-Policy", policy)
        for name, value in ALWAYS.items():
            response.headers.setdefault(name, value)
        if request.endpoint is None or not request.endpoint.endswith("static"):
            response.headers.setdefault("Cache-Control", "no-store")
        if config.production and request.is_secure:
            response.headers.setdefault("Strict-Transport-Security", f"max-age={YEAR_SECONDS}")
        response.headers["X-Request-Id"] = g.get("request_id", "")
        return response
