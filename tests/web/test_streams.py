"""Server-sent events: what a listener is told, and when a stream ends."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.serving import make_server

from app.tasks.errors import DatabaseUnavailable
from app.tasks.model import Status
from app.web.streams import SLOT, Feed, Pace, Streams
from tests.waiting import wait_until
from tests.web.support import Clock, claim, complete, submit, system_of

QUICK = Pace(first_pause=0.001, longest_pause=0.001)
Told = tuple[str, dict[str, Any]]


@pytest.fixture(autouse=True)
def quick(local_app: Flask) -> None:
    local_app.extensions[SLOT] = Streams(limit=2, pace=QUICK)


def events(lines: Iterator[bytes]) -> Iterator[Told]:
    """The events of a stream, each with its decoded data."""
    text = ""
    for chunk in lines:
        text += chunk.decode()
        while "\n\n" in text:
            event, _, text = text.partition("\n\n")
            fields = dict(line.split(": ", 1) for line in event.splitlines())
            if "event" in fields:
                yield fields["event"], json.loads(fields["data"])


def listen(client: FlaskClient, task_id: str) -> Iterator[Told]:
    answer = client.get(f"/api/tasks/{task_id}/events", buffered=False)
    assert (answer.status_code, answer.mimetype) == (200, "text/event-stream")
    assert answer.headers["Cache-Control"] == "no-store"
    return events(answer.iter_encoded())


def test_a_listener_is_told_of_every_step_to_the_end(local_app: Flask, local: FlaskClient) -> None:
    task_id = submit(local)
    told = listen(local, task_id)
    kind, data = next(told)
    assert (kind, data["id"], data["status"], data["track"]) == ("status", task_id, "QUEUED", "database")
    assert next(told) == ("progress", {"id": task_id, "percent": 0, "step": None})
    [one] = claim(local_app)
    kind, data = next(told)
    assert (kind, data["status"], data["worker"], data["attempt"]) == (
        "status",
        "PROCESSING",
        "test worker",
        1,
    )
    system_of(local_app).store.claims.progress(one, 40, "reading")
    assert next(told) == ("progress", {"id": task_id, "percent": 40, "step": "reading"})
    complete(local_app, [one], '{"n":1}')
    rest = list(told)
    assert [kind for kind, _ in rest] == ["status", "progress", "end"]
    assert rest[-1][1]["status"] == "COMPLETED"
    assert rest[-1][1]["result"] == {"n": 1}


def test_the_stream_of_an_ended_task_ends_at_once(local: FlaskClient) -> None:
    task_id = submit(local)
    local.post(f"/api/tasks/{task_id}/cancel")
    assert [kind for kind, _ in listen(local, task_id)] == ["status", "progress", "end"]


def test_the_stream_of_a_purged_task_ends(local_app: Flask, local: FlaskClient) -> None:
    task_id = submit(local)
    told = listen(local, task_id)
    next(told), next(told)
    local.post(f"/api/tasks/{task_id}/cancel")
    clock = Clock()
    clock.advance(days=1)
    system_of(local_app).store.moves.purge_ended(before=clock.now, limit=10)
    assert list(told) == [("end", {"id": task_id, "status": None})]


def test_streams_end_when_the_process_shuts_down(local_app: Flask, local: FlaskClient) -> None:
    told = listen(local, submit(local))
    next(told), next(told)
    local_app.extensions["stopping"].set()
    assert list(told) == []


def test_too_many_streams_are_503_and_a_place_comes_free_again(local_app: Flask, local: FlaskClient) -> None:
    task_id = submit(local)
    path = f"/api/tasks/{task_id}/events"
    one, two = (local.get(path, buffered=False) for _ in range(2))
    refused = local.get(path)
    assert (refused.status_code, refused.mimetype) == (503, "application/problem+json")
    assert refused.headers["Retry-After"]
    one.close()
    three = local.get(path, buffered=False)
    assert three.status_code == 200
    for response in (two, three):
        response.close()


def test_a_stream_that_was_never_read_gives_its_place_back(local_app: Flask, local: FlaskClient) -> None:
    path = f"/api/tasks/{submit(local)}/events"
    for _ in range(5):
        for unread in (local.head(path), local.get(path, buffered=False)):
            assert unread.status_code == 200
            unread.close()


class Away:
    """A reader of tasks whose database is away for a while."""

    def __init__(self, app: Flask, failures: int) -> None:
        self._read = system_of(app).store.queries.task
        self.failures = failures

    def __call__(self, task_id: int) -> Any:
        if self.failures:
            self.failures -= 1
            raise DatabaseUnavailable("away")
        return self._read(task_id)


def test_a_stream_outlives_an_outage_of_the_database(local_app: Flask, local: FlaskClient) -> None:
    task_id = submit(local)
    local.post(f"/api/tasks/{task_id}/cancel")
    feed = Feed(int(task_id), Away(local_app, 3), threading.Event(), QUICK)
    assert "event: end" in list(feed)[-1]


class Ticking:
    """A clock that goes on by a second whenever somebody looks."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def test_a_silent_stream_shows_signs_of_life_and_ends_after_its_time(
    local_app: Flask, local: FlaskClient
) -> None:
    task_id = int(submit(local))
    pace = Pace(first_pause=0.0, longest_pause=0.0, heartbeat=15, longest_stream=100)
    feed = Feed(task_id, system_of(local_app).store.queries.task, threading.Event(), pace, Ticking())
    chunks = list(feed)
    assert [chunk.partition(" ")[0] for chunk in chunks[:3]] == ["retry:", "event:", "event:"]
    heartbeats = chunks[3:]
    assert 2 <= len(heartbeats) <= 6
    assert set(heartbeats) == {": still here\n\n"}


