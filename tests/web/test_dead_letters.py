"""Dead letters over HTTP: list, retry, purge."""

from __future__ import annotations

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.web import dead_letters
from tests.web.support import MakeApp, claim, complete, fail, fields_of, submit

PATH = "/admin/rq/dead-letters"


def failed(app: Flask, client: FlaskClient, count: int = 1, **fields: str) -> list[str]:
    """Tasks that have failed for good, oldest first."""
    ids = [submit(client, "test.noop", None, **fields) for _ in range(count)]
    fail(app, claim(app, count), "it broke")
    return ids


def listed(client: FlaskClient) -> list[str]:
    return [task["id"] for task in client.get(PATH).get_json()["tasks"]]


def test_failed_tasks_are_listed_newest_first_with_their_reason(local_app: Flask, local: FlaskClient) -> None:
    ids = failed(local_app, local, 3)
    submit(local)
    page = local.get(f"{PATH}?limit=2").get_json()
    assert [task["id"] for task in page["tasks"]] == ids[:0:-1]
    assert page["tasks"][0]["error"] == "it broke"
    rest = local.get(f"{PATH}?limit=2&cursor={page['next_cursor']}").get_json()
    assert ([task["id"] for task in rest["tasks"]], rest["next_cursor"]) == ([ids[0]], None)


def test_a_retried_dead_letter_waits_again_and_leaves_the_list(local_app: Flask, local: FlaskClient) -> None:
    [task_id] = failed(local_app, local)
    answer = local.post(f"{PATH}/{task_id}/retry")
    assert (answer.status_code, answer.get_json()["status"]) == (200, "QUEUED")
    assert listed(local) == []
    complete(local_app, claim(local_app))
    assert local.get(f"/api/tasks/{task_id}").get_json()["status"] == "COMPLETED"


def test_all_are_retried_up_to_the_limit(local_app: Flask, local: FlaskClient) -> None:
    failed(local_app, local, 5)
    first = local.post(f"{PATH}/retry?limit=3").get_json()
    assert (first["retried"], first["more"], first["refused"]) == (3, True, [])
    second = local.post(f"{PATH}/retry?limit=3").get_json()
    assert (second["retried"], second["more"]) == (2, False)
    assert listed(local) == []


def test_a_dead_letter_whose_user_is_active_again_stays_and_is_named(make_app: MakeApp) -> None:
    app = make_app(MAX_ACTIVE_TASKS_PER_USER=1)
    client = app.test_client()
    [stays] = failed(app, client, user_id="ada")
    [goes] = failed(app, client, user_id="grace")
    active = submit(client, user_id="ada")
    answer = client.post(f"{PATH}/retry").get_json()
    assert answer["ids"] == [goes]
    [refused] = answer["refused"]
    assert (refused["id"], refused["error"]["status"]) == (stays, 409)
    assert refused["error"]["active_task_id"] == active
    assert listed(client) == [stays]


def test_a_purged_dead_letter_is_gone(local_app: Flask, local: FlaskClient) -> None:
    one, other = failed(local_app, local, 2)
    assert local.delete(f"{PATH}/{one}").get_json() == {"purged": 1}
    assert local.get(f"/api/tasks/{one}").status_code == 404
    assert listed(local) == [other]


def test_all_are_purged_and_nothing_else(
    local_app: Flask, local: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "PURGE_BATCH", 2)
    failed(local_app, local, 5)
    waiting = submit(local)
    assert local.delete(PATH).get_json() == {"purged": 5, "more": False}
    assert local.get(f"/api/tasks/{waiting}").status_code == 200


def test_a_purge_is_bounded_and_says_that_more_is_left(
    local_app: Flask, local: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "PURGE_BATCH", 2)
    monkeypatch.setattr(dead_letters, "PURGE_LIMIT", 4)
    failed(local_app, local, 5)
    assert local.delete(PATH).get_json() == {"purged": 4, "more": True}


def test_a_task_that_has_not_failed_is_no_dead_letter(local: FlaskClient) -> None:
    task_id = submit(local)
    assert local.post(f"{PATH}/{task_id}/retry").status_code == 409
    assert local.delete(f"{PATH}/{task_id}").status_code == 409
    assert local.get(f"/api/tasks/{task_id}").get_json()["status"] == "QUEUED"


def test_a_dead_letter_that_does_not_exist_is_404(local: FlaskClient) -> None:
    for task_id in ("1", "x"):
        assert local.post(f"{PATH}/{task_id}/retry").status_code == 404
        assert local.delete(f"{PATH}/{task_id}").status_code == 404


@pytest.mark.parametrize(
    ("wanted", "field"), [("limit=0", "limit"), ("cursor=x", "cursor"), ("status=x", "status")]
)
def test_a_wrong_parameter_is_named(local: FlaskClient, wanted: str, field: str) -> None:
    answer = local.get(f"{PATH}?{wanted}")
    assert (answer.status_code, list(fields_of(answer))) == (400, [field])
