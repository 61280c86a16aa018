"""POST /api/tasks and its batch: what is accepted, what is refused, and in which words."""

from __future__ import annotations

import io
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from app.tasks.model import PRIORITIES
from tests.servers import RedisServer
from tests.web.support import (
    ADMIN,
    API_TOKEN,
    DEAD_DATABASE,
    SUBMITTER,
    Clock,
    MakeApp,
    fields_of,
    submit,
    system_of,
)


def test_an_accepted_task_is_stored_and_named_as_a_string(client: FlaskClient) -> None:
    answer = client.post("/api/tasks", json={"name": "test.echo", "payload": {"a": 1}}, headers=SUBMITTER)
    body = answer.get_json()
    assert answer.status_code == 202
    assert answer.headers["Location"] == f"/api/tasks/{body['id']}"
    assert body == {
        "id": body["id"],
        "status": "DISPATCHED",
        "priority": "normal",
        "created": True,
        "links": {"self": f"/api/tasks/{body['id']}", "events": f"/api/tasks/{body['id']}/events"},
    }
    shown = client.get(body["links"]["self"], headers=SUBMITTER).get_json()
    assert shown["payload"] == {"a": 1}
    assert shown["track"] == "redis"
    assert shown["created_at"].endswith("Z")


def test_a_task_takes_every_field_of_its_request(local: FlaskClient) -> None:
    task_id = submit(
        local,
        "test.echo",
        payload="x",
        priority="low",
        user_id="ada",
        run_at="2999-01-01T10:00:00+02:00",
        idempotency_key="k1",
        max_retries=7,
        timeout_seconds=90,
    )
    task = local.get(f"/api/tasks/{task_id}").get_json()
    kept = {name: task[name] for name in ("status", "priority", "user_id", "max_retries", "timeout_seconds")}
    assert kept == {
        "status": "SCHEDULED",
        "priority": "low",
        "user_id": "ada",
        "max_retries": 7,
        "timeout_seconds": 90,
    }
    assert task["run_at"] == "2999-01-01T08:00:00Z"


def test_a_proven_admin_without_a_priority_gets_high(client: FlaskClient) -> None:
    task_id = submit(client, headers=ADMIN)
    assert client.get(f"/api/tasks/{task_id}", headers=ADMIN).get_json()["priority"] == "high"


def test_a_developers_own_machine_is_no_proven_admin(local: FlaskClient) -> None:
    task_id = submit(local)
    assert local.get(f"/api/tasks/{task_id}").get_json()["priority"] == "normal"


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "name"),
        ({"name": ""}, "name"),
        ({"name": 3}, "name"),
        ({"name": "test.noop", "pirority": "high"}, "pirority"),
        ({"name": "test.noop", "priority": "asap"}, "priority"),
        ({"name": "test.noop", "priority": 1}, "priority"),
        ({"name": "test.noop", "run_at": "2030-01-01T00:00:00"}, "run_at"),
        ({"name": "test.noop", "run_at": "tomorrow"}, "run_at"),
        ({"name": "test.noop", "run_at": 1700000000}, "run_at"),
        ({"name": "test.noop", "run_at": "9999-12-31T23:59:59-14:00"}, "run_at"),
        ({"name": "test.noop", "max_retries": "3"}, "max_retries"),
        ({"name": "test.noop", "max_retries": True}, "max_retries"),
        ({"name": "test.noop", "max_retries": -1}, "max_retries"),
        ({"name": "test.noop", "timeout_seconds": 0}, "timeout_seconds"),
        ({"name": "test.noop", "timeout_seconds": 10**30}, "timeout_seconds"),
        ({"name": "test.noop", "user_id": ""}, "user_id"),
        ({"name": "test.noop", "user_id": "a\x00b"}, "user_id"),
        ({"name": "test.noop", "user_id": "\ud800"}, "user_id"),
        ({"name": "test.noop", "idempotency_key": "k" * 129}, "idempotency_key"),
        ({"name": "test.sleep", "payload": {"second": 1}}, "payload.second"),
        ({"name": "test.sleep", "payload": {"seconds": "long"}}, "payload.seconds"),
    ],
)
def test_a_wrong_field_is_named(local: FlaskClient, body: dict[str, Any], field: str) -> None:
    answer = local.post("/api/tasks", json=body)
    assert answer.status_code == 400
    assert list(fields_of(answer)) == [field]
    assert local.get("/api/tasks").get_json()["tasks"] == []


