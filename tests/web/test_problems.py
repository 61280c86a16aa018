"""Errors as answers: for programs, for people, and without a look inside."""

from __future__ import annotations

import io
import logging

import pytest
from flask import Flask, abort
from flask.testing import FlaskClient
from jinja2 import DictLoader
from sqlalchemy.exc import ProgrammingError

from app.logs import configure_logging
from app.tasks.database import CommitUnknown
from app.tasks.errors import RedisUnavailable, TaskError
from app.web.problems import problem_of
from tests.web.support import BROWSER, DEAD_DATABASE, MakeApp, claim, submit, system_of


@pytest.fixture
def crashing(local_app: Flask, monkeypatch: pytest.MonkeyPatch) -> FlaskClient:
    def crash(*_: object, **__: object) -> None:
        raise RuntimeError("the password is swordfish")

    monkeypatch.setattr(type(system_of(local_app).store.queries), "page", crash)
    return local_app.test_client()


def test_an_unexpected_error_is_500_with_the_request_id_that_the_log_has(
    crashing: FlaskClient, capfd: pytest.CaptureFixture[str]
) -> None:
    answer = crashing.get("/api/tasks")
    body = answer.get_json()
    assert (answer.status_code, answer.mimetype) == (500, "application/problem+json")
    assert body["request_id"] == answer.headers["X-Request-Id"]
    assert "swordfish" not in answer.get_data(as_text=True)
    logged = capfd.readouterr().err
    assert body["request_id"] in logged
    assert "RuntimeError" in logged


def test_a_browser_gets_a_page_for_an_error(local: FlaskClient) -> None:
    answer = local.get("/nothing/here", headers=BROWSER)
    assert (answer.status_code, answer.mimetype) == (404, "text/html")
    assert "Not Found" in answer.get_data(as_text=True)


def test_a_browser_gets_json_where_programs_call(local: FlaskClient) -> None:
    for path in ("/api/nothing", "/api/tasks/1", "/metrics/nothing"):
        assert local.get(path, headers=BROWSER).mimetype == "application/problem+json"


@pytest.mark.parametrize("templates", [{}, {"problem.html": "{{ nothing.here }}"}])
def test_an_error_page_that_cannot_be_drawn_is_plain_text(
    local_app: Flask, templates: dict[str, str]
) -> None:
    local_app.jinja_env.loader = DictLoader(templates)
    answer = local_app.test_client().get("/nothing", headers=BROWSER)
    assert (answer.status_code, answer.mimetype) == (404, "text/plain")
    assert "Not Found" in answer.get_data(as_text=True)


def test_a_wrong_method_is_405_and_names_the_right_ones(local: FlaskClient) -> None:
    answer = local.delete("/api/tasks")
    assert (answer.status_code, answer.mimetype) == (405, "application/problem+json")
    assert {"GET", "POST"} <= set(answer.headers["Allow"].replace(" ", "").split(","))


def test_an_abort_of_flask_is_a_problem_too(local_app: Flask) -> None:
    local_app.add_url_rule("/teapot", view_func=lambda: abort(418))
    answer = local_app.test_client().get("/teapot")
    assert (answer.status_code, answer.get_json()["status"]) == (418, 418)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (CommitUnknown("keeper@10.0.0.7 went away"), 503),
        (RedisUnavailable("10.0.0.7:6379"), 503),
        (TaskError("met other changes"), 503),
    ],
)
def test_a_drivers_words_stay_inside(error: TaskError, status: int) -> None:
    problem = problem_of(error)
    assert problem.status == status
    assert "10.0.0.7" not in str(problem.body())
    assert problem.retry_after_seconds


def test_every_address_answers_503_without_a_database(make_app: MakeApp) -> None:
    client = make_app(prepare=False, DATABASE_URL=DEAD_DATABASE).test_client()
    for path in (
        "/api/tasks",
        "/api/tasks/1",
        "/admin/rq/stats",
        "/admin/maintenance/status",
    ):
        answer = client.get(path)
        assert (answer.status_code, answer.mimetype) == (503, "application/problem+json"), path
        assert answer.headers["Retry-After"]
    for path in ("/api/tasks/1/cancel", "/admin/rq/queues/low/pause", "/admin/rq/dead-letters/retry"):
        assert client.post(path).status_code == 503, path


def test_the_reason_of_an_outage_is_in_the_log_without_the_password(
    make_app: MakeApp, capfd: pytest.CaptureFixture[str]
) -> None:
    client = make_app(prepare=False, DATABASE_URL=DEAD_DATABASE).test_client()
    client.get("/api/tasks")
    logged = capfd.readouterr().err
    assert "database-unavailable" in logged
    assert "very-secret" not in logged


def test_a_mistake_in_a_statement_is_500_and_no_outage(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app()

    def mistake(*_: object) -> None:
        raise ProgrammingError("SELEKT", None, Exception("syntax error near SELEKT"))

    monkeypatch.setattr(type(system_of(app).store.queries), "task", mistake)
    answer = app.test_client().get("/api/tasks/1")
    assert answer.status_code == 500
    assert "SELEKT" not in answer.get_data(as_text=True)


def test_a_claim_that_is_lost_meanwhile_is_no_error(local_app: Flask, local: FlaskClient) -> None:
    task_id = submit(local)
    claim(local_app)
    assert local.post(f"/api/tasks/{task_id}/cancel").status_code == 202
    assert local.post(f"/api/tasks/{task_id}/cancel").status_code == 202


def test_logs_do_not_go_to_a_stream_that_is_gone() -> None:
    configure_logging("info")
    replaced = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stderr", replaced)
        logging.getLogger("somewhere").warning("it rains")
    assert "it rains" in replaced.getvalue()
