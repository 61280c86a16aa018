"""rq-dashboard: for admins, over our connection, and harmless."""

from __future__ import annotations

import pickle
import time
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.tasks.model import PRIORITIES, Claim, Track
from app.tasks.tickets.manager import Ended
from app.tasks.tickets.worker_registry import Presence
from tests.servers import RedisServer
from tests.web.support import ADMIN, ADMIN_TOKEN, BROWSER, SUBMITTER, MakeApp, submit, system_of
from tests.web.test_browser import log_in

ROOT = "/admin/rq/dashboard"


def job_id_of(app: Flask) -> str:
    tickets = system_of(app).tickets
    assert tickets is not None
    [job_id] = tickets.client.lrange("rq:queue:normal", 0, -1)
    assert isinstance(job_id, bytes)
    return job_id.decode()


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/0/view/workers",
        "/0/view/jobs",
        "/0/data/queues.json",
        "/0/data/workers.json",
        "/0/view/jobs/normal/queued/8/asc/1",
        "/0/data/jobs/normal/queued/8/asc/1.json",
    ],
)
def test_its_pages_answer_an_admin(client: FlaskClient, path: str) -> None:
    submit(client, headers=SUBMITTER)
    assert client.get(ROOT + path, headers=ADMIN).status_code == 200


def test_a_ticket_is_shown_in_words(app: Flask, client: FlaskClient) -> None:
    submit(client, headers=SUBMITTER)
    job = client.get(f"{ROOT}/0/data/job/{job_id_of(app)}.json", headers=ADMIN).get_json()
    assert (job["origin"], job["description"]) == ("normal", "test.noop")
    assert client.get(f"{ROOT}/0/view/job/{job_id_of(app)}", headers=ADMIN).status_code == 200


def test_it_shows_our_workers_what_they_run_and_what_came_out(app: Flask, client: FlaskClient) -> None:
    submit(client, headers=SUBMITTER)
    tickets = system_of(app).tickets
    assert tickets is not None
    [taken] = tickets.take("box:1:a", PRIORITIES, 1)
    assert taken.reference is not None
    claim = Claim(taken.reference[0], "test.noop", "{}", taken.priority, 1, 1, 1, 0, Track.REDIS)
    seen = Presence("box:1:a", PRIORITIES, born_at=1.0, state="busy", finished=3, failed=1, running=claim)
    tickets.workers.present(seen, now=time.time())
    [worker] = client.get(f"{ROOT}/0/data/workers.json", headers=ADMIN).get_json()["workers"]
    assert (worker["name"], worker["state"]) == ("box:1:a", "busy")
    assert (worker["current_job"]["job_id"], worker["successful_job_count"]) == (taken.job_id, 3)
    assert worker["queues"] == list(PRIORITIES)

    tickets.finish("box:1:a", [Ended(taken.job_id, taken.priority, True)])
    job = client.get(f"{ROOT}/0/data/job/{taken.job_id}.json", headers=ADMIN).get_json()
    assert (job["status"], job["result"]) == ("finished", {"task": claim.task_id, "status": "COMPLETED"})


def test_it_shows_why_a_ticket_failed(app: Flask, client: FlaskClient) -> None:
    submit(client, headers=SUBMITTER)
    tickets = system_of(app).tickets
    assert tickets is not None
    [taken] = tickets.take("box:1:a", PRIORITIES, 1)
    tickets.finish("box:1:a", [Ended(taken.job_id, taken.priority, False, "ValueError: too bad")])
    job = client.get(f"{ROOT}/0/data/job/{taken.job_id}.json", headers=ADMIN).get_json()
    assert (job["status"], job["exc_info"]) == ("failed", "ValueError: too bad")


def test_its_scripts_may_run_and_ours_stay_strict(client: FlaskClient) -> None:
    policy = client.get(f"{ROOT}/", headers=ADMIN).headers["Content-Security-Policy"]
    assert "script-src 'self' 'unsafe-inline'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in client.get("/login").headers["Content-Security-Policy"]


def test_its_pages_name_no_server(client: FlaskClient, redis_url: str) -> None:
    page = client.get(f"{ROOT}/", headers=ADMIN).get_data(as_text=True)
    assert redis_url not in page
    assert "127.0.0.1" not in page


@pytest.mark.parametrize("headers", [ADMIN, {**ADMIN, **BROWSER}, {}])
def test_nothing_is_changed_by_a_get(client: FlaskClient, headers: dict[str, str]) -> None:
    answer = client.get(f"{ROOT}/requeue/normal", headers=headers)
    assert answer.status_code == 405
    assert answer.headers["Allow"] == "POST"


