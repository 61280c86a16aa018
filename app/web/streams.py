"""Server-sent events: how far a task is, until it ends or nobody listens any more.

A stream reads the task's row by its primary key: often while something changes, less often while nothing
does. It holds a thread of the server, so their number is bounded.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

from flask import Blueprint, Flask, Response, current_app

from app.tasks.errors import DatabaseUnavailable, TaskNotFound
from app.tasks.model import ENDED, Status, Task
from app.web import auth, parts
from app.web.api import visible_task
from app.web.problems import RETRY_SECONDS, Problem, Refused
from app.web.representation import track_of
from app.web.times import iso

SLOT = "twintrack.streams"
# Each holds a thread: well below those that the server has, so that other requests find one.
STREAM_LIMIT = 20
RECONNECT_MILLISECONDS = 3000
SLOWER = 1.25

streams = Blueprint("streams", __name__, url_prefix="/api")
streams.before_request(auth.guard(auth.Role.SUBMITTER))


@dataclass(frozen=True, slots=True)
class Pace:
    """All in seconds."""

    first_pause: float = 0.3
    longest_pause: float = 2.0
    heartbeat: float = 15.0
    longest_stream: float = 3600.0


class Streams:
    """The streams of this process: at most `limit` at once."""

    def __init__(self, limit: int = STREAM_LIMIT, pace: Pace | None = None) -> None:
        self.pace = pace or Pace()
        self._places = threading.BoundedSemaphore(limit)

    def enter(self) -> bool:
        """Take a place; false if all are taken."""
        return self._places.acquire(blocking=False)

    def leave(self) -> None:
        self._places.release()


def install(app: Flask) -> None:
    app.extensions[SLOT] = Streams()
    app.register_blueprint(streams)


@streams.get("/tasks/<task_id>/events")
def task_events(task_id: str) -> Response:
    """Events `status`, `progress` and at last `end`, each with a JSON object.

    The stream ends with the task, with the process, or after an hour; a browser then connects again.
    """
    task = visible_task(task_id)
    limit = cast("Streams", current_app.extensions[SLOT])
    if not limit.enter():
        detail = "Too many progress streams are open. Look at the task itself, or try again."
        problem = Problem(
            503, "too-many-streams", "Too many streams", detail, retry_after_seconds=RETRY_SECONDS
        )
        raise Refused(problem)
    read = parts.store().queries.task
    feed = Feed(task.task_id, read, parts.closing(), limit.pace)
    response = Response(iter(feed), mimetype="text/event-stream")
    response.headers["X-Accel-Buffering"] = "no"
    response.call_on_close(limit.leave)
    return response


class Feed:
    """What one listener is told about one task."""

    def __init__(
        self,
        task_id: int,
        read: Callable[[int], Task],
        closing: threading.Event,
        pace: Pace,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._task_id = task_id
        self._read = read
        self._closing = closing
        self._pace = pace
        self._clock = clock
        self._told: dict[str, Any] = {}
        self._spoke_at = clock()
        self._over = False

    def __iter__(self) -> Iterator[str]:
        ends_at = self._clock() + self._pace.longest_stream
        pause = self._pace.first_pause
        yield f"retry: {RECONNECT_MILLISECONDS}\n\n"
        while True:
            news = self._news()
            yield from news
            if self._over or self._clock() >= ends_at or self._closing.wait(pause):
                return
            pause = self._pace.first_pause if news else min(pause * SLOWER, self._pace.longest_pause)

    def _news(self) -> list[str]:
        news = [_event(kind, data) for kind, data in self._changes()]
        if not news and self._clock() - self._spoke_at >= self._pace.heartbeat:
            news = [": still here\n\n"]
        if news:
            self._spoke_at = self._clock()
        return news

    def _changes(self) -> Iterator[tuple[str, dict[str, Any]]]:
        try:
            task = self._read(self._task_id)
        except DatabaseUnavailable:
            return  # the listener waits with us
        except TaskNotFound:
            self._over = True
            yield "end", {"id": str(self._task_id), "status": None}
            return
        for kind, data in (("status", _status(task)), ("progress", _progress(task))):
            if self._told.get(kind) != data:
                self._told[kind] = data
                yield kind, data
        if task.status in ENDED or task.status is Status.QUARANTINED:
            self._over = True
            yield "end", _end(task)


def _event(kind: str, data: dict[str, Any]) -> str:
    return f"event: {kind}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"


def _status(task: Task) -> dict[str, Any]:
    return {
        "id": str(task.task_id),
        "status": task.status.value,
        "track": track_of(task.status),
        "priority": task.priority.value,
        "attempt": task.attempt,
        "failures": task.failures,
        "held": task.held,
        "cancel_requested": task.cancel_requested,
        "worker": task.holder,
        "run_at": iso(task.run_at),
        "started_at": iso(task.started_at),
    }


def _progress(task: Task) -> dict[str, Any]:
    return {"id": str(task.task_id), "percent": task.progress_percent, "step": task.progress_step}


def _end(task: Task) -> dict[str, Any]:
    return {
        "id": str(task.task_id),
        "status": task.status.value,
        "result": task.result,
        "error": task.error,
        "ended_at": iso(task.ended_at),
    }
