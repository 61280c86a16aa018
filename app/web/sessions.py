"""Logging in with a browser: a token for a session cookie, and back."""

from __future__ import annotations

from typing import Any

import structlog
from flask import Blueprint, Flask, Response, redirect, request
from werkzeug.wrappers import Response as AnyResponse

from app.web import auth, problems
from app.web.loopback import is_cross_site
from app.web.problems import Problem, refused

FALLBACK_FORM = (
    '<!doctype html><title>Sign in</title><form method="post" action="/login">'
    '<label>Token <input name="token" type="password"></label> <button>Sign in</button></form>'
)
START_PAGE = "/"

sessions = Blueprint("sessions", __name__)

log = structlog.get_logger(__name__)


def install(app: Flask) -> None:
    """Register the login, and tell every template who is looking."""
    app.register_blueprint(sessions)

    @app.context_processor
    def for_templates() -> dict[str, Any]:
        return {"csrf_token": auth.csrf_token, "current_caller": auth.known_caller()}


@sessions.get("/login")
def login_page() -> Response:
    """The form; `next` is the page to come back to."""
    return _form(None)


@sessions.post("/login")
def log_in() -> AnyResponse:
    """Take a token from the form and begin a session. 401 with the form again if it is wrong."""
    if is_cross_site(request):
        raise refused(403, "A page of another site may not send this form.", kind="cross-site")
    role = auth.role_of_token(request.form.get("token", "").strip())
    if role is None:
        log.warning("login.refused", remote=request.remote_addr)
        return _form(Problem(401, "unauthorized", "Unauthorized", "This token is not valid."))
    auth.begin_session(role)
    log.info("login.accepted", role=role.value, remote=request.remote_addr)
    return redirect(_next_path(), code=303)


@sessions.post("/logout")
def log_out() -> AnyResponse:
    """End the session. Needs its CSRF token, so that no other page can do it."""
    refusal = auth.guard(auth.Role.SUBMITTER)()
    auth.end_session()
    return refusal or redirect("/login", code=303)


def _form(problem: Problem | None) -> Response:
    text = problems.rendered("login.html", problem=problem, next=_next_path()) or FALLBACK_FORM
    return Response(text, status=problem.status if problem else 200, mimetype="text/html")


def _next_path() -> str:
    """Where to go after the login: a path of ours, never another site."""
    path = request.values.get("next", START_PAGE)
    ours = path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable()
    return path if ours else START_PAGE
