"""POST /api/tasks and its batch: what is accepted, what is refused, and in which words."""

from __future__ import annotations

from flask.testing import FlaskClient

from tests.web.support import SUBMITTER


def test_an_accepted_task_is_stored_and_named_as_a_string(client: FlaskClient) -> None:
    answer = client.post("/api/tasks", json={"name": "test.echo", "payload": {"a": 1}}, headers=SUBMITTER)
    body = answer.get_json()
    assert answer.status_code == 202
    assert answer.headers["Location"] == body["links"]["self"] == f"/api/tasks/{body['id']}"
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
