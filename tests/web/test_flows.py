"""The flows page's endpoints: runs, one run by phases, deployments, and who may."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Engine, event

from app.distributed.deployments import Deployment, Deployments
from app.tasks.model import Claim
from tests.web.support import ADMIN, BROWSER, SUBMITTER, MakeApp, claim, complete, fail, submit, system_of

PAGE = "/admin/flows"
TOKENS = {"ADMIN_TOKEN": "admin-token-of-the-tests", "API_TOKEN": "api-token-of-the-tests"}


@pytest.fixture
def app(make_app: MakeApp) -> Flask:
    """Database mode, with both tokens."""
    return make_app(**TOKENS)


def look(client: FlaskClient, path: str) -> dict[str, Any]:
    answer = client.get(f"{PAGE}/{path}", headers=ADMIN)
    assert answer.status_code == 200, answer.get_data(as_text=True)
    found: dict[str, Any] = answer.get_json()
    return found


def fanned_out(app: Flask, client: FlaskClient, phases: dict[str, list[str]], tag: str | None = None) -> str:
    """A claimed task with these children, none of which has begun."""
    parent = submit(client, headers=SUBMITTER)
    (one,) = claim(app)
    for phase, names in phases.items():
        spread(app, one, phase, names, tag)
    return parent


def spread(app: Flask, parent: Claim, phase: str, names: list[str], tag: str | None = None) -> None:
    payloads: dict[str, Any] = {name: {} for name in names}
    assert system_of(app).queue.families.fan_out(parent, phase, "test.noop", payloads, tag=tag)


@contextmanager
def statements() -> Iterator[list[str]]:
    """What is asked of the database within the block."""
    asked: list[str] = []

    def hear(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if statement.lstrip().upper().startswith(("SELECT", "WITH")):
            asked.append(statement)

    event.listen(Engine, "before_cursor_execute", hear)
    try:
        yield asked
    finally:
        event.remove(Engine, "before_cursor_execute", hear)


def test_before_anything_fans_out_there_are_no_runs_and_no_deployments(client: FlaskClient) -> None:
    submit(client, headers=SUBMITTER)
    assert look(client, "runs")["runs"] == []
    assert look(client, "deployments") == {"deployments": []}


def test_a_run_is_told_by_phase_with_the_state_and_times_of_each_child(
    app: Flask, client: FlaskClient
) -> None:
    parent = fanned_out(app, client, {"tables": ["orders", "items", "people"], "cleanups": ["cleanup 1"]})
    first, second = claim(app, 2)
    complete(app, [first])
    fail(app, [second], "it has no such column")
    told = look(client, f"runs/{parent}")
    assert (told["run"]["id"], told["run"]["status"]) == (parent, "PROCESSING")
    assert [phase["name"] for phase in told["phases"]] == ["tables", "cleanups"]
    boxes = {child["name"]: child for phase in told["phases"] for child in phase["children"]}
    assert [(name, box["status"]) for name, box in boxes.items()] == [
        ("orders", "COMPLETED"),
        ("items", "FAILED"),
        ("people", "QUEUED"),
        ("cleanup 1", "QUEUED"),
    ]
    assert boxes["items"]["error"] == "it has no such column"
    assert boxes["orders"]["created_at"] <= boxes["orders"]["started_at"] <= boxes["orders"]["ended_at"]
    assert (boxes["people"]["started_at"], boxes["people"]["ended_at"]) == (None, None)
    assert told["children"] == {"COMPLETED": 1, "FAILED": 1, "QUEUED": 2}
    (listed,) = look(client, "runs")["runs"]
    assert (listed["id"], listed["children"]) == (parent, told["children"])


def test_runs_come_newest_first_and_as_many_as_asked_for(app: Flask, client: FlaskClient) -> None:
    born = []
    for name in ("one", "two", "three"):
        born.append(fanned_out(app, client, {"tables": [name]}))
        claim(app, 9)
    assert [run["id"] for run in look(client, "runs")["runs"]] == born[::-1]
    assert [run["id"] for run in look(client, "runs?limit=2")["runs"]] == born[:0:-1]
    assert client.get(f"{PAGE}/runs?limit=0", headers=ADMIN).status_code == 400


def test_a_child_that_waits_for_a_place_of_its_tag_says_so(app: Flask, client: FlaskClient) -> None:
    system_of(app).queue.families.limit("database", 1)
    parent = fanned_out(app, client, {"tables": ["orders", "items"]}, tag="database")
    (phase,) = look(client, f"runs/{parent}")["phases"]
    waits = [(child["name"], child["tag"], child["waits_for_a_place"]) for child in phase["children"]]
    assert waits == [("orders", "database", False), ("items", "database", True)]


def test_more_children_cost_no_more_statements(app: Flask, client: FlaskClient) -> None:
    counts = []
    for size in (1, 40):
        parent = fanned_out(app, client, {"tables": [f"table {number}" for number in range(size)]})
        claim(app, 99)
        with statements() as asked:
            look(client, "runs")
            look(client, f"runs/{parent}")
        counts.append(len(asked))
    assert counts[0] == counts[1] == 7


def test_a_task_without_children_is_a_run_that_has_none_yet(client: FlaskClient) -> None:
    task = submit(client, headers=SUBMITTER)
    told = look(client, f"runs/{task}")
    assert (told["run"]["status"], told["phases"], told["children"]) == ("QUEUED", [], {})
    for wrong in ("999", "x"):
        assert client.get(f"{PAGE}/runs/{wrong}", headers=ADMIN).status_code == 404


def test_a_deployment_is_listed_and_started_with_what_was_deployed_or_with_another_payload(
    app: Flask, client: FlaskClient
) -> None:
    system = system_of(app)
    Deployments(system).put([Deployment("nightly", "test.noop", {"n": 1}, "low")])
    (listed,) = look(client, "deployments")["deployments"]
    assert listed == {"name": "nightly", "task": "test.noop", "payload": {"n": 1}, "priority": "low"}
    for given, wanted in [({}, {"n": 1}), ({"payload": {"n": 2}}, {"n": 2})]:
        answer = client.post(f"{PAGE}/start", json={"deployment": "nightly"} | given, headers=ADMIN)
        assert answer.status_code == 202
        task = system.store.queries.task(int(answer.get_json()["id"]))
        assert (task.name, task.payload, task.priority.value) == ("test.noop", wanted, "low")
    answer = client.post(f"{PAGE}/start", json={"deployment": "daily"}, headers=ADMIN)
    assert (answer.status_code, answer.get_json()["detail"]) == (404, "There is no such deployment.")
    assert client.post(f"{PAGE}/start", json={}, headers=ADMIN).status_code == 400


@pytest.mark.parametrize("path", ["", "/runs", "/runs/1", "/deployments"])
def test_only_admins_look_at_flows(client: FlaskClient, path: str) -> None:
    assert client.get(PAGE + path).status_code == 401
    assert client.get(PAGE + path, headers=SUBMITTER).status_code == 403


def test_only_admins_start_deployments(app: Flask, client: FlaskClient) -> None:
    Deployments(system_of(app)).put([Deployment("nightly", "test.noop")])
    answer = client.post(f"{PAGE}/start", json={"deployment": "nightly"}, headers=SUBMITTER)
    assert answer.status_code == 403
    assert system_of(app).store.queries.page(limit=9) == []


def test_the_page_is_there(client: FlaskClient) -> None:
    page = client.get(PAGE, headers=ADMIN | BROWSER)
    assert page.status_code == 200
    text = page.get_data(as_text=True)
    assert 'id="time-line"' in text
    assert 'href="/admin/flows" aria-current="page"' in text