def test_every_wrong_field_is_named_at_once(local: FlaskClient) -> None:
    answer = local.post("/api/tasks", json={"nam": "x", "max_retries": "3"})
    assert set(fields_of(answer)) == {"name", "nam", "max_retries"}


def test_an_unknown_task_name_is_422_and_names_the_field(local: FlaskClient) -> None:
    answer = local.post("/api/tasks", json={"name": "os.system"})
    assert answer.status_code == 422
    assert fields_of(answer) == {"name": "no handler is registered for 'os.system'"}


def test_an_unknown_priority_becomes_the_fallback_where_one_is_set(make_app: MakeApp) -> None:
    client = make_app(PRIORITY_FALLBACK="normal").test_client()
    answer = client.post("/api/tasks", json={"name": "test.noop", "priority": "asap"})
    assert (answer.status_code, answer.get_json()["priority"]) == (202, "normal")


@pytest.mark.parametrize("raw", ["", "{", "[1", '"text"', "[]", "null", '{"name": NaN}', "[" * 100_000])
def test_what_is_no_json_object_is_400(local: FlaskClient, raw: str) -> None:
    answer = local.post("/api/tasks", data=raw, content_type="application/json")
    assert (answer.status_code, answer.mimetype) == (400, "application/problem+json")


@pytest.mark.parametrize("brackets", ["[]", "{}"])
def test_what_is_nested_too_deep_to_be_shown_again_is_400(local: FlaskClient, brackets: str) -> None:
    opening = '{"a":' if brackets == "{}" else "["
    closing = brackets[1]
    for depth, status in ((95, 202), (100, 400), (300, 400), (50_000, 400)):
        payload = opening * depth + "1" + closing * depth
        body = f'{{"name": "test.echo", "payload": {payload}}}'
        answer = local.post("/api/tasks", data=body, content_type="application/json")
        assert answer.status_code == status, depth
    assert len(local.get("/api/tasks").get_json()["tasks"]) == 1


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""]
)
def test_another_content_type_is_415(local: FlaskClient, kind: str) -> None:
    answer = local.post("/api/tasks", data='{"name": "test.noop"}', content_type=kind)
    assert answer.status_code == 415


def test_a_vendor_type_of_json_is_taken(local: FlaskClient) -> None:
    answer = local.post("/api/tasks", data='{"name": "test.noop"}', content_type="application/vnd.x+json")
    assert answer.status_code == 202


def test_a_payload_over_the_limit_is_413_with_both_sizes(make_app: MakeApp) -> None:
    client = make_app(TASK_PAYLOAD_LIMIT_BYTES=100).test_client()
    answer = client.post("/api/tasks", json={"name": "test.echo", "payload": "x" * 99})
    assert answer.status_code == 413
    assert fields_of(answer) == {"payload": "101 bytes, the limit is 100"}