def test_looks_become_rarer_while_nothing_changes(local_app: Flask, local: FlaskClient) -> None:
    class Recorded(threading.Event):
        pauses: list[float] = []

        def wait(self, timeout: float | None = None) -> bool:
            self.pauses.append(timeout or 0.0)
            return len(self.pauses) > 20

    closing = Recorded()
    list(Feed(int(submit(local)), system_of(local_app).store.queries.task, closing, Pace()))
    assert closing.pauses[0] == 0.3
    assert closing.pauses == sorted(closing.pauses)
    assert closing.pauses[-1] == 2.0


@pytest.fixture
def address(local_app: Flask) -> Iterator[tuple[str, int]]:
    """The app on a real socket."""
    server = make_server("127.0.0.1", 0, local_app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield "127.0.0.1", server.server_port
    local_app.extensions["stopping"].set()
    server.shutdown()
    thread.join()
    server.server_close()


def test_over_a_socket_events_come_as_they_happen_and_a_leaver_frees_the_place(
    local_app: Flask, local: FlaskClient, address: tuple[str, int]
) -> None:
    local_app.extensions[SLOT] = Streams(limit=1, pace=Pace(0.005, 0.005, heartbeat=0.02))
    task_id = submit(local)
    with socket.create_connection(address, timeout=60) as listener:
        request = f"GET /api/tasks/{task_id}/events HTTP/1.1\r\nHost: localhost\r\n\r\n"
        listener.sendall(request.encode())
        received = b""
        while b'"status": "QUEUED"' not in received:
            received += listener.recv(4096)
        claim(local_app)
        while b'"status": "PROCESSING"' not in received:
            received += listener.recv(4096)
        assert local.get(f"/api/tasks/{task_id}/events").status_code == 503
    streams: Streams = local_app.extensions[SLOT]
    wait_until(streams.enter, deadline_seconds=60, what="the place of a listener that left is free")
    streams.leave()
    assert local.get(f"/api/tasks/{task_id}").get_json()["status"] == Status.PROCESSING
