"""The test handlers do exactly what the tests that use them rely on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.handlers.settings import HandlerSettings
from app.handlers.testing import PlannedFailure
from app.tasks.handlers import DoNotRetry, TaskCancelled, TaskContext, load_handlers, to_json
from tests.handler_doubles import RecordingBackend, configured, context

HANDLERS = load_handlers(["app.handlers"])


def run(name: str, payload: Any, given: TaskContext | None = None) -> Any:
    handler = HANDLERS[name]
    result = handler.call(handler.parse(payload), given or context())
    to_json(result)
    return result


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    with configured(HandlerSettings(describe_folders=(tmp_path,))):
        yield tmp_path


def test_noop_takes_any_object_and_returns_nothing() -> None:
    assert run("test.noop", {"any": ["thing"]}) is None


@pytest.mark.parametrize("payload", [{"a": [1, None]}, [1, 2], "text", 3.5, None])
def test_echo_returns_its_payload(payload: Any) -> None:
    assert run("test.echo", payload) == payload


def test_sleep_reports_every_step() -> None:
    backend = RecordingBackend()
    run("test.sleep", {"seconds": 0, "steps": 4}, context(backend))
    assert backend.reports == [
        (25, "step 1 of 4"),
        (50, "step 2 of 4"),
        (75, "step 3 of 4"),
        (100, "step 4 of 4"),
    ]


def test_sleep_ends_early_when_a_cancel_is_asked_for() -> None:
    backend = RecordingBackend(cancel_after=2)
    with pytest.raises(TaskCancelled):
        run("test.sleep", {"seconds": 0, "steps": 50}, context(backend))
    assert len(backend.reports) == 2


def test_a_cancel_does_not_wait_for_the_end_of_a_step() -> None:
    with pytest.raises(TaskCancelled):
        run("test.sleep", {"seconds": 3600, "steps": 1}, context(RecordingBackend(cancel_after=0)))


def test_fail_fails_the_first_attempts_only() -> None:
    payload = {"times": 2, "message": "not yet"}
    for attempt in (1, 2):
        with pytest.raises(PlannedFailure, match="not yet"):
            run("test.fail", payload, context(attempt=attempt))
    assert run("test.fail", payload, context(attempt=3)) == {"succeeded_at_attempt": 3}


def test_a_permanent_failure_forbids_the_retry() -> None:
    with pytest.raises(DoNotRetry, match="for good"):
        run("test.fail", {"message": "for good", "permanent": True})


def test_ledger_appends_one_line_per_start(folder: Path) -> None:
    for attempt in (1, 2):
        run("test.ledger", {"path": str(folder / "ledger")}, context(task_id=42, attempt=attempt))
    assert (folder / "ledger").read_text() == f"42 1 {os.getpid()}\n42 2 {os.getpid()}\n"


def test_ledger_writes_its_line_before_it_fails_and_fails_only_once(folder: Path) -> None:
    payload = {"path": str(folder / "ledger"), "fail_first": True}
    with pytest.raises(PlannedFailure):
        run("test.ledger", payload, context(attempt=1))
    run("test.ledger", payload, context(attempt=2))
    assert len((folder / "ledger").read_text().splitlines()) == 2


def test_a_cancelled_ledger_has_written_its_line(folder: Path) -> None:
    with pytest.raises(TaskCancelled):
        run("test.ledger", {"path": "ledger", "seconds": 60}, context(RecordingBackend(cancel_after=0)))
    assert len((folder / "ledger").read_text().splitlines()) == 1


@pytest.mark.parametrize("name", ["../ledger", "/tmp/twintrack-outside-ledger"])
def test_a_ledger_outside_the_allowed_folders_is_refused(name: str, folder: Path) -> None:
    with pytest.raises(DoNotRetry, match="DESCRIBE_FOLDERS"):
        run("test.ledger", {"path": name})


def test_a_ledger_never_writes_into_a_picture(folder: Path) -> None:
    (folder / "holiday.jpg").write_bytes(b"precious")
    (folder / "ledger.txt").symlink_to(folder / "holiday.jpg")
    for name in ("holiday.jpg", "ledger.txt"):
        with pytest.raises(DoNotRetry, match="must end in"):
            run("test.ledger", {"path": name})
    assert (folder / "holiday.jpg").read_bytes() == b"precious"
