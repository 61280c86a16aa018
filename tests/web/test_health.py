"""Health: what is good, what is bad, and what the public is told of it."""

from __future__ import annotations

import os

import rq
from flask import Flask
from flask.testing import FlaskClient

from tests.servers import RedisServer
from tests.web.support import DEAD_DATABASE, MakeApp, system_of


def arrive(app: Flask, worker_id: str = "box:1:a") -> None:
    system_of(app).store.registry.arrive(
        worker_id, host="box", pid=1, track="redis", queues=["urgent", "low"]
    )


def test_a_system_with_everything_is_ok(app: Flask, client: FlaskClient) -> None:
    arrive(app)
    answer = client.get("/health")
    body = answer.get_json()
    assert (answer.status_code, body["status"]) == (200, "ok")
    for part in ("database", "redis", "workers"):
        assert body[part]["status"] == "ok"
        assert body[part]["reason"]
    assert body["database"]["response_time_ms"] > 0
    assert body["redis"]["response_time_ms"] > 0


def test_a_system_without_workers_is_degraded(client: FlaskClient) -> None:
    answer = client.get("/health")
    assert (answer.status_code, answer.get_json()["status"]) == (200, "degraded")
    assert answer.get_json()["workers"]["status"] == "degraded"


def test_a_stock_rq_worker_of_our_queues_is_a_worker(app: Flask, client: FlaskClient) -> None:
    tickets = system_of(app).tickets
    assert tickets is not None
    other = rq.Worker(["elsewhere"], name="other", connection=tickets.client)
    worker = rq.Worker(["low", "elsewhere"], name="stock", connection=tickets.client)
    other.register_birth()  # type: ignore[no-untyped-call]
    assert client.get("/health").get_json()["status"] == "degraded"
    worker.register_birth()  # type: ignore[no-untyped-call]
    assert client.get("/health").get_json()["status"] == "ok"
    (listed,) = system_of(app).workers()
    assert (listed.worker_id, listed.pid, listed.queues) == ("stock", os.getpid(), "low,elsewhere")
    worker.register_death()  # type: ignore[no-untyped-call]
    assert client.get("/health").get_json()["status"] == "degraded"


def test_redis_away_in_hybrid_mode_is_degraded(make_app: MakeApp, private_redis: RedisServer) -> None:
    app = make_app(RQ_REDIS_URL=private_redis.url, RQ_HYBRID_MODE=True)
    arrive(app)
    assert app.test_client().get("/health").get_json()["status"] == "ok"
    private_redis.kill9()
    answer = app.test_client().get("/health")
    assert (answer.status_code, answer.get_json()["status"]) == (200, "degraded")
    assert answer.get_json()["redis"]["status"] == "degraded"


def test_redis_away_without_any_fallback_is_unhealthy(make_app: MakeApp, private_redis: RedisServer) -> None:
    app = make_app(RQ_REDIS_URL=private_redis.url, RQ_FALLBACK_ENABLED=False)
    private_redis.kill9()
    answer = app.test_client().get("/health")
    assert (answer.status_code, answer.get_json()["status"]) == (503, "unhealthy")


def test_a_recorded_fallback_is_degraded_although_redis_answers(app: Flask, client: FlaskClient) -> None:
    arrive(app)
    system_of(app).store.routing.change(fallback=True)
    assert client.get("/health").get_json()["redis"]["status"] == "degraded"


def test_database_mode_needs_no_redis(local_app: Flask, local: FlaskClient) -> None:
    arrive(local_app)
    body = local.get("/health").get_json()
    assert (body["status"], body["redis"]["status"]) == ("ok", "disabled")


def test_without_a_database_the_system_is_unhealthy_but_the_process_lives(make_app: MakeApp) -> None:
    client = make_app(prepare=False, DATABASE_URL=DEAD_DATABASE).test_client()
    answer = client.get("/health")
    assert (answer.status_code, answer.get_json()["status"]) == (503, "unhealthy")
    assert client.get("/health/live").status_code == 200
    ready = client.get("/health/ready")
    assert (ready.status_code, ready.mimetype) == (503, "application/problem+json")
    assert ready.headers["Retry-After"]


def test_the_operator_sees_what_can_be_seen_without_a_database(make_app: MakeApp, redis_url: str) -> None:
    app = make_app(prepare=False, DATABASE_URL=DEAD_DATABASE, RQ_REDIS_URL=redis_url)
    answer = app.test_client().get("/admin/rq/health")
    body = answer.get_json()
    assert (answer.status_code, body["status"], body["workers"]) == (503, "unhealthy", [])
    assert (body["checks"]["database"]["status"], body["checks"]["redis"]["status"]) == ("unhealthy", "ok")


def test_ready_waits_for_the_tables(make_app: MakeApp) -> None:
    app = make_app(prepare=False)
    client = app.test_client()
    assert client.get("/health/ready").status_code == 503
    assert client.get("/health").get_json()["database"]["status"] == "unhealthy"
    system_of(app).prepare()
    assert client.get("/health/ready").get_json() == {"status": "ok"}


def test_the_public_learns_no_host_and_no_address(make_app: MakeApp, private_redis: RedisServer) -> None:
    app = make_app(prepare=False, DATABASE_URL=DEAD_DATABASE, RQ_REDIS_URL=private_redis.url)
    private_redis.kill9()
    for path in ("/health", "/health/ready", "/health/live"):
        text = app.test_client().get(path).get_data(as_text=True).lower()
        assert not [word for word in ("127.0.0.1", "secret", "mysql", "://", "errno") if word in text]
