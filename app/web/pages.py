"""The pages for people, and the one endpoint that the tasks page asks each second.

Owns what the page shows of the system as a whole. Changes nothing: every button calls the API.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any
from zoneinfo import available_timezones

from flask import Blueprint, current_app, jsonify, render_template, url_for
from flask.typing import ResponseReturnValue

from app.handlers.samples import SAMPLE_TASKS
from app.system import System
from app.tasks.errors import RedisUnavailable
from app.tasks.model import PRIORITIES, WAITING, Priority, Status, Task
from app.tasks.routing import Routing
from app.tasks.store.queries import Filter
from app.tasks.store.registry import WorkerRow
from app.web import auth, dashboard, parts
from app.web.representation import track_of
from app.web.times import iso

CACHE_SECONDS = 0.5
# An answer that took long to make is kept longer: counting never takes more than a fifth of the time.
CACHE_PER_COST = 4.0
NEWEST_TASKS = 24
RUNNING_TASKS = 64
# Beyond this many waiting rows nobody can follow one wagon, and the running rows are far down the list.
FOLLOWABLE_WAITING = 5_000
OTHER_SCRIPTS = frozenset(
    {"theme.js", "admin.js", "deadletters.js", "question.js", "schedules.js", "migration.js", "flows.js"}
)
CACHE_SLOT = "twintrack.overview"

pages = Blueprint("pages", __name__)
pages.before_request(auth.guard(auth.Role.SUBMITTER))

admin_pages = Blueprint("admin_pages", __name__, url_prefix="/admin")
admin_pages.before_request(auth.guard(auth.Role.ADMIN))


@pages.app_template_global()
def asset(name: str) -> str:
    """The address of a static file."""
    return url_for("static", filename=name)


@pages.get("/")
def index() -> str:
    """The tasks page."""
    return render_template(
        "index.html",
        samples=SAMPLE_TASKS,
        modules=_modules(),
        upload_limit_bytes=parts.system().config.UPLOAD_LIMIT_BYTES,
        fallback_seconds=_fallback_seconds(),
    )


@admin_pages.get("/")
def admin_index() -> str:
    """The admin page: queues, submission, workers, dead letters, and every admin endpoint."""
    rules = (rule for rule in current_app.url_map.iter_rules() if rule.rule.startswith("/admin/"))
    return render_template(
        "admin.html",
        endpoints=_endpoints(rules),
        dashboard=f"{dashboard.PREFIX}/" if parts.system().tickets is not None else None,
        fallback_seconds=_fallback_seconds(),
    )


@admin_pages.get("/schedules")
def schedules_page() -> str:
    """The schedules page: what runs again and again, and a form for one more."""
    return render_template("schedules.html", tasks=sorted(parts.system().handlers), zones=_time_zones())


@pages.get("/api/overview")
def overview() -> ResponseReturnValue:
    """Everything that the page draws, in one answer that all viewers of this process share.

    Raises `DatabaseUnavailable`; without Redis it answers, with `tickets` null.
    """
    cache = current_app.extensions.setdefault(CACHE_SLOT, OverviewCache())
    body = cache.get(lambda: _overview(parts.system()))
    if auth.caller().user_id is not None:
        body = {**body, "tasks": []}
    return jsonify(body)


class OverviewCache:
    """The last overview of this process, made anew by one thread while the others wait for it."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._body: dict[str, Any] = {}
        self._good_until = float("-inf")

    def get(self, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The kept answer while it is fresh, else a new one; what `make` raises is not kept."""
        with self._lock:
            began = self._clock()
            if began >= self._good_until:
                self._body = make()
                ended = self._clock()
                self._good_until = ended + max(CACHE_SECONDS, CACHE_PER_COST * (ended - began))
            return self._body


def _overview(system: System) -> dict[str, Any]:
    store = system.store
    counts = store.queries.counts()
    workers = system.workers()
    tickets, connected = _tickets(system)
    rules = store.routing.current()
    return {
        "counts": {status.value: _by_priority(numbers) for status, numbers in counts.items()},
        "tickets": tickets,
        "workers": [_worker_json(worker) for worker in workers],
        "routing": _routing_json(rules),
        "redis": {
            "connected": connected,
            "away_seconds": 0.0 if system.tickets is None else round(system.tickets.health.away_seconds, 1),
        },
        "tasks": [_brief(task, rules) for task in _followed(system, counts)],
        "now": iso(parts.now()),
    }


def _tickets(system: System) -> tuple[dict[str, int | None], bool | None]:
    """Tickets per queue, and whether Redis answers: None if the settings do not use it."""
    unknown: dict[str, int | None] = {priority.value: None for priority in PRIORITIES}
    if system.tickets is None:
        return unknown, None
    if not system.tickets.health.worth_a_try:
        return unknown, False
    try:
        return {priority.value: number for priority, number in system.tickets.lengths().items()}, True
    except RedisUnavailable:
        return unknown, False


def _followed(system: System, counts: Mapping[Status, Mapping[Priority, int]]) -> list[Task]:
    """The tasks whose moves can be drawn one by one: the newest ones and those that run."""
    queries = system.store.queries
    newest = queries.page(limit=NEWEST_TASKS)
    waiting = sum(sum(counts[status].values()) for status in WAITING)
    if waiting > FOLLOWABLE_WAITING or not any(counts[Status.PROCESSING].values()):
        return newest
    seen = {task.task_id for task in newest}
    running = queries.page(Filter(status=Status.PROCESSING), limit=RUNNING_TASKS)
    return newest + [task for task in running if task.task_id not in seen]


def _brief(task: Task, rules: Routing) -> dict[str, Any]:
    """A task as the drawing needs it. `track_by_rules` is where the present rules send it: that is how it
    came to its worker, if they have not changed since."""
    route = rules.get(task.priority)
    return {
        "id": str(task.task_id),
        "name": task.name,
        "status": task.status.value,
        "priority": task.priority.value,
        "track": track_of(task.status),
        "track_by_rules": route.track_of(task.task_id, task.name).value if route else None,
        "created_at": iso(task.created_at),
        "worker": task.holder,
        "attempt": task.attempt,
        "percent": task.progress_percent,
        "step": task.progress_step,
    }


def _worker_json(worker: WorkerRow) -> dict[str, Any]:
    return {
        "id": worker.worker_id,
        "host": worker.host,
        "pid": worker.pid,
        "track": worker.track,
        "state": worker.state,
        "done": worker.done,
        "queues": worker.queues.split(",") if worker.queues else [],
        "started_at": iso(worker.started_at),
        "idle_seconds": round(worker.idle_seconds, 1),
    }


def _routing_json(rules: Routing) -> dict[str, Any]:
    now = parts.now()
    return {
        priority.value: {
            "redis_percent": rules[priority].redis_percent,
            "paused": rules[priority].paused,
            "fenced_track": rules[priority].fenced_track,
            "fallback": rules[priority].fallback,
            "intake": rules[priority].intake_at(now).value,
            "intake_until": iso(rules[priority].intake_until),
            "intake_reason": rules[priority].intake_reason,
        }
        for priority in PRIORITIES
        if priority in rules
    }


def _by_priority(numbers: Mapping[Priority, int]) -> dict[str, int]:
    return {priority.value: numbers[priority] for priority in PRIORITIES}


def _fallback_seconds() -> float:
    """After how long an outage of Redis the pollers take over; 0 if they never do."""
    config = parts.system().config
    return config.RQ_FALLBACK_TIMEOUT if config.RQ_FALLBACK_ENABLED else 0


@cache
def _time_zones() -> list[str]:
    return sorted(available_timezones(), key=lambda zone: (zone != "UTC", zone))


def _modules() -> list[str]:
    """The scripts of the tasks page: named in its head, so that the browser fetches them all at once."""
    folder = Path(current_app.static_folder or "") / "js"
    return sorted(path.name for path in folder.glob("*.js") if path.name not in OTHER_SCRIPTS)


def _endpoints(rules: Iterable[Any]) -> list[dict[str, str]]:
    """Each admin address with its method and the first sentence of what its view says of itself."""
    rows = []
    for rule in rules:
        if rule.endpoint.startswith("rq_dashboard"):
            continue
        view = current_app.view_functions[rule.endpoint]
        sentence = (view.__doc__ or "").strip().partition("\n")[0].replace("`", "")
        rows += [
            {"method": method, "path": rule.rule, "does": sentence}
            for method in sorted(rule.methods - {"HEAD", "OPTIONS"})
        ]
    return sorted(rows, key=lambda row: (row["path"], row["method"]))
