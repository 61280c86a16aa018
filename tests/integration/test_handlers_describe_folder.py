"""`python -m app.handlers.describe` as a command, against a server that speaks the task API."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from click.testing import CliRunner, Result

from app.handlers.describe_folder.command import main
from app.handlers.sample_pictures import SAMPLE_PICTURES, generate
from app.handlers.settings import HandlerSettings
from app.tasks.handlers import DoNotRetry, load_handlers
from config import ROOT
from tests.handler_doubles import LocalServer, Received, Reply, configured, context
from tests.waiting import wait_until

HANDLER = load_handlers(["app.handlers"])["describe_image"]
TOKEN = "let-me-in"
NEW = {"status": "DISPATCHED", "result": None, "error": None}


class TaskServer:
    """The task API over the real handler: a task runs when its state is asked for."""

    def __init__(self, allowed: Path) -> None:
        self.allowed = allowed
        self.tasks: dict[str, dict[str, Any]] = {}
        self.by_key: dict[str, str] = {}
        self.token: str | None = None
        self.frozen: Callable[[str], bool] = lambda path: False
        self.override: Callable[[Received], Reply | None] = lambda received: None

    def answer(self, received: Received) -> Reply:
        if self.token and received.headers.get("authorization") != f"Bearer {self.token}":
            return problem(401, "This address needs a token.")
        overridden = self.override(received)
        if overridden is not None:
            return overridden
        if (received.method, received.path) == ("POST", "/api/tasks/batch"):
            return reply(202, {"tasks": [self._submit(task) for task in received.json["tasks"]]})
        if received.method == "GET" and received.path.startswith("/api/tasks?ids="):
            ids = parse_qs(urlsplit(received.path).query)["ids"][0].split(",")
            return reply(200, {"tasks": [self._look(i) for i in reversed(ids)], "next_cursor": None})
        return problem(404, "There is nothing at this address.")

    def _submit(self, task: dict[str, Any]) -> dict[str, Any]:
        known = self.by_key.get(task["idempotency_key"])
        task_id = known or str(7_000_000_000_000_000_000 + len(self.tasks))
        if known is None:
            self.by_key[task["idempotency_key"]] = task_id
            self.tasks[task_id] = {
                **task,
                "id": task_id,
                "status": "DISPATCHED",
                "result": None,
                "error": None,
            }
        return {"id": task_id, "status": self.tasks[task_id]["status"], "created": known is None}

    def _look(self, task_id: str) -> dict[str, Any]:
        task = self.tasks[task_id]
        if task["status"] == "DISPATCHED" and not self.frozen(task["payload"]["path"]):
            task.update(self._run(task["payload"]))
        return task

    def _run(self, payload: Any) -> dict[str, Any]:
        with configured(HandlerSettings(describe_folders=(self.allowed,))):
            try:
                result = HANDLER.call(HANDLER.parse(payload), context())
            except DoNotRetry as error:
                return {"status": "FAILED", "error": str(error)}
        return {"status": "COMPLETED", "result": result.model_dump(mode="json")}

    @property
    def priorities(self) -> set[str]:
        return {task["priority"] for task in self.tasks.values()}


def reply(status: int, body: object, **headers: str) -> Reply:
    return Reply(status, json.dumps(body).encode(), {"Content-Type": "application/json", **headers})


def problem(status: int, detail: str, **headers: str) -> Reply:
    return reply(status, {"type": "about:blank", "status": status, "title": "x", "detail": detail}, **headers)


@pytest.fixture(scope="module")
def painted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("painted")
    generate(folder)
    return folder


@pytest.fixture
def folder(painted: Path, tmp_path: Path) -> Path:
    """The sample pictures, one file that only says that it is one, and one other file."""
    folder = tmp_path / "pictures"
    (folder / "below").mkdir(parents=True)
    for name in SAMPLE_PICTURES:
        (folder / "below" / name).write_bytes((painted / name).read_bytes())
    (folder / "broken.jpg").write_text("no picture")
    (folder / "notes.txt").write_text("notes")
    return folder


@pytest.fixture
def tasks(folder: Path) -> TaskServer:
    return TaskServer(folder)


@pytest.fixture
def server(tasks: TaskServer) -> Iterator[LocalServer]:
    with LocalServer(tasks.answer) as server:
        yield server


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(one) for one in arguments])


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_every_picture_gets_a_line_and_the_exit_status_says_that_one_failed(
    folder: Path, tasks: TaskServer, server: LocalServer
) -> None:
    result = run(folder, "--url", server.url, "--priority", "urgent")
    assert result.exit_code == 1
    by_name = {Path(line["path"]).name: line for line in lines(result.stdout)}
    assert set(by_name) == {"broken.jpg", *SAMPLE_PICTURES}
    assert "not a picture" in by_name["broken.jpg"]["error"]
    assert by_name["sample-harbour.png"]["alt_text"].startswith("Landscape photograph, 960 x 640 pixels")
    assert by_name["sample-harbour.png"]["engine"] == "facts"
    assert by_name["sample-harbour.png"]["task_id"] in tasks.tasks
    assert tasks.priorities == {"urgent"}
    assert "5 pictures: 4 described, 1 failed, 1 other files skipped" in result.stderr


def test_when_all_succeed_the_exit_status_is_zero(folder: Path, server: LocalServer) -> None:
    (folder / "broken.jpg").unlink()
    result = run(folder, "--url", server.url, "--json")
    assert result.exit_code == 0
    summary = lines(result.stdout)[-1]["summary"]
    assert (summary["pictures"], summary["described"], summary["failed"], summary["other_files"]) == (
        4,
        4,
        0,
        1,
    )
    assert result.stderr == ""


def test_a_second_run_into_the_same_file_does_only_what_is_left(
    folder: Path, tasks: TaskServer, server: LocalServer, tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"
    assert run(folder, "--url", server.url, "--output", output).exit_code == 1
    (folder / "broken.jpg").write_bytes((folder / "below" / "sample-sunset.jpg").read_bytes())
    submitted = len(tasks.tasks)
    again = run(folder, "--url", server.url, "--output", output, "--json")
    summary = lines(again.stdout)[-1]["summary"]
    assert (again.exit_code, summary["already_done"], summary["described"]) == (0, 4, 1)
    assert len(tasks.tasks) == submitted + 1
    written = lines(output.read_text())
    assert len(written) == 6
    assert sum("alt_text" in line for line in written) == 5
    third = run(folder, "--url", server.url, "--output", output)
    assert (third.exit_code, len(tasks.tasks)) == (0, submitted + 1)


def test_a_file_that_failed_is_tried_again_as_a_new_task(
    folder: Path, tasks: TaskServer, server: LocalServer, tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"
    for _ in range(2):
        assert run(folder, "--url", server.url, "--output", output).exit_code == 1
    tried = [task for task in tasks.tasks.values() if task["payload"]["path"].endswith("broken.jpg")]
    assert len(tried) == 2


def test_a_folder_outside_the_allowed_ones_names_the_setting_and_submits_no_more(
    folder: Path, tasks: TaskServer, server: LocalServer
) -> None:
    tasks.allowed = folder / "below" / "nothing"
    result = run(folder, "--url", server.url)
    assert result.exit_code == 2
    assert "DESCRIBE_FOLDERS" in result.stderr
    assert str(folder) in result.stderr
    assert len(tasks.tasks) == 1


def test_after_the_setting_was_repaired_the_same_command_works(
    folder: Path, tasks: TaskServer, server: LocalServer, tmp_path: Path
) -> None:
    (folder / "broken.jpg").unlink()
    tasks.allowed = tmp_path / "nothing"
    output = tmp_path / "out.jsonl"
    assert run(folder, "--url", server.url, "--output", output).exit_code == 2
    tasks.allowed = folder
    assert run(folder, "--url", server.url, "--output", output).exit_code == 0


def test_a_server_that_is_not_there_is_named_with_what_to_do(folder: Path) -> None:
    with LocalServer(lambda _: Reply()) as server:
        gone = server.url
    result = run(folder, "--url", gone)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"No server answers at {gone}. Start one with `make run`")
    assert len(result.stderr.splitlines()) == 1


def test_a_wrong_token_says_how_to_give_one(folder: Path, tasks: TaskServer, server: LocalServer) -> None:
    (folder / "broken.jpg").unlink()
    tasks.token = TOKEN
    refused = run(folder, "--url", server.url, "--token", "wrong-secret")
    assert refused.exit_code == 2
    assert "--token" in refused.stderr
    assert "wrong-secret" not in refused.stderr
    assert run(folder, "--url", server.url, "--token", TOKEN).exit_code == 0


def test_the_own_token_is_used_for_this_machine_only(
    folder: Path, tasks: TaskServer, server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "broken.jpg").unlink()
    monkeypatch.setenv("API_TOKEN", TOKEN)
    tasks.token = TOKEN
    assert run(folder, "--url", server.url).exit_code == 0
    # The same server under a name that does not say that it is this machine.
    server.received.clear()
    assert run(folder, "--url", f"http://127.1:{server.port}").exit_code == 2
    assert server.received
    assert all("authorization" not in received.headers for received in server.received)


@pytest.mark.parametrize(
    "wrong", [Reply(200, b"<html>"), Reply(200, b"[]"), Reply(200, b'{"tasks": []}'), Reply(404, b"nothing")]
)
def test_another_program_at_the_address_is_recognised(
    folder: Path, tasks: TaskServer, server: LocalServer, wrong: Reply
) -> None:
    tasks.override = lambda _: wrong
    result = run(folder, "--url", server.url)
    assert result.exit_code == 2
    assert "not a Twintrack server" in result.stderr


@pytest.mark.parametrize(
    "arguments", [[], ["/no/such/folder"], [".", "--priority", "soon"], [".", "--url", "http://["]]
)
def test_wrong_use_ends_with_two(arguments: list[str]) -> None:
    assert run(*arguments).exit_code == 2


def test_a_folder_without_pictures_is_no_error(tmp_path: Path) -> None:
    result = run(tmp_path, "--json")
    assert result.exit_code == 0
    assert lines(result.stdout)[-1]["summary"]["pictures"] == 0


def test_paused_submission_is_waited_for(folder: Path, tasks: TaskServer, server: LocalServer) -> None:
    (folder / "broken.jpg").unlink()
    pauses = [problem(503, "task submission is paused: moving", **{"Retry-After": "1"})]
    tasks.override = lambda _: pauses.pop() if pauses else None
    result = run(folder, "--url", server.url)
    assert result.exit_code == 0
    assert "Waiting for the server: task submission is paused: moving" in result.stderr


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-W", "error", "-m", "app.handlers.describe", *map(str, arguments)]


def test_ctrl_c_leaves_a_state_that_the_next_run_continues(
    folder: Path, tasks: TaskServer, server: LocalServer, tmp_path: Path
) -> None:
    (folder / "broken.jpg").unlink()
    tasks.frozen = lambda path: path.endswith("sunset.jpg")
    output = tmp_path / "out.jsonl"
    process = subprocess.Popen(
        command(folder, "--url", server.url, "--output", output), cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    wait_until(
        lambda: output.exists() and len(output.read_text().splitlines()) == 3,
        deadline_seconds=60,
        what="three of four pictures are described",
    )
    process.send_signal(signal.SIGINT)
    _, message = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "3 described, 0 failed, 1 not done" in message
    assert "The same command continues" in message
    assert "Traceback" not in message, message
    tasks.frozen = lambda path: False
    assert run(folder, "--url", server.url, "--output", output).exit_code == 0
    assert len(tasks.tasks) == 4
    assert len(lines(output.read_text())) == 4


def test_on_a_terminal_a_bar_shows_how_far_it_is(folder: Path, server: LocalServer, tmp_path: Path) -> None:
    (folder / "broken.jpg").unlink()
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"}
    with subprocess.Popen(
        command(folder, "--url", server.url), cwd=ROOT, stderr=theirs, stdout=subprocess.PIPE, env=environment
    ) as process:
        os.close(theirs)
        shown = b"".join(iter(lambda: read_terminal(ours), b"")).decode()
        assert process.stdout is not None
        assert len(lines(process.stdout.read().decode())) == 4
    os.close(ours)
    assert process.returncode == 0
    assert "4/4" in shown


def read_terminal(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except OSError:
        # Linux says so when the other end is closed.
        return b""
