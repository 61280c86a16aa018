"""Looking at tasks and changing them one by one."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.web.support import SUBMITTER, MakeApp, claim, complete, fail, fields_of, submit, system_of

MISSING = "9223372036854775807"


def ids_of(answer: Any) -> list[str]:
    return [task["id"] for task in answer.get_json()["tasks"]]


def test_a_completed_task_shows_its_result_and_its_times(local_app: Flask, local: FlaskClient) -> None:
    task_id = submit(local, "test.echo", payload=[1])
    complete(local_app, claim(local_app), '{"answer":42}')
    task = local.get(f"/api/tasks/{task_id}").get_json()
    assert (task["status"], task["result"], task["attempt"]) == ("COMPLETED", {"answer": 42}, 1)
    assert task["progress"] == {"percent": 100, "step": None}
    assert task["track"] is None
    assert all(task[name].endswith("Z") for name in ("created_at", "waiting_since", "started_at", "ended_at"))


def test_a_task_that_waits_in_the_database_is_on_that_track(local: FlaskClient) -> None:
    task_id = submit(local)
    task = local.get(f"/api/tasks/{task_id}").get_json()
    assert (task["status"], task["track"], task["worker"]) == ("QUEUED", "database", None)


def test_a_running_task_names_its_worker_and_no_track(local_app: Flask, local: FlaskClient) -> None:
    task_id = submit(local)
    claim(local_app)
    task = local.get(f"/api/tasks/{task_id}").get_json()
    assert (task["status"], task["track"], task["worker"]) == ("PROCESSING", None, "test worker")


@pytest.mark.parametrize(
    "task_id", [MISSING, "0", "-1", "abc", "1.5", "٣", "9223372036854775808", "9" * 400, "%00"]
)
def test_an_id_that_no_task_has_is_404(local: FlaskClient, task_id: str) -> None:
    for method, tail in (("GET", ""), ("GET", "/events"), ("POST", "/cancel"), ("POST", "/retry")):
        answer = local.open(f"/api/tasks/{task_id}{tail}", method=method)
        assert (answer.status_code, answer.mimetype) == (404, "application/problem+json")
    assert local.put(f"/api/tasks/{task_id}/priority", json={"priority": "low"}).status_code == 404


def test_the_events_of_a_task_come_on_request_only(local: FlaskClient) -> None:
    task_id = submit(local)
    local.put(f"/api/tasks/{task_id}/priority", json={"priority": "low"})
    local.post(f"/api/tasks/{task_id}/cancel")
    assert "events" not in local.get(f"/api/tasks/{task_id}").get_json()
    events = local.get(f"/api/tasks/{task_id}?events=1").get_json()["events"]
    assert [event["kind"] for event in events] == ["reprioritised", "cancelled"]
    assert events[0]["at"].endswith("Z")


# --- lists ----------------------------------------------------------------------------------------


def test_pages_follow_each_other_without_gap_or_repetition(local: FlaskClient) -> None:
    ids = [submit(local) for _ in range(5)]
    seen, cursor = [], ""
    for _ in range(3):
        answer = local.get(f"/api/tasks?limit=2{cursor}")
        seen.append(ids_of(answer))
        cursor = f"&cursor={answer.get_json()['next_cursor']}"
    newest_first = ids[::-1]
    assert seen == [newest_first[:2], newest_first[2:4], newest_first[4:]]
    assert cursor == "&cursor=None"


def test_a_full_last_page_has_no_cursor(local: FlaskClient) -> None:
    submit(local), submit(local)
    assert local.get("/api/tasks?limit=2").get_json()["next_cursor"] is None


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("status=QUEUED", [1, 0]),
        ("status=SCHEDULED", [2]),
        ("priority=low", [1]),
        ("name=test.echo", [2, 1]),
        ("user_id=ada", [0]),
        ("name=test.echo&status=QUEUED", [1]),
        ("status=", [2, 1, 0]),
        ("user_id=nobody", []),
    ],
)
def test_filters_narrow_the_list(local: FlaskClient, wanted: str, found: list[int]) -> None:
    ids = [
        submit(local, user_id="ada"),
        submit(local, "test.echo", priority="low"),
        submit(local, "test.echo", run_at="2999-01-01T00:00:00Z"),
    ]
    assert ids_of(local.get(f"/api/tasks?{wanted}")) == [ids[place] for place in found]


def test_many_tasks_are_looked_up_by_their_ids(local: FlaskClient) -> None:
    ids = [submit(local) for _ in range(60)]
    assert ids_of(local.get(f"/api/tasks?ids={','.join(ids)},{MISSING}")) == ids[::-1]


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        ("statsu=QUEUED", "statsu"),
        ("status=queued", "status"),
        ("status=QUEUED&status=FAILED", "status"),
        ("priority=asap", "priority"),
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("limit=ten", "limit"),
        ("limit=%D9%A3", "limit"),
        ("cursor=x", "cursor"),
        ("ids=1,x", "ids"),
        ("ids=", "ids"),
        ("ids=" + ",".join(["1"] * 201), "ids"),
        ("user_id=a%00b", "user_id"),
    ],
)
def test_a_wrong_filter_is_named(local: FlaskClient, wanted: str, field: str) -> None:
    answer = local.get(f"/api/tasks?{wanted}")
    assert (answer.status_code, list(fields_of(answer))) == (400, [field])


# --- other users' tasks ---------------------------------------------------------------------------


def test_who_acts_for_a_user_sees_and_changes_that_users_tasks_only(client: FlaskClient) -> None:
    ada, grace = ({**SUBMITTER, "X-User-Id": name} for name in ("ada", "grace"))
    own, other, nobodys = (
        submit(client, headers=ada),
        submit(client, headers=grace),
        submit(client, headers=SUBMITTER),
    )
    assert ids_of(client.get("/api/tasks", headers=ada)) == [own]
    assert set(ids_of(client.get("/api/tasks", headers=SUBMITTER))) == {own, other, nobodys}
    assert client.get(f"/api/tasks/{own}", headers=ada).status_code == 200
    for task_id in (other, nobodys):
        assert client.get(f"/api/tasks/{task_id}", headers=ada).status_code == 404
        assert client.get(f"/api/tasks/{task_id}/events", headers=ada).status_code == 404
        assert client.post(f"/api/tasks/{task_id}/cancel", headers=ada).status_code == 404
    assert client.get(f"/api/tasks/{other}", headers=grace).get_json()["status"] == "DISPATCHED"


def test_a_list_of_another_user_is_refused(client: FlaskClient) -> None:
    answer = client.get("/api/tasks?user_id=grace", headers={**SUBMITTER, "X-User-Id": "ada"})
    assert (answer.status_code, list(fields_of(answer))) == (400, ["user_id"])


# --- cancel, retry, reprioritise ------------------------------------------------------------------


def test_a_waiting_task_is_cancelled_at_once(app: Flask, client: FlaskClient) -> None:
    task_id = submit(client, headers=SUBMITTER)
    answer = client.post(f"/api/tasks/{task_id}/cancel", headers=SUBMITTER)
    assert (answer.status_code, answer.get_json()["status"]) == (200, "CANCELLED")
    tickets = system_of(app).tickets
    assert tickets is not None
    assert sum(tickets.lengths().values()) == 0


def test_a_running_task_is_asked_to_stop(local_app: Flask, local: FlaskClient) -> None:
    task_id = submit(local)
    claim(local_app)
    answer = local.post(f"/api/tasks/{task_id}/cancel")
    assert (answer.status_code, answer.get_json()["status"]) == (202, "PROCESSING")
    assert local.get(f"/api/tasks/{task_id}").get_json()["cancel_requested"] is True


def test_an_ended_task_cannot_be_cancelled(local_app: Flask, local: FlaskClient) -> None:
    task_id = submit(local)
    complete(local_app, claim(local_app))
    answer = local.post(f"/api/tasks/{task_id}/cancel")
    assert answer.status_code == 409
    assert answer.get_json()["task_status"] == "COMPLETED"
    assert answer.get_json()["task_id"] == task_id


def test_a_failed_task_can_be_retried_and_forgets_its_failures(local_app: Flask, local: FlaskClient) -> None:
    task_id = submit(local)
    fail(local_app, claim(local_app), "no luck")
    failed = local.get(f"/api/tasks/{task_id}").get_json()
    assert (failed["status"], failed["error"], failed["failures"]) == ("FAILED", "no luck", 1)
    answer = local.post(f"/api/tasks/{task_id}/retry")
    assert (answer.status_code, answer.get_json()["status"]) == (200, "QUEUED")
    again = local.get(f"/api/tasks/{task_id}").get_json()
    assert (again["failures"], again["error"], again["ended_at"]) == (0, None, None)


def test_a_waiting_task_cannot_be_retried(local: FlaskClient) -> None:
    assert local.post(f"/api/tasks/{submit(local)}/retry").status_code == 409


def test_a_retry_of_a_user_who_has_an_active_task_is_409_and_names_it(make_app: MakeApp) -> None:
    app = make_app(MAX_ACTIVE_TASKS_PER_USER=1)
    client = app.test_client()
    failed = submit(client, user_id="ada")
    fail(app, claim(app))
    active = submit(client, user_id="ada")
    answer = client.post(f"/api/tasks/{failed}/retry")
    assert (answer.status_code, answer.get_json()["active_task_id"]) == (409, active)


def test_a_waiting_task_moves_to_another_queue(app: Flask, client: FlaskClient) -> None:
    task_id = submit(client, headers=SUBMITTER)
    answer = client.put(f"/api/tasks/{task_id}/priority", json={"priority": "urgent"}, headers=SUBMITTER)
    assert (answer.status_code, answer.get_json()["priority"]) == (200, "urgent")
    tickets = system_of(app).tickets
    assert tickets is not None
    assert {priority.value: count for priority, count in tickets.lengths().items() if count} == {"urgent": 1}


@pytest.mark.parametrize("body", [{}, {"priority": "asap"}, {"priority": 1}, {"priority": None}])
def test_a_wrong_priority_is_named(local: FlaskClient, body: dict[str, Any]) -> None:
    answer = local.put(f"/api/tasks/{submit(local)}/priority", json=body)
    assert (answer.status_code, list(fields_of(answer))) == (400, ["priority"])


def test_a_running_task_keeps_its_priority(local_app: Flask, local: FlaskClient) -> None:
    task_id = submit(local)
    claim(local_app)
    assert local.put(f"/api/tasks/{task_id}/priority", json={"priority": "low"}).status_code == 409
