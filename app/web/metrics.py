"""Prometheus metrics: the system's state, read once per scrape, and what this process has done."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import cast

from flask import Blueprint, Flask, Response, current_app, g, request
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from app.system import System
from app.tasks.errors import TaskError
from app.web import auth
from app.web.snapshot import Snapshot

SLOT = "twintrack.metrics"
KEEP_SECONDS = 1.0
# Others are counted together: a caller must not be able to make series at will.
KNOWN_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"})
DURATIONS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

metrics = Blueprint("metrics", __name__)
metrics.before_request(auth.guard(auth.Role.SUBMITTER))


class Metrics:
    """One registry per app: several apps in a process do not mix."""

    def __init__(self, system: System) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(StateCollector(system))
        self.submissions = Counter(
            "twintrack_submissions",
            "Submissions that this process has answered, by outcome",
            ["outcome"],
            registry=self.registry,
        )
        self.requests = Histogram(
            "twintrack_http_request_seconds",
            "Time to answer an HTTP request of this process",
            ["method", "endpoint", "status"],
            buckets=DURATIONS,
            registry=self.registry,
        )


class StateCollector(Collector):
    """Reads the system's state at a scrape, at most once a second however many scrape."""

    def __init__(self, system: System, clock: Callable[[], float] = time.monotonic) -> None:
        self._system = system
        self._clock = clock
        self._lock = threading.Lock()
        self._read_at = float("-inf")
        self._seen: Snapshot | None = None

    def collect(self) -> Iterable[Metric]:
        seen = self._snapshot()
        yield _gauge("twintrack_database_up", "1 if the database answers", seen is not None)
        if seen is not None:
            yield from _state(seen, self._system)

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering must not read the database."""
        return ()

    def _snapshot(self) -> Snapshot | None:
        with self._lock:
            if self._clock() - self._read_at >= KEEP_SECONDS:
                try:
                    self._seen = Snapshot.take(self._system)
                except TaskError:
                    self._seen = None
                self._read_at = self._clock()
            return self._seen


def install(app: Flask, system: System) -> None:
    app.extensions[SLOT] = Metrics(system)
    app.register_blueprint(metrics)
    app.before_request(_begin)
    app.after_request(_observe)


@metrics.get("/metrics")
def show() -> Response:
    """Everything in Prometheus' text format; 200 with `twintrack_database_up 0` during an outage."""
    return Response(generate_latest(_metrics().registry), content_type=CONTENT_TYPE_LATEST)


def count_submission(outcome: str) -> None:
    """Count one submission: accepted, repeated, or the kind of problem that refused it."""
    _metrics().submissions.labels(outcome).inc()


def _metrics() -> Metrics:
    return cast("Metrics", current_app.extensions[SLOT])


def _begin() -> None:
    g.began = time.perf_counter()


def _observe(response: Response) -> Response:
    spent = time.perf_counter() - g.get("began", time.perf_counter())
    method = request.method if request.method in KNOWN_METHODS else "other"
    labels = (method, request.endpoint or "none", str(response.status_code))
    _metrics().requests.labels(*labels).observe(spent)
    return response


def _state(seen: Snapshot, system: System) -> Iterator[Metric]:
    tasks = GaugeMetricFamily("twintrack_tasks", "Rows by status and priority", labels=["status", "priority"])
    for status, by_priority in seen.counts.items():
        for priority, number in by_priority.items():
            tasks.add_metric([status.value, priority.value], number)
    yield tasks
    if seen.tickets is not None:
        tickets = GaugeMetricFamily("twintrack_queue_tickets", "Tickets in Redis", labels=["priority"])
        for priority, number in seen.tickets.items():
            tickets.add_metric([priority.value], number)
        yield tickets
    yield _gauge("twintrack_workers", "Workers that gave a sign of life lately", len(seen.workers))
    yield _gauge(
        "twintrack_oldest_waiting_seconds",
        "Age of the oldest task that waits for a worker",
        seen.oldest_waiting_seconds or 0,
    )
    if system.tickets is not None:
        yield _gauge("twintrack_redis_up", "1 if Redis answers", seen.tickets is not None)
    yield _gauge(
        "twintrack_fallback_active",
        "1 while tasks go by the database for want of Redis",
        seen.fallback_active,
    )


def _gauge(name: str, meaning: str, value: float) -> Metric:
    return GaugeMetricFamily(name, meaning, value=float(value))