def test_an_admins_page_may_empty_a_queue_and_another_sites_page_may_not(
    app: Flask, client: FlaskClient
) -> None:
    submit(client, headers=SUBMITTER)
    log_in(client, ADMIN_TOKEN)
    path = f"{ROOT}/queue/normal/queued/empty"
    for foreign in ({}, {"Origin": "https://elsewhere.example"}, {"Sec-Fetch-Site": "cross-site"}):
        assert client.post(path, headers=foreign).status_code == 403
    assert job_id_of(app)
    assert client.post(path, headers={"Origin": "http://localhost"}).get_json() == {"status": "OK"}
    tickets = system_of(app).tickets
    assert tickets is not None
    assert sum(tickets.lengths().values()) == 0


def test_an_emptied_queue_loses_no_task(client: FlaskClient) -> None:
    task_id = submit(client, headers=SUBMITTER)
    client.post(f"{ROOT}/queue/normal/queued/empty", headers=ADMIN)
    assert client.get(f"/api/tasks/{task_id}", headers=ADMIN).get_json()["status"] == "DISPATCHED"


def test_a_ticket_can_be_deleted(app: Flask, client: FlaskClient) -> None:
    submit(client, headers=SUBMITTER)
    answer = client.post(f"{ROOT}/job/{job_id_of(app)}/delete", headers=ADMIN)
    assert answer.get_json() == {"status": "OK"}


def test_what_is_not_possible_is_409(app: Flask, client: FlaskClient) -> None:
    assert client.post(f"{ROOT}/queue/normal/compact", headers=ADMIN).status_code == 409
    submit(client, headers=SUBMITTER)
    assert client.post(f"{ROOT}/job/{job_id_of(app)}/requeue", headers=ADMIN).status_code == 409


def test_a_job_that_is_gone_is_404(client: FlaskClient) -> None:
    assert client.get(f"{ROOT}/0/data/job/nothing.json", headers=ADMIN).status_code == 404


class Bomb:
    """Unpickled, it would fail the test."""

    def __reduce__(self) -> Any:
        return pytest.fail, ("somebody's pickle was loaded",)


def test_a_pickle_in_redis_is_never_loaded(app: Flask, client: FlaskClient) -> None:
    submit(client, headers=SUBMITTER)
    job_id = job_id_of(app)
    tickets = system_of(app).tickets
    assert tickets is not None
    bomb = pickle.dumps(Bomb())
    tickets.client.hset(f"rq:job:{job_id}", mapping={"data": bomb, "meta": bomb, "result": bomb})
    # a worker that says it runs that job
    tickets.client.sadd("rq:workers", "rq:worker:w")
    tickets.client.hset("rq:worker:w", mapping={"queues": "normal", "birth": "2026-01-01T00:00:00.000000Z"})
    tickets.client.sadd("rq:worker:w:executions", f"{job_id}:1")
    run: dict[Any, Any] = {
        "id": "1",
        "job_id": job_id,
        "created_at": "1.0",
        "last_heartbeat": "1.0",
        "worker_name": "w",
    }
    tickets.client.hset(f"rq:execution:{job_id}:1", mapping=run)
    for method, path in (
        ("GET", "/0/data/workers.json"),
        ("GET", f"/0/data/job/{job_id}.json"),
        ("GET", f"/0/view/job/{job_id}"),
        ("GET", "/0/data/jobs/normal/queued/8/asc/1.json"),
        ("POST", f"/job/{job_id}/requeue"),
        ("POST", f"/job/{job_id}/delete"),
    ):
        answer = client.open(ROOT + path, method=method, headers=ADMIN)
        assert answer.status_code < 500, path


def test_without_redis_it_says_so(make_app: MakeApp, private_redis: RedisServer) -> None:
    client = make_app(RQ_REDIS_URL=private_redis.url).test_client()
    private_redis.kill9()
    answer = client.get(f"{ROOT}/0/data/queues.json")
    assert (answer.status_code, answer.mimetype) == (503, "application/problem+json")


def test_in_database_mode_there_is_none(local: FlaskClient) -> None:
    assert local.get(f"{ROOT}/").status_code == 404


def test_two_apps_show_their_own_redis(make_app: MakeApp, redis_url: str, private_redis: RedisServer) -> None:
    full, empty = make_app(RQ_REDIS_URL=redis_url), make_app(RQ_REDIS_URL=private_redis.url)
    submit(full.test_client())
    path = f"{ROOT}/0/data/queues.json"
    assert empty.test_client().get(path).get_json()["queues"] == []
    [queue] = full.test_client().get(path).get_json()["queues"]
    assert (queue["name"], queue["count"]) == ("normal", 1)