def test_a_payload_at_the_limit_fits_however_it_is_escaped(make_app: MakeApp) -> None:
    client = make_app(TASK_PAYLOAD_LIMIT_BYTES=200_000).test_client()
    # one byte each in UTF-8 and six in the body
    body = '{"name": "test.echo", "payload": "' + "\\u0061" * 199_998 + '"}'
    answer = client.post("/api/tasks", data=body, content_type="application/json")
    assert answer.status_code == 202


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_beyond_every_limit_is_413(make_app: MakeApp, announced: bool) -> None:
    client = make_app(TASK_PAYLOAD_LIMIT_BYTES=100).test_client()
    body = json.dumps({"name": "test.echo", "payload": "x" * 200_000}).encode()
    sent: dict[str, Any] = {"data": body}
    if not announced:  # in chunks, as a server hands them on
        sent = {"input_stream": io.BytesIO(body), "environ_overrides": {"wsgi.input_terminated": True}}
    answer = client.post("/api/tasks", content_type="application/json", **sent)
    assert (answer.status_code, answer.mimetype) == (413, "application/problem+json")


def test_a_body_in_chunks_is_taken(local: FlaskClient) -> None:
    answer = local.post(
        "/api/tasks",
        input_stream=io.BytesIO(b'{"name": "test.noop"}'),
        content_type="application/json",
        environ_overrides={"wsgi.input_terminated": True},
    )
    assert answer.status_code == 202


# --- once and only once ---------------------------------------------------------------------------


def test_the_same_key_names_the_same_task(local: FlaskClient) -> None:
    first = local.post("/api/tasks", json={"name": "test.noop"}, headers={"Idempotency-Key": "order-7"})
    again = local.post("/api/tasks", json={"name": "test.noop", "idempotency_key": "order-7"})
    assert (first.get_json()["created"], again.get_json()["created"]) == (True, False)
    assert first.get_json()["id"] == again.get_json()["id"]


def test_a_key_that_belongs_to_another_task_is_409_and_names_it(local: FlaskClient) -> None:
    task_id = submit(local, "test.echo", payload=1, idempotency_key="k")
    answer = local.post("/api/tasks", json={"name": "test.echo", "payload": 2, "idempotency_key": "k"})
    assert answer.status_code == 409
    assert answer.get_json()["task_id"] == task_id


def test_two_different_keys_in_one_request_are_refused(local: FlaskClient) -> None:
    answer = local.post(
        "/api/tasks", json={"name": "test.noop", "idempotency_key": "a"}, headers={"Idempotency-Key": "b"}
    )
    assert (answer.status_code, list(fields_of(answer))) == (400, ["idempotency_key"])


# --- limits ---------------------------------------------------------------------------------------


def test_the_user_limit_is_409_and_names_the_active_task_as_a_string(make_app: MakeApp) -> None:
    client = make_app(MAX_ACTIVE_TASKS_PER_USER=1).test_client()
    active = submit(client, user_id="ada")
    answer = client.post("/api/tasks", json={"name": "test.noop", "user_id": "ada"})
    assert answer.status_code == 409
    assert answer.get_json()["active_task_id"] == active
    assert submit(client, user_id="grace")


