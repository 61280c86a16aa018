"""rq-dashboard under our roof: for admins only, over our own connection, and unable to unpickle anything.

It shows tickets, not tasks: emptying a queue or deleting a job there loses nothing, the sweeper pushes the
ticket of a waiting row again.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import redis
import rq_dashboard
import rq_dashboard.web
from flask import Flask, Response, request
from rq import Worker
from rq.exceptions import DeserializationError, InvalidJobOperation, NoSuchJobError
from rq.job import requeue_job
from werkzeug.wrappers import Response as AnyResponse

from app.tasks.tickets import RQQueueManager
from app.tasks.tickets.rq_format import TicketJob, TicketSerializer, UnsafeTicket
from app.web import auth, parts
from app.web.audit import audit
from app.web.problems import RETRY_SECONDS, Problem, answer, refused

PREFIX = "/admin/rq/dashboard"
# The only name of the server that its pages show.
SERVER_LABEL = "redis"
# Addresses that change something although they answer a GET.
_CHANGING = frozenset({"rq_dashboard.requeue_all"})


class DashboardJob(TicketJob):
    """A job read by our serializer, whatever the caller says: the default one would unpickle."""

    @classmethod
    def fetch(cls, id: str, connection: Any = None, serializer: Any = None, **more: Any) -> Any:  # noqa: A002
        return super().fetch(id, connection=connection, serializer=TicketSerializer, **more)


class DashboardWorker(Worker):
    """A worker whose job is read by our serializer: the default one would unpickle what a hash holds."""

    @classmethod
    def all(cls, *arguments: Any, **options: Any) -> Any:
        return super().all(
            *arguments, **options | {"job_class": DashboardJob, "serializer": TicketSerializer}
        )


def install(app: Flask, tickets: RQQueueManager) -> None:
    """Mount the dashboard over the tickets' connection."""
    _prepare_once()
    app.config["RQ_DASHBOARD_REDIS_URL"] = (SERVER_LABEL,)
    app.redis_conn = tickets.client  # type: ignore[attr-defined]
    app.register_blueprint(rq_dashboard.blueprint, url_prefix=PREFIX)


def _prepare_once() -> None:
    """Fit the package's one blueprint with our guards; it takes no more once it has been registered."""
    blueprint = rq_dashboard.blueprint
    if getattr(blueprint, "fitted_by_twintrack", False):
        return
    blueprint.fitted_by_twintrack = True
    # First in line: before the package's own hook, which opens a connection.
    blueprint.before_request_funcs.setdefault(None, []).insert(0, _guard)
    blueprint.after_request(audit)
    blueprint.register_error_handler(redis.RedisError, _redis_failed)
    blueprint.register_error_handler(NoSuchJobError, _no_such_job)
    for impossible in (InvalidJobOperation, redis.ResponseError):
        blueprint.register_error_handler(impossible, _not_possible)
    for unreadable in (UnsafeTicket, DeserializationError):
        blueprint.register_error_handler(unreadable, _unreadable)
    rq_dashboard.web.config.serializer = TicketSerializer
    rq_dashboard.web.Job = DashboardJob
    rq_dashboard.web.Worker = DashboardWorker
    rq_dashboard.web.requeue_job = partial(requeue_job, serializer=TicketSerializer)
    rq_dashboard.web.from_url = _our_connection


def _guard() -> AnyResponse | None:
    if request.endpoint in _CHANGING and request.method in auth.SAFE_METHODS:
        raise refused(405, "This address changes something: it takes POST only.", Allow="POST")
    return auth.guard(auth.Role.ADMIN)()


def _our_connection(*_: Any, **__: Any) -> tuple[None, Any]:
    """In place of a new connection per request."""
    tickets = parts.system().tickets
    assert tickets is not None
    return None, tickets.client


def _redis_failed(_error: redis.RedisError) -> Response:
    detail = "Redis does not answer. Tasks are still accepted."
    return answer(
        Problem(503, "redis-unavailable", "Redis does not answer", detail, retry_after_seconds=RETRY_SECONDS)
    )


def _no_such_job(_error: NoSuchJobError) -> Response:
    return answer(Problem(404, "not-found", "Not Found", "Redis holds no such job any more."))


def _not_possible(_error: Exception) -> Response:
    detail = "What Redis holds does not allow this: the queue is empty, or the job is in another state."
    return answer(Problem(409, "conflict", "Conflict", detail))


def _unreadable(_error: Exception) -> Response:
    detail = "This job was not written by Twintrack, and it is not opened here."
    return answer(Problem(422, "foreign-job", "A job of another program", detail))
