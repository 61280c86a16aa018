"""Pausing the intake: with a reason, for a time, and without losing a task."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient

from app.web.durations import parse_duration
from tests.web.support import Clock, MakeApp, fields_of, submit

PAUSE = "/admin/maintenance/pause-task-submission"
RESUME = "/admin/maintenance/resume-task-submission"
STATUS = "/admin/maintenance/status"
OPEN = {"paused": False, "mode": None, "reason": None, "until": None}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def paused(make_app: MakeApp, clock: Clock) -> FlaskClient:
    """A client of an app whose intake obeys `clock`."""
    return make_app(clock=clock).test_client()


def test_a_held_task_is_accepted_and_waits_as_scheduled(paused: FlaskClient, clock: Clock) -> None:
    answer = paused.post(PAUSE, json={"reason": " Moving house ", "duration": "2 hours"})
    until = (clock.now + timedelta(hours=2)).isoformat().replace("+00:00", "Z")
    assert answer.get_json() == {"paused": True, "mode": "hold", "reason": "Moving house", "until": until}
    assert paused.get(STATUS).get_json() == answer.get_json()
    task = paused.get(f"/api/tasks/{submit(paused)}").get_json()
    assert (task["status"], task["held"]) == ("SCHEDULED", True)


def test_a_refused_task_is_503_with_reason_and_time(paused: FlaskClient) -> None:
    paused.post(PAUSE, json={"reason": "Moving house", "duration": "90m", "mode": "refuse"})
    answer = paused.post("/api/tasks", json={"name": "test.noop"})
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5400")
    assert answer.get_json()["reason"] == "Moving house"
    assert answer.get_json()["until"].endswith("Z")
    assert paused.get("/api/tasks").get_json()["tasks"] == []


@pytest.mark.parametrize("mode", ["hold", "refuse"])
def test_a_pause_ends_by_itself(paused: FlaskClient, clock: Clock, mode: str) -> None:
    paused.post(PAUSE, json={"reason": "Moving", "duration": "10 minutes", "mode": mode})
    clock.advance(minutes=9, seconds=59)
    assert paused.get(STATUS).get_json()["paused"] is True
    clock.advance(seconds=1)
    assert paused.get(STATUS).get_json() == OPEN
    answer = paused.post("/api/tasks", json={"name": "test.noop"})
    assert (answer.status_code, answer.get_json()["status"]) == (202, "QUEUED")


@pytest.mark.parametrize("mode", ["hold", "refuse"])
def test_a_pause_without_a_duration_lasts_until_resumed(paused: FlaskClient, clock: Clock, mode: str) -> None:
    paused.post(PAUSE, json={"reason": "Moving", "mode": mode})
    clock.advance(days=400)
    assert paused.get(STATUS).get_json() == {"paused": True, "mode": mode, "reason": "Moving", "until": None}
    assert paused.post(RESUME).get_json() == OPEN
    assert paused.get(STATUS).get_json() == OPEN
    assert paused.post("/api/tasks", json={"name": "test.noop"}).get_json()["status"] == "QUEUED"


def test_a_resume_without_a_pause_changes_nothing(paused: FlaskClient) -> None:
    assert paused.post(RESUME).get_json() == OPEN


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "reason"),
        ({"reason": ""}, "reason"),
        ({"reason": "  "}, "reason"),
        ({"reason": "x" * 501}, "reason"),
        ({"reason": "x", "duration": "soon"}, "duration"),
        ({"reason": "x", "duration": 7200}, "duration"),
        ({"reason": "x", "duration": ""}, "duration"),
        ({"reason": "x", "duration": "31 days"}, "duration"),
        ({"reason": "x", "mode": "stop"}, "mode"),
        ({"reason": "x", "durations": "1h"}, "durations"),
    ],
)
def test_a_wrong_pause_is_refused_and_pauses_nothing(
    paused: FlaskClient, body: dict[str, Any], field: str
) -> None:
    answer = paused.post(PAUSE, json=body)
    assert (answer.status_code, list(fields_of(answer))) == (400, [field])
    assert paused.get(STATUS).get_json() == OPEN


# --- durations ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2 hours", 7200),
        ("1 hour", 3600),
        ("90m", 5400),
        ("90 min", 5400),
        ("1h30m", 5400),
        ("1 hour 30 minutes", 5400),
        ("1 hour, 30 minutes", 5400),
        ("1 day and 12 hours", 129_600),
        ("1.5 hours", 5400),
        ("45 seconds", 45),
        ("45s", 45),
        ("  2 HOURS ", 7200),
        ("PT2H", 7200),
        ("pt1h30m", 5400),
        ("P1DT12H", 129_600),
        ("P30D", 2_592_000),
        ("30 days", 2_592_000),
        ("2 hrs", 7200),
    ],
)
def test_a_duration_is_understood(text: str, seconds: int) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "2", "hours", "2 fortnights", "two hours", "-2 hours", "2 hours ago", "2 hoursx", "1e3s"),
        *("0 minutes", "0s", "30 days 1 second", "P", "PT", "P1Y", "PT1.5H", "P31D", "PT" + "9" * 90 + "S"),
        *("2 hours 3", "1h30", "and", "x" * 101, "9999999999 s"),
    ],
)
def test_what_is_no_duration_is_refused_with_a_sentence(text: str) -> None:
    with pytest.raises(ValueError, match=r"^must be "):
        parse_duration(text)
