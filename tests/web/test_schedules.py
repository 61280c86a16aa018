"""Schedules over HTTP: made, looked at, changed, paused, run now and removed, by admins."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.tasks.schedule_requests import ScheduleRequest
from tests.web.support import ADMIN, BROWSER, DEAD_DATABASE, SUBMITTER, MakeApp, fields_of, system_of

PATH = "/api/schedules"


def make(client: FlaskClient, name: str = "nightly", **fields: Any) -> dict[str, Any]:
    body = {"name": name, "task": "test.echo", "cron": "0 6 * * *", "time_zone": "Europe/Berlin", **fields}
    answer = client.post(PATH, json=body)
    assert answer.status_code == 201, answer.get_data(as_text=True)
    assert answer.headers["Location"] == f"{PATH}/{name}"
    made: dict[str, Any] = answer.get_json()
    return made


def test_a_schedule_is_made_and_shown_with_its_next_times(local: FlaskClient) -> None:
    made = make(local, payload={"kind": "daily"}, priority="low", user_id="ada", max_retries=1)
    assert (made["state"], made["enabled"], made["origin"]) == ("active", True, "api")
    assert made["last_task"] is None
    shown = local.get(f"{PATH}/nightly").get_json()
    upcoming = shown.pop("upcoming")
    assert shown == made
    assert (shown["payload"], shown["priority"], shown["user_id"]) == ({"kind": "daily"}, "low", "ada")
    assert (len(upcoming), upcoming[0]) == (5, made["next_run_at"])
    assert upcoming == sorted(set(upcoming))
    assert {datetime.fromisoformat(moment).minute for moment in upcoming} == {0}
    listed = local.get(PATH).get_json()
    assert listed["schedules"] == [made]
    assert listed["now"] < made["next_run_at"]


def test_a_run_now_is_a_task_that_names_its_schedule(local: FlaskClient) -> None:
    make(local)
    answer = local.post(f"{PATH}/nightly/run")
    assert answer.status_code == 202
    task = local.get(answer.get_json()["links"]["self"]).get_json()
    assert (task["schedule"], task["name"]) == ("nightly", "test.echo")
    assert task["planned_at"]
    [listed] = local.get(PATH).get_json()["schedules"]
    assert listed["last_task"] == {"id": task["id"], "status": "QUEUED"}
    assert listed["last_run_at"] == task["planned_at"]
    again = local.post(f"{PATH}/nightly/run")
    assert (again.status_code, again.get_json()["task_id"]) == (409, task["id"])


def test_a_schedule_is_paused_and_resumed(local: FlaskClient) -> None:
    made = make(local)
    paused = local.patch(f"{PATH}/nightly", json={"enabled": False}).get_json()
    assert (paused["state"], paused["next_run_at"], paused["upcoming"]) == ("paused", None, [])
    resumed = local.patch(f"{PATH}/nightly", json={"enabled": True}).get_json()
    assert (resumed["state"], resumed["next_run_at"]) == ("active", made["next_run_at"])


def test_what_a_change_leaves_out_stays(local: FlaskClient) -> None:
    made = make(local, payload={"kind": "daily"}, priority="low")
    changed = local.patch(f"{PATH}/nightly", json={"interval_seconds": 3600}).get_json()
    assert (changed["cron"], changed["interval_seconds"]) == (None, 3600)
    assert (changed["payload"], changed["priority"]) == (made["payload"], "low")
    assert local.patch(f"{PATH}/nightly", json={}).get_json()["interval_seconds"] == 3600


def test_a_removed_schedule_is_gone(local: FlaskClient) -> None:
    make(local)
    assert local.delete(f"{PATH}/nightly").status_code == 204
    answers = [local.get(f"{PATH}/nightly"), local.delete(f"{PATH}/nightly"), local.post(f"{PATH}/x/run")]
    for answer in answers:
        assert answer.status_code == 404
        assert answer.get_json()["type"] == "urn:twintrack:problem:schedule-not-found"


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"cron": "0 6 * *"}, {"cron"}),
        ({"cron": None}, {"cron"}),
        ({"interval_seconds": 60}, {"cron"}),
        ({"cron": None, "interval_seconds": 0}, {"interval_seconds"}),
        ({"cron": None, "interval_seconds": "60"}, {"interval_seconds"}),
        ({"time_zone": "Berlin"}, {"time_zone"}),
        ({"name": "a/b"}, {"name"}),
        ({"overlap": "queue"}, {"overlap"}),
        ({"every": 5}, {"every"}),
        ({"priority": "soon", "max_retries": -1}, {"priority", "max_retries"}),
    ],
)
def test_a_wrong_schedule_is_400_and_names_the_field(
    local: FlaskClient, fields: dict[str, Any], wrong: set[str]
) -> None:
    body = {"name": "nightly", "task": "test.echo", "cron": "0 6 * * *", **fields}
    answer = local.post(PATH, json=body)
    assert (answer.status_code, set(fields_of(answer))) == (400, wrong)
    assert local.get(PATH).get_json()["schedules"] == []


def test_an_unknown_task_is_422_and_a_large_payload_413(local: FlaskClient) -> None:
    unknown = local.post(PATH, json={"name": "a", "task": "no.such", "interval_seconds": 60})
    assert (unknown.status_code, list(fields_of(unknown))) == (422, ["task"])
    large = local.post(
        PATH, json={"name": "a", "task": "test.echo", "interval_seconds": 60, "payload": "x" * 300_000}
    )
    assert (large.status_code, list(fields_of(large))) == (413, ["payload"])


def test_a_wrong_change_is_refused_and_changes_nothing(local: FlaskClient) -> None:
    make(local)
    before = local.get(f"{PATH}/nightly").get_json()
    for change in ({"cron": "x"}, {"time_zone": None}, {"name": "other"}, {"enabled": None}, {"task": ""}):
        assert local.patch(f"{PATH}/nightly", json=change).status_code in (400, 422), change
    assert local.get(f"{PATH}/nightly").get_json() == before


def test_a_taken_name_is_409(local: FlaskClient) -> None:
    make(local)
    answer = local.post(PATH, json={"name": "nightly", "task": "test.echo", "interval_seconds": 60})
    assert (answer.status_code, answer.get_json()["schedule"]) == (409, "nightly")


def test_what_the_code_declares_can_be_paused_and_nothing_else(local_app: Flask, local: FlaskClient) -> None:
    system_of(local_app).queue.schedules.sync([ScheduleRequest("tidy", "test.noop", interval_seconds=900)])
    assert local.get(f"{PATH}/tidy").get_json()["origin"] == "code"
    assert local.patch(f"{PATH}/tidy", json={"payload": {}}).status_code == 409
    assert local.delete(f"{PATH}/tidy").status_code == 409
    assert local.patch(f"{PATH}/tidy", json={"enabled": False}).get_json()["state"] == "paused"


def test_schedules_are_for_admins(client: FlaskClient) -> None:
    body = {"name": "a", "task": "test.noop", "interval_seconds": 60}
    assert client.post(PATH, json=body).status_code == 401
    assert client.post(PATH, json=body, headers=SUBMITTER).status_code == 403
    assert client.post(PATH, json=body, headers=ADMIN).status_code == 201
    assert client.get(PATH, headers=SUBMITTER).status_code == 403


def test_a_submission_cannot_take_the_key_of_a_planned_run(local: FlaskClient) -> None:
    key = "schedule:nightly:2026-01-31T05:00:00Z"
    answer = local.post("/api/tasks", json={"name": "test.noop", "idempotency_key": key})
    assert (answer.status_code, list(fields_of(answer))) == (400, ["idempotency_key"])


def test_the_page_offers_the_registered_tasks_and_the_time_zones(local: FlaskClient) -> None:
    page = local.get("/admin/schedules", headers=BROWSER).get_data(as_text=True)
    for words in ('value="test.echo"', 'value="Europe/Berlin"', 'aria-current="page">Schedules'):
        assert words in page


def test_the_database_away_is_503(make_app: MakeApp) -> None:
    client = make_app(prepare=False, DATABASE_URL=DEAD_DATABASE).test_client()
    assert client.get(PATH).status_code == 503
