"""Prometheus metrics: what a scrape shows, and what it costs."""

from __future__ import annotations

import re

from flask import Flask
from flask.testing import FlaskClient

from app.web.metrics import StateCollector
from tests.servers import RedisServer
from tests.web.support import ADMIN, DEAD_DATABASE, SUBMITTER, MakeApp, submit, system_of
from tests.web.test_health import arrive


def samples(client: FlaskClient, headers: dict[str, str] | None = None) -> dict[str, float]:
    answer = client.get("/metrics", headers=headers)
    assert answer.status_code == 200
    assert answer.mimetype == "text/plain"
    lines = [line for line in answer.get_data(as_text=True).splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def test_a_scrape_shows_rows_tickets_workers_and_redis(app: Flask, client: FlaskClient) -> None:
    arrive(app)
    submit(client, headers=SUBMITTER, priority="low")
    seen = samples(client, SUBMITTER)
    assert seen['twintrack_tasks{priority="low",status="DISPATCHED"}'] == 1
    assert seen['twintrack_tasks{priority="high",status="FAILED"}'] == 0
    assert seen['twintrack_queue_tickets{priority="low"}'] == 1
    assert seen["twintrack_workers"] == 1
    assert seen["twintrack_redis_up"] == 1
    assert seen["twintrack_fallback_active"] == 0
    assert seen["twintrack_database_up"] == 1
    assert seen["twintrack_oldest_waiting_seconds"] >= 0


def test_submissions_are_counted_by_outcome(local: FlaskClient) -> None:
    for body in ({"name": "test.noop"}, {"name": "test.noop"}, {"name": "?"}, {"nam": "test.noop"}):
        local.post("/api/tasks", json=body)
    local.post("/api/tasks/batch", json={"tasks": [{"name": "test.noop"}, {"name": "?"}]})
    submit(local, idempotency_key="k"), submit(local, idempotency_key="k")
    seen = samples(local)
    counted = {
        match[1]: value
        for name, value in seen.items()
        if (match := re.match(r'twintrack_submissions_total\{outcome="(.*)"\}', name))
    }
    assert counted == {"accepted": 4, "repeated": 1, "unknown-task-name": 2, "invalid-request": 1}


def test_requests_are_timed_by_their_view_and_not_by_their_path(local: FlaskClient) -> None:
    local.get("/api/tasks/1"), local.get("/api/tasks/2"), local.get("/nothing/at/all")
    seen = samples(local)
    shown = 'endpoint="api.show_task",method="GET",status="404"'
    assert seen[f"twintrack_http_request_seconds_count{{{shown}}}"] == 2
    assert seen['twintrack_http_request_seconds_count{endpoint="none",method="GET",status="404"}'] == 1


def test_a_caller_cannot_make_series_at_will(local: FlaskClient) -> None:
    for method in ("BREW", "PROPFIND"):
        local.open("/api/tasks", method=method)
    shown = [name for name in samples(local) if "http_request_seconds_count" in name]
    assert shown == ['twintrack_http_request_seconds_count{endpoint="none",method="other",status="405"}']


def test_an_outage_of_redis_is_a_figure(make_app: MakeApp, private_redis: RedisServer) -> None:
    client = make_app(RQ_REDIS_URL=private_redis.url).test_client()
    private_redis.kill9()
    seen = samples(client)
    assert seen["twintrack_redis_up"] == 0
    assert not [name for name in seen if name.startswith("twintrack_queue_tickets")]


def test_an_outage_of_the_database_is_a_figure(make_app: MakeApp) -> None:
    seen = samples(make_app(prepare=False, DATABASE_URL=DEAD_DATABASE).test_client())
    assert seen["twintrack_database_up"] == 0
    assert "twintrack_workers" not in seen


def test_many_scrapes_in_a_second_read_the_database_once(local_app: Flask) -> None:
    now = [0.0]
    collector = StateCollector(system_of(local_app), lambda: now[0])
    first = {metric.name: metric for metric in collector.collect()}
    submit(local_app.test_client())
    again = {metric.name: metric for metric in collector.collect()}
    assert again["twintrack_tasks"].samples == first["twintrack_tasks"].samples
    now[0] = 1.0
    later = {metric.name: metric for metric in collector.collect()}
    assert later["twintrack_tasks"].samples != first["twintrack_tasks"].samples


def test_two_apps_count_for_themselves(make_app: MakeApp) -> None:
    one, other = make_app().test_client(), make_app().test_client()
    submit(one)
    assert 'twintrack_submissions_total{outcome="accepted"}' in samples(one)
    assert 'twintrack_submissions_total{outcome="accepted"}' not in samples(other)


def test_either_token_may_scrape(client: FlaskClient) -> None:
    assert samples(client, ADMIN)
    assert samples(client, SUBMITTER)
