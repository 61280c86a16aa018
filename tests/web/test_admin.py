"""The operator's figures and switches."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.tasks.model import Priority
from app.transfer import runs
from app.transfer.plans import Direction, Limits, Scope, make_plan
from tests.servers import RedisServer
from tests.web.support import ADMIN, SUBMITTER, MakeApp, claim, complete, fail, fields_of, submit, system_of
from tests.web.test_health import arrive


def test_health_shows_workers_queues_and_redis(app: Flask, client: FlaskClient) -> None:
    arrive(app)
    submit(client, headers=SUBMITTER, priority="urgent")
    submit(client, headers=SUBMITTER, run_at="2999-01-01T00:00:00Z")
    body = client.get("/admin/rq/health", headers=ADMIN).get_json()
    assert body["status"] == "ok"
    assert (body["processing"], body["fallback_active"]) == (0, False)
    assert body["redis"] == {"enabled": True, "connected": True, "away_seconds": 0.0}
    assert list(body["queues"]) == ["urgent", "high", "normal", "low"]
    urgent = body["queues"]["urgent"]
    assert (urgent["redis_key"], urgent["tickets"], urgent["dispatched"]) == ("rq:queue:urgent", 1, 1)
    assert body["queues"]["normal"]["scheduled"] == 1
    [worker] = body["workers"]
    assert (worker["id"], worker["track"], worker["queues"]) == ("box:1:a", "redis", ["urgent", "low"])
    assert worker["seen_at"].endswith("Z")


def test_the_real_list_key_carries_the_prefix(make_app: MakeApp, redis_url: str) -> None:
    client = make_app(RQ_REDIS_URL=redis_url, RQ_QUEUE_PREFIX="shop-").test_client()
    submit(client)
    queue = client.get("/admin/rq/stats").get_json()["queues"]["normal"]
    assert (queue["redis_key"], queue["tickets"]) == ("rq:queue:shop-normal", 1)


def test_figures_come_without_redis_too(make_app: MakeApp, private_redis: RedisServer) -> None:
    client = make_app(RQ_REDIS_URL=private_redis.url).test_client()
    private_redis.kill9()
    submit(client)
    body = client.get("/admin/rq/health").get_json()
    assert (body["status"], body["redis"]["connected"]) == ("degraded", False)
    assert body["queues"]["normal"]["tickets"] is None
    assert body["queues"]["normal"]["dispatched"] == 1


def test_stats_count_rows_by_status(local_app: Flask, local: FlaskClient) -> None:
    for _ in range(4):
        submit(local, priority="low")
    done, broken, _running = claim(local_app, 3)
    complete(local_app, [done])
    fail(local_app, [broken])
    body = local.get("/admin/rq/stats").get_json()
    low = body["queues"]["low"]["counts"]
    assert {name: number for name, number in low.items() if number} == {
        "QUEUED": 1,
        "PROCESSING": 1,
        "COMPLETED": 1,
        "FAILED": 1,
    }
    assert (body["completed_total"], body["failed_total"], body["processing"]) == (1, 1, 1)
    assert body["oldest_waiting_seconds"] >= 0
    assert body["queues"]["low"]["tickets"] is None


def test_an_empty_system_has_no_oldest_task(local: FlaskClient) -> None:
    assert local.get("/admin/rq/stats").get_json()["oldest_waiting_seconds"] is None


def test_workers_are_listed(local_app: Flask, local: FlaskClient) -> None:
    arrive(local_app, "box:2:b")
    assert [worker["id"] for worker in local.get("/admin/rq/workers").get_json()["workers"]] == ["box:2:b"]


# --- queues ---------------------------------------------------------------------------------------


def test_a_paused_queue_hands_out_nothing_until_it_is_resumed(local_app: Flask, local: FlaskClient) -> None:
    submit(local, priority="low")
    answer = local.post("/admin/rq/queues/low/pause")
    assert (answer.status_code, answer.get_json()["paused"]) == (200, True)
    assert claim(local_app) == []
    assert local.get("/admin/rq/health").get_json()["queues"]["low"]["paused"] is True
    assert local.post("/admin/rq/queues/low/resume").get_json()["paused"] is False
    assert len(claim(local_app)) == 1


def test_a_cleared_queue_loses_its_waiting_tasks_and_tickets_only(app: Flask, client: FlaskClient) -> None:
    gone = submit(client, headers=SUBMITTER)
    kept = submit(client, headers=SUBMITTER, priority="high")
    answer = client.post("/admin/rq/queues/normal/clear", headers=ADMIN)
    assert answer.get_json() == {"priority": "normal", "cancelled": 1}
    states = [
        client.get(f"/api/tasks/{task_id}", headers=ADMIN).get_json()["status"] for task_id in (gone, kept)
    ]
    assert states == ["CANCELLED", "DISPATCHED"]
    queues = client.get("/admin/rq/stats", headers=ADMIN).get_json()["queues"]
    assert (queues["normal"]["tickets"], queues["high"]["tickets"]) == (0, 1)


@pytest.mark.parametrize("verb", ["pause", "resume", "clear"])
def test_an_unknown_queue_is_404_and_names_the_known_ones(local: FlaskClient, verb: str) -> None:
    answer = local.post(f"/admin/rq/queues/asap/{verb}")
    assert answer.status_code == 404
    assert "urgent, high, normal, low" in answer.get_json()["detail"]


# --- routing --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "mode", "percent"),
    [
        ({"mode": "database"}, "database", 0),
        ({"mode": "redis"}, "redis", 100),
        ({"mode": "hybrid", "redis_percent": 30}, "hybrid", 30),
        ({"redis_percent": 30}, "hybrid", 30),
        ({"mode": "hybrid"}, "hybrid", 60),
        ({"mode": "redis", "redis_percent": 100}, "redis", 100),
    ],
)
def test_routing_goes_where_it_is_told(
    make_app: MakeApp, redis_url: str, body: dict[str, Any], mode: str, percent: int
) -> None:
    client = make_app(RQ_REDIS_URL=redis_url, RQ_HYBRID_MODE=True, RQ_ROLLOUT_PERCENT=60).test_client()
    answer = client.put("/admin/rq/routing", json=body)
    assert answer.status_code == 200
    shown = client.get("/admin/rq/routing").get_json()
    assert shown == answer.get_json()
    assert shown["mode"] == mode
    assert {route["redis_percent"] for route in shown["priorities"].values()} == {percent}


def test_a_flip_is_obeyed_by_the_next_submission(client: FlaskClient) -> None:
    client.put("/admin/rq/routing", json={"mode": "database"}, headers=ADMIN)
    task_id = submit(client, headers=SUBMITTER)
    assert client.get(f"/api/tasks/{task_id}", headers=SUBMITTER).get_json()["status"] == "QUEUED"


def test_one_priority_can_be_routed_alone(client: FlaskClient) -> None:
    body = {"mode": "database", "priorities": ["low"]}
    shown = client.put("/admin/rq/routing", json=body, headers=ADMIN).get_json()
    assert shown["mode"] == "hybrid"
    percents = {name: route["redis_percent"] for name, route in shown["priorities"].items()}
    assert percents == {"urgent": 100, "high": 100, "normal": 100, "low": 0}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "mode"),
        ({"mode": "both"}, "mode"),
        ({"mode": "database", "redis_percent": 5}, "redis_percent"),
        ({"mode": "hybrid", "redis_percent": 101}, "redis_percent"),
        ({"mode": "hybrid", "redis_percent": "5"}, "redis_percent"),
        ({"mode": "hybrid", "priorities": []}, "priorities"),
        ({"mode": "hybrid", "priorities": ["asap"]}, "priorities.0"),
        ({"mode": "hybrid", "percent": 5}, "percent"),
    ],
)
def test_a_wrong_routing_is_refused(client: FlaskClient, body: dict[str, Any], field: str) -> None:
    answer = client.put("/admin/rq/routing", json=body, headers=ADMIN)
    assert (answer.status_code, list(fields_of(answer))) == (400, [field])


def test_a_priority_that_a_transfer_has_cannot_be_routed(client: FlaskClient) -> None:
    system = system_of(client.application)
    scope = Scope((Priority.LOW,))
    mover = runs.start(system.queue, make_plan(system.store, Direction.RECALL, scope), Limits())
    answer = client.put("/admin/rq/routing", json={"mode": "redis"}, headers=ADMIN)
    told = answer.get_json()
    assert (answer.status_code, told["transfer_id"], told["priority"]) == (409, mover.transfer_id, "low")
    assert {r.redis_percent for r in system.store.routing.refresh().values()} == {100, 0}
    others = {"mode": "database", "priorities": ["urgent", "high"]}
    assert client.put("/admin/rq/routing", json=others, headers=ADMIN).status_code == 200


def test_a_system_without_redis_cannot_be_routed_there(local: FlaskClient) -> None:
    answer = local.put("/admin/rq/routing", json={"mode": "redis"})
    assert answer.status_code == 409
    assert "RQ_ENABLED" in answer.get_json()["detail"]


def test_every_change_of_an_admin_is_in_the_log(
    client: FlaskClient, capfd: pytest.CaptureFixture[str]
) -> None:
    client.post("/admin/rq/queues/low/pause", headers=ADMIN)
    client.post("/admin/rq/queues/low/pause", headers=SUBMITTER)
    client.get("/admin/rq/stats", headers=ADMIN)
    lines = [line for line in capfd.readouterr().err.splitlines() if "admin.changed" in line]
    assert ["admin.pause_queue" in line for line in lines] == [True, True]
    assert "200" in lines[0]
    assert "403" in lines[1]
    assert "admin-token" not in "".join(lines)
    assert system_of(client.application).store.routing.current()
