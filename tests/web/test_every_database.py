"""One walk through the API on each kind of database."""

from __future__ import annotations

from tests.web.support import MakeApp, claim, complete, fail, submit


def test_the_whole_walk_works_on_every_database(make_app: MakeApp, database_url: str, redis_url: str) -> None:
    app = make_app(DATABASE_URL=database_url, RQ_REDIS_URL=redis_url, MAX_ACTIVE_TASKS_PER_USER=1)
    client = app.test_client()
    dispatched = submit(client, "test.echo", payload={"text": "Zoë \U0001f642 \u0000"}, user_id="Zoë")
    assert client.get(f"/api/tasks/{dispatched}").get_json()["payload"] == {"text": "Zoë \U0001f642 \u0000"}
    again = client.post("/api/tasks", json={"name": "test.noop", "user_id": "Zoë"})
    assert (again.status_code, again.get_json()["active_task_id"]) == (409, dispatched)
    assert client.get("/api/tasks?user_id=zoe").get_json()["tasks"] == []

    client.put("/admin/rq/routing", json={"mode": "database"})
    batch = client.post("/api/tasks/batch", json={"tasks": [{"name": "test.noop"}] * 3}).get_json()["tasks"]
    assert {answer["status"] for answer in batch} == {"QUEUED"}
    done, broken = claim(app, 2)
    complete(app, [done], '{"a":"ü"}')
    fail(app, [broken], "it bröke")
    assert client.get("/admin/rq/stats").get_json()["completed_total"] == 1
    assert client.post("/admin/rq/dead-letters/retry").get_json()["retried"] == 1

    client.put(f"/api/tasks/{batch[2]['id']}/priority", json={"priority": "low"})
    assert client.post(f"/api/tasks/{batch[2]['id']}/cancel").get_json()["status"] == "CANCELLED"
    assert b"event: end" in client.get(f"/api/tasks/{batch[2]['id']}/events").data

    client.post("/admin/maintenance/pause-task-submission", json={"reason": "Umzug", "duration": "1h"})
    held = submit(client)
    assert client.get(f"/api/tasks/{held}?events=1").get_json()["held"] is True
    assert client.post("/admin/maintenance/resume-task-submission").get_json()["paused"] is False
    assert client.get("/health/ready").status_code == 200
    assert client.get("/health").get_json()["database"]["status"] == "ok"
    assert 'status="SCHEDULED"} 1.0' in client.get("/metrics").get_data(as_text=True)
