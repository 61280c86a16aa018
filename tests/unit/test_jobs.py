"""The parts that a stock RQ worker's jobs work with: wired once, and never shared once they were used."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from app import jobs

In = Callable[[int], None]


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> In:
    """Goes on in the process with this number and all that is in memory: as after a fork."""
    monkeypatch.setattr(jobs, "build_system", lambda _config: object())
    monkeypatch.setattr(jobs, "_system", None)
    monkeypatch.setattr(jobs, "_user", 0)
    return lambda pid: monkeypatch.setattr(os, "getpid", lambda: pid)


def test_a_job_uses_what_its_worker_has_wired(in_process: In) -> None:
    jobs.prepare()
    wired = jobs._system
    in_process(101)
    assert jobs._own_system() is wired
    assert jobs._own_system() is wired


def test_a_process_forked_from_one_that_has_used_its_parts_wires_its_own(in_process: In) -> None:
    in_process(100)
    of_worker = jobs._own_system()
    in_process(101)
    of_job = jobs._own_system()
    assert of_job is not of_worker
    assert jobs._own_system() is of_job
