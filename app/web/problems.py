"""Errors as answers: problem+json (RFC 9457) for programs, a calm page for people.

Owns the table from our error tree to status codes. Refuses to show internals: what a driver or an
unexpected exception said goes to the log, under the request id that the answer names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any

import structlog
from flask import Flask, Response, g, json, render_template, request
from jinja2 import TemplateError
from werkzeug.exceptions import HTTPException

from app.tasks.database import CommitUnknown
from app.tasks.errors import (
    DatabaseUnavailable,
    FieldProblem,
    IdempotencyConflict,
    IntakePaused,
    InvalidTask,
    PayloadTooLarge,
    QueueFull,
    RedisUnavailable,
    RoutingTaken,
    ScheduleNotFound,
    ScheduleRefused,
    TaskError,
    TaskNotFound,
    UnknownTaskName,
    UserLimitReached,
    WrongState,
)
from app.tasks.migrate import pending
from app.web import parts
from app.web.times import iso

MEDIA_TYPE = "application/problem+json"
RETRY_SECONDS = 5

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Problem:
    """One refused request. `kind` is the stable word that programs compare."""

    status: int
    kind: str
    title: str
    detail: str
    errors: tuple[FieldProblem, ...] = ()
    more: Mapping[str, Any] = field(default_factory=dict)
    retry_after_seconds: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        """The members of the JSON object; `errors` is there only if fields are to blame."""
        body: dict[str, Any] = {
            "type": f"urn:twintrack:problem:{self.kind}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
        }
        if self.errors:
            body["errors"] = [{"field": one.field, "message": one.message} for one in self.errors]
        return body | dict(self.more)


class Refused(Exception):
    """Raised by a view to answer with this problem."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        super().__init__(problem.detail)


@dataclass(frozen=True, slots=True)
class _Kind:
    status: int
    word: str
    title: str
    # Fixed where the error's own text could carry a host, a path or a statement.
    detail: str | None = None
    retry_after_seconds: int | None = None


# From the special to the general: the first class that fits speaks.
_KINDS: dict[type[TaskError], _Kind] = {
    UnknownTaskName: _Kind(422, "unknown-task-name", "Unknown task name"),
    PayloadTooLarge: _Kind(413, "payload-too-large", "The payload is too large"),
    InvalidTask: _Kind(400, "invalid-request", "The request is not valid"),
    TaskNotFound: _Kind(404, "task-not-found", "No such task"),
    ScheduleNotFound: _Kind(404, "schedule-not-found", "No such schedule"),
    ScheduleRefused: _Kind(409, "schedule-refused", "The schedule does not allow this now"),
    WrongState: _Kind(409, "wrong-state", "The task's state does not allow this"),
    RoutingTaken: _Kind(409, "routing-taken", "A transfer is under way"),
    UserLimitReached: _Kind(409, "user-limit-reached", "The user has an active task already"),
    IdempotencyConflict: _Kind(409, "idempotency-conflict", "The idempotency key is taken"),
    IntakePaused: _Kind(503, "intake-paused", "Task submission is paused"),
    QueueFull: _Kind(429, "queue-full", "Too many tasks are waiting", None, RETRY_SECONDS),
    CommitUnknown: _Kind(
        503,
        "commit-unknown",
        "The database went away",
        "The database went away while it answered: the change may be stored or not. Look before you repeat.",
        RETRY_SECONDS,
    ),
    DatabaseUnavailable: _Kind(
        503,
        "database-unavailable",
        "The database does not answer",
        "The database does not answer. Nothing was half-done; try again.",
        RETRY_SECONDS,
    ),
    RedisUnavailable: _Kind(
        503,
        "redis-unavailable",
        "Redis does not answer",
        "Redis does not answer. Try again.",
        RETRY_SECONDS,
    ),
    TaskError: _Kind(503, "busy", "Not possible just now", None, RETRY_SECONDS),
}


def problem_of(error: TaskError) -> Problem:
    """The answer to an error of the task core."""
    kind = next(kind for known, kind in _KINDS.items() if isinstance(error, known))
    retry = error.retry_after_seconds if isinstance(error, IntakePaused) else kind.retry_after_seconds
    return Problem(
        status=kind.status,
        kind=kind.word,
        title=kind.title,
        detail=kind.detail or str(error),
        errors=error.problems if isinstance(error, InvalidTask) else (),
        more=_more(error),
        retry_after_seconds=retry,
    )