def test_test_tasks_are_exempt_from_the_user_limit(make_app: MakeApp) -> None:
    client = make_app(MAX_ACTIVE_TASKS_PER_USER=1).test_client()
    answers = [client.post("/api/test-rq-task", headers={"X-User-Id": "ada"}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    body = answers[0].get_json()
    assert body["id"] == body["task_id"]
    assert local_task(client, body["id"])["user_id"] is None


def local_task(client: FlaskClient, task_id: str) -> dict[str, Any]:
    task: dict[str, Any] = client.get(f"/api/tasks/{task_id}").get_json()
    return task


def test_a_full_queue_is_429_and_says_when_to_try_again(make_app: MakeApp) -> None:
    client = make_app(QUEUE_SIZE_LIMIT=2).test_client()
    submit(client), submit(client)
    answer = client.post("/api/tasks", json={"name": "test.noop"})
    assert answer.status_code == 429
    assert int(answer.headers["Retry-After"]) > 0
    assert answer.get_json()["limit"] == 2


# --- outages --------------------------------------------------------------------------------------


def test_a_submission_is_accepted_while_redis_is_down(make_app: MakeApp, private_redis: RedisServer) -> None:
    client = make_app(RQ_REDIS_URL=private_redis.url).test_client()
    submit(client)
    private_redis.kill9()
    task_id = submit(client)
    assert local_task(client, task_id)["status"] == "DISPATCHED"


def test_a_submission_without_a_database_is_503_and_shows_no_internals(make_app: MakeApp) -> None:
    client = make_app(prepare=False, DATABASE_URL=DEAD_DATABASE).test_client()
    answer = client.post("/api/tasks", json={"name": "test.noop"})
    text = answer.get_data(as_text=True)
    assert (answer.status_code, answer.get_json()["type"]) == (
        503,
        "urn:twintrack:problem:database-unavailable",
    )
    assert int(answer.headers["Retry-After"]) > 0
    assert not [
        word for word in ("127.0.0.1", "secret", "keeper", "mysql", "pymysql") if word in text.lower()
    ]


def test_nothing_goes_to_redis_while_the_database_is_down(make_app: MakeApp, redis_url: str) -> None:
    app = make_app(prepare=False, DATABASE_URL=DEAD_DATABASE, RQ_REDIS_URL=redis_url)
    assert app.test_client().post("/api/tasks", json={"name": "test.noop"}).status_code == 503
    tickets = system_of(app).tickets
    assert tickets is not None
    assert tickets.lengths() == dict.fromkeys(PRIORITIES, 0)


def test_a_database_without_tables_is_503(make_app: MakeApp) -> None:
    client = make_app(prepare=False).test_client()
    assert client.post("/api/tasks", json={"name": "test.noop"}).status_code == 503


def test_a_server_database_without_tables_is_503(make_app: MakeApp, database_url: str) -> None:
    client = make_app(prepare=False, DATABASE_URL=database_url).test_client()
    assert client.post("/api/tasks", json={"name": "test.noop"}).status_code == 503


# --- batches --------------------------------------------------------------------------------------


def test_a_batch_answers_each_task_in_order(local: FlaskClient) -> None:
    tasks = [
        {"name": "test.echo", "payload": 1},
        {"name": "unknown"},
        {"name": "test.noop", "pirority": "high"},
        "not a task",
        {"name": "test.echo", "payload": 2},
    ]
    answer = local.post("/api/tasks/batch", json={"tasks": tasks})
    answers = answer.get_json()["tasks"]
    assert answer.status_code == 202
    statuses = [one["error"]["status"] if "error" in one else one["status"] for one in answers]
    assert statuses == ["QUEUED", 422, 400, 400, "QUEUED"]
    assert answers[2]["error"]["errors"] == [
        {"field": "pirority", "message": "is not a field of this request"}
    ]
    assert [local_task(local, answers[place]["id"])["payload"] for place in (0, 4)] == [1, 2]


def test_a_batch_names_the_active_task_of_a_user_who_has_one(make_app: MakeApp) -> None:
    client = make_app(MAX_ACTIVE_TASKS_PER_USER=1).test_client()
    wanted = {"name": "test.noop", "user_id": "ada"}
    answers = client.post("/api/tasks/batch", json={"tasks": [wanted, wanted]}).get_json()["tasks"]
    assert answers[1]["error"]["status"] == 409
    assert answers[1]["error"]["active_task_id"] == answers[0]["id"]


@pytest.mark.parametrize(
    ("body", "field"), [({}, "tasks"), ({"tasks": {}}, "tasks"), ({"tasks": [], "more": 1}, "more")]
)
def test_a_batch_of_the_wrong_shape_is_400(local: FlaskClient, body: dict[str, Any], field: str) -> None:
    answer = local.post("/api/tasks/batch", json=body)
    assert (answer.status_code, list(fields_of(answer))) == (400, [field])


def test_a_batch_takes_a_thousand_tasks_and_not_one_more(local: FlaskClient) -> None:
    thousand = [{"name": "test.noop"}] * 1000
    assert len(local.post("/api/tasks/batch", json={"tasks": thousand}).get_json()["tasks"]) == 1000
    answer = local.post("/api/tasks/batch", json={"tasks": [*thousand, {"name": "test.noop"}]})
    assert (answer.status_code, list(fields_of(answer))) == (400, ["tasks"])


def test_a_batch_may_be_larger_than_one_task(make_app: MakeApp) -> None:
    client = make_app(TASK_PAYLOAD_LIMIT_BYTES=10_000).test_client()
    tasks = [{"name": "test.echo", "payload": "x" * 9_000}] * 40
    answers = client.post("/api/tasks/batch", json={"tasks": tasks}).get_json()["tasks"]
    assert ["id" in answer for answer in answers] == [True] * 40


def test_a_batch_while_intake_is_refused_is_one_503(make_app: MakeApp) -> None:
    clock = Clock()
    app = make_app(clock=clock)
    client = app.test_client()
    client.post("/admin/maintenance/pause-task-submission", json={"reason": "move", "mode": "refuse"})
    answer = client.post("/api/tasks/batch", json={"tasks": [{"name": "test.noop"}] * 2})
    assert answer.status_code == 503
    assert answer.headers["Retry-After"]


# --- for whom -------------------------------------------------------------------------------------


def test_a_program_submits_for_the_user_that_it_names(client: FlaskClient) -> None:
    headers = {**SUBMITTER, "X-User-Id": "ada"}
    task_id = submit(client, headers=headers)
    assert client.get(f"/api/tasks/{task_id}", headers=SUBMITTER).get_json()["user_id"] == "ada"


def test_a_header_and_a_body_that_name_two_users_are_refused(client: FlaskClient) -> None:
    answer = client.post(
        "/api/tasks",
        json={"name": "test.noop", "user_id": "grace"},
        headers={**SUBMITTER, "X-User-Id": "ada"},
    )
    assert (answer.status_code, list(fields_of(answer))) == (400, ["user_id"])


def test_a_user_is_the_same_in_the_header_and_in_the_body(client: FlaskClient) -> None:
    headers = {**SUBMITTER, "X-User-Id": "Zoë".encode().decode("latin-1")}
    submit(client, headers=SUBMITTER, user_id="Zoë")
    submit(client, headers=headers, user_id="Zoë")
    assert len(client.get("/api/tasks", headers=headers).get_json()["tasks"]) == 2


def test_of_many_submissions_at_once_one_is_the_users_active_task(make_app: MakeApp) -> None:
    app = make_app(MAX_ACTIVE_TASKS_PER_USER=1)
    start = threading.Barrier(16)

    def one() -> TestResponse:
        start.wait()
        return app.test_client().post("/api/tasks", json={"name": "test.noop", "user_id": "ada"})

    with ThreadPoolExecutor(16) as threads:
        answers = [future.result() for future in [threads.submit(one) for _ in range(16)]]
    accepted = [answer.get_json()["id"] for answer in answers if answer.status_code == 202]
    assert sorted(answer.status_code for answer in answers) == [202, *[409] * 15]
    assert {answer.get_json()["active_task_id"] for answer in answers if answer.status_code == 409} == {
        *accepted
    }


@pytest.mark.parametrize("user_id", ["", "a" * 129, "a\tb"])
def test_a_user_header_that_no_user_can_have_is_refused(client: FlaskClient, user_id: str) -> None:
    answer = client.post(
        "/api/tasks", json={"name": "test.noop"}, headers={**SUBMITTER, "X-User-Id": user_id}
    )
    assert (answer.status_code, list(fields_of(answer))) == (400, ["X-User-Id"])


def test_the_token_itself_is_never_stored(app: Flask, client: FlaskClient) -> None:
    task_id = submit(client, headers=SUBMITTER)
    assert API_TOKEN not in json.dumps(client.get(f"/api/tasks/{task_id}", headers=SUBMITTER).get_json())
