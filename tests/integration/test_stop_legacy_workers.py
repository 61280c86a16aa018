"""Old workers are stopped by the numbers that they wrote down, and nobody else is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from scripts.migration.stop_legacy_workers import main
from tests.integration.old_workers import OBEDIENT, STUBBORN, running


@pytest.fixture
def start() -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    with ExitStack() as stack:
        yield lambda code: stack.enter_context(running(code))


def stop(*arguments: str) -> tuple[int, Any]:
    done = CliRunner().invoke(main, [*arguments, "--json"])
    return done.exit_code, json.loads(done.output) if done.output.startswith("{") else done.output


def noted(folder: Path, process: subprocess.Popen[str]) -> str:
    path = folder / f"{process.pid}.pid"
    path.write_text(f"{process.pid}\n")
    return str(path)


def test_a_recorded_worker_is_stopped_and_its_neighbour_is_not(tmp_path: Path, start: Any) -> None:
    worker, neighbour = start(OBEDIENT), start(OBEDIENT)
    code, told = stop("--pid-file", noted(tmp_path, worker), "--dry-run")
    assert (code, told["running"]) == (1, [worker.pid])
    assert stop("--pid-file", noted(tmp_path, worker)) == (0, {"found": [worker.pid], "running": []})
    assert worker.wait(60) == -signal.SIGTERM
    assert neighbour.poll() is None


def test_one_that_does_not_stop_is_named_and_killed_only_when_told_to(tmp_path: Path, start: Any) -> None:
    worker = start(STUBBORN)
    path = noted(tmp_path, worker)
    assert stop("--pid-file", path, "--limit", "0.2") == (1, {"found": [worker.pid], "running": [worker.pid]})
    assert stop("--pid-file", path, "--limit", "0.2", "--kill")[0] == 0
    assert worker.wait(60) == -signal.SIGKILL


def test_a_number_that_another_program_has_now_is_left_alone(tmp_path: Path, start: Any) -> None:
    newcomer = start(OBEDIENT)
    path = noted(tmp_path, newcomer)
    os.utime(path, (1_000_000_000, 1_000_000_000))  # written long before this process was born
    assert stop("--pid-file", path) == (0, {"found": [], "running": []})
    assert newcomer.poll() is None


@pytest.mark.parametrize("text", ["", "worker", "1", "-5", "this process"])
def test_a_file_that_names_no_worker_stops_nothing(tmp_path: Path, text: str) -> None:
    path = tmp_path / "worker.pid"
    path.write_text(text.replace("this process", str(os.getpid())))
    assert stop("--pid-file", str(path))[0] == 2
