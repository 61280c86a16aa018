"""The soak's tasks: each writes its starts and ends into a ledger that no table of ours can contradict."""

from __future__ import annotations

import contextlib
import ctypes
import os
import time
from typing import Any

from pydantic import BaseModel, Field
from sqlalchemy import text

from app.tasks.handlers import TaskContext, task
from tests.soak import ledger
from tests.soak.points import passing


class Load(BaseModel):
    """How long the task takes; the note is there to be carried along as it is."""

    seconds: float = Field(default=0.0, ge=0, le=60)
    note: str = ""


class SoakFailure(Exception):
    """A failure that belongs to the load."""


@task("soak.works", payload=Load)
def works(payload: Load, context: TaskContext) -> dict[str, Any]:
    """Succeed."""
    return _run(payload, context)


@task("soak.writes", payload=Load)
def writes(payload: Load, context: TaskContext) -> dict[str, Any]:
    """Write one row that commits with the task's end."""
    statement = text("INSERT INTO soak_effects (task_id, attempt) VALUES (:id, :attempt)")
    context.connection.execute(statement, {"id": context.task_id, "attempt": context.attempt})
    return _run(payload, context)


@task("soak.fails_once", payload=Load, retry_base_seconds=0.0)
def fails_once(payload: Load, context: TaskContext) -> dict[str, Any]:
    """Fail the first time; the retry waits at once, and its ticket is the worker's to push."""
    return _run(payload, context, fail=context.failures == 0)


@task("soak.fails_later", payload=Load, retry_base_seconds=0.2)
def fails_later(payload: Load, context: TaskContext) -> dict[str, Any]:
    """Fail the first time; the retry is scheduled, and on its way by the sweeper."""
    return _run(payload, context, fail=context.failures == 0)


@task("soak.fails", payload=Load, max_retries=0)
def fails(payload: Load, context: TaskContext) -> dict[str, Any]:
    """Fail."""
    return _run(payload, context, fail=True)


@task("soak.parks", payload=Load, on_lost="park")
def parks(payload: Load, context: TaskContext) -> dict[str, Any]:
    """Succeed; must not run again by itself when it was started and lost."""
    return _run(payload, context)


def _run(payload: Load, context: TaskContext, *, fail: bool = False) -> dict[str, Any]:
    passing("run.first")
    _write("S", context)
    if payload.seconds:
        time.sleep(payload.seconds)
    passing("run.middle")
    if fail:
        raise SoakFailure("part of the load")
    _write("E", context)
    passing("run.last")
    return {"attempt": context.attempt, "pid": os.getpid()}


def _write(word: str, context: TaskContext) -> None:
    ledger.write(word, context.task_id, context.attempt)


# --- what handlers do in bad nights; each may run once ------------------------------------------------------


@task("soak.hangs", payload=Load, max_retries=0, timeout_seconds=1)
def hangs(payload: Load, context: TaskContext) -> None:
    """Never return, and heed no time limit; idle, for the others on this machine."""
    _write("S", context)
    while True:
        with contextlib.suppress(BaseException):
            time.sleep(0.05)


@task("soak.eats", payload=Load, max_retries=0)
def eats(payload: Load, context: TaskContext) -> None:
    """Take more and more memory, slowly enough to be seen, and hold it."""
    _write("S", context)
    hoard = []
    while True:
        hoard.append(bytearray(b"\x01") * (4 * 2**20))
        time.sleep(0.005)


@task("soak.exits", payload=Load, max_retries=0)
def exits(payload: Load, context: TaskContext) -> None:
    """Leave by the back door."""
    _write("S", context)
    os._exit(3)


@task("soak.segfaults", payload=Load, max_retries=0)
def segfaults(payload: Load, context: TaskContext) -> None:
    """Crash the interpreter."""
    _write("S", context)
    ctypes.string_at(0)