def _more(error: TaskError) -> dict[str, Any]:
    match error:
        case UserLimitReached(active_task_id=active):
            return {"active_task_id": None if active is None else str(active), "limit": error.limit}
        case IdempotencyConflict(task_id=task_id):
            return {"task_id": str(task_id)}
        case IntakePaused(reason=reason, until=until):
            return {"reason": reason, "until": iso(until)}
        case WrongState(status=status):
            return {"task_id": str(error.task_id), "task_status": str(status)}
        case RoutingTaken(transfer_id=transfer_id, priority=priority):
            return {"transfer_id": transfer_id, "priority": priority}
        case ScheduleRefused(name=name, task_id=task_id):
            return {"schedule": name, "task_id": None if task_id is None else str(task_id)}
        case QueueFull(limit=limit):
            return {"limit": limit}
    return {}


def invalid(field_name: str, message: str) -> Refused:
    """400 that blames one field or parameter."""
    return invalid_fields([FieldProblem(field_name, message)])


def invalid_fields(problems: list[FieldProblem]) -> Refused:
    return Refused(problem_of(InvalidTask(problems)))


def refused(status: int, detail: str, *, kind: str | None = None, **headers: str) -> Refused:
    """A problem without fields. Header names are written with underscores."""
    word, title = _words_of(status)
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return Refused(Problem(status, kind or word, title, detail, headers=names))


def install(app: Flask) -> None:
    """Register the handlers of every error that can leave a view."""
    app.register_error_handler(Refused, lambda error: answer(error.problem))
    app.register_error_handler(TaskError, lambda error: answer(_logged(error)))
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _unexpected)


def answer(problem: Problem) -> Response:
    """The response: HTML for a browser that looks at a page, problem+json for everybody else."""
    problem = _with_request_id(problem)
    response = _page(problem) if wants_page() else _document(problem)
    response.headers.extend(problem.headers)
    if problem.retry_after_seconds is not None:
        response.headers["Retry-After"] = str(problem.retry_after_seconds)
    return response


def _document(problem: Problem) -> Response:
    return Response(json.dumps(problem.body()), status=problem.status, mimetype=MEDIA_TYPE)


def _page(problem: Problem) -> Response:
    text, kind = rendered("problem.html", problem=problem), "text/html"
    if text is None:
        text, kind = f"{problem.status} {problem.title}\n\n{problem.detail}\n", "text/plain"
    return Response(text, status=problem.status, mimetype=kind)


def rendered(template: str, **values: Any) -> str | None:
    """The page as text; None if its template is missing or broken: an error page must not fail itself."""
    try:
        return render_template(template, **values)
    except TemplateError as error:
        log.error("page.not_rendered", template=template, reason=str(error))
        return None


def wants_page() -> bool:
    """True if a browser looks at a page, as against a program that calls an endpoint."""
    if request.path.startswith(("/api/", "/health", "/metrics")):
        return False
    accepted = request.accept_mimetypes
    return accepted.best_match((MEDIA_TYPE, "application/json", "text/html")) == "text/html"


def _with_request_id(problem: Problem) -> Problem:
    if problem.status != HTTPStatus.INTERNAL_SERVER_ERROR:
        return problem
    return replace(problem, more={**problem.more, "request_id": g.get("request_id")})


def _logged(error: TaskError) -> Problem:
    problem = problem_of(error)
    if problem.detail != str(error):
        log.warning("request.failed", kind=problem.kind, reason=str(error))
    return problem


def _http_error(error: HTTPException) -> Any:
    if error.response is not None or error.code is None or error.code < HTTPStatus.BAD_REQUEST:
        return error
    word, title = _words_of(error.code)
    kept = {name: value for name, value in error.get_headers() if name not in ("Content-Type",)}
    return answer(Problem(error.code, word, title, _DETAILS.get(error.code, title + "."), headers=kept))


def _unexpected(error: Exception) -> Response:
    if _tables_are_missing():
        log.warning("request.failed", kind="schema-not-ready", reason=type(error).__name__)
        return answer(_NOT_PREPARED)
    log.error("request.crashed", method=request.method, endpoint=request.endpoint, exc_info=error)
    word, title = _words_of(500)
    return answer(Problem(500, word, title, _DETAILS[500]))


def _tables_are_missing() -> bool:
    """MySQL and PostgreSQL call a missing table a wrong statement: is it that, or our mistake?"""
    try:
        return bool(pending(parts.store().database))
    except TaskError:
        return False


def _words_of(status: int) -> tuple[str, str]:
    phrase = HTTPStatus(status).phrase
    return phrase.lower().replace(" ", "-"), phrase


_DETAILS = {
    400: "The request cannot be understood.",
    404: "There is nothing at this address.",
    405: "This address does not know that method; the Allow header lists those it knows.",
    413: "The body is larger than this address takes.",
    500: "Something unexpected happened. The log says more under this request id.",
}
_NOT_PREPARED = Problem(
    503,
    "schema-not-ready",
    "The database is not prepared",
    "The database is not prepared for this version yet. Try again.",
    retry_after_seconds=RETRY_SECONDS,
)
