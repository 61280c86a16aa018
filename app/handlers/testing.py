"""Handlers without a purpose of their own: for trying the system out, and for its tests.

`test.ledger` is the witness of the crash tests: it writes one line per start into a file, which no
table of ours can contradict.
"""

from __future__ import annotations

import os
import time
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from app.handlers.folders import locate, open_file
from app.handlers.settings import settings
from app.tasks.handlers import DoNotRetry, TaskContext, task

CANCEL_LOOK_SECONDS = 0.05
LEDGER_SUFFIXES = frozenset({"", ".txt", ".log", ".ledger"})

Seconds = Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)]


class PlannedFailure(Exception):
    """The failure that the payload asked for."""


class SleepPayload(BaseModel):
    model_config = ConfigDict(extra="forbid")

    seconds: Seconds = 1.0
    steps: int = Field(default=10, ge=1, le=10_000)


class FailPayload(BaseModel):
    """The first `times` runs fail with `message`; `permanent` forbids the retry."""

    model_config = ConfigDict(extra="forbid")

    times: int = Field(default=1, ge=0, le=1_000_000)
    message: str = Field(default="this failure was asked for", max_length=1000)
    permanent: bool = False


class LedgerPayload(BaseModel):
    model_config = ConfigDict(extra="forbid")

    path: str = Field(min_length=1, max_length=4096)
    fail_first: bool = False
    seconds: Seconds = 0.0


@task("test.noop")
def noop(payload: dict[str, Any]) -> None:
    """Do nothing."""


@task("test.echo", payload=Any)
def echo(payload: Any) -> Any:
    """Give the payload back."""
    return payload


@task("test.sleep", payload=SleepPayload)
def sleep(payload: SleepPayload, context: TaskContext) -> dict[str, Any]:
    """Sleep in equal steps, tell the progress after each, and stop within 0.1 s of a cancel."""
    for step in range(1, payload.steps + 1):
        _sleep(payload.seconds / payload.steps, context)
        context.progress(100 * step // payload.steps, f"step {step} of {payload.steps}")
    return {"slept_seconds": payload.seconds, "steps": payload.steps}


@task("test.fail", payload=FailPayload, retry_base_seconds=1.0)
def fail(payload: FailPayload, context: TaskContext) -> dict[str, Any]:
    """Fail the first attempts, then succeed."""
    if context.failures >= payload.times:
        return {"succeeded_at_attempt": context.attempt}
    if payload.permanent:
        raise DoNotRetry(payload.message)
    raise PlannedFailure(payload.message)


@task("test.ledger", payload=LedgerPayload, retry_base_seconds=0.5)
def ledger(payload: LedgerPayload, context: TaskContext) -> dict[str, Any]:
    """Append the line "task_id attempt pid" to a file below an allowed folder, then sleep, then fail
    if no run of this task has failed before and `fail_first` is set."""
    _append_line(payload.path, f"{context.task_id} {context.attempt} {os.getpid()}\n")
    _sleep(payload.seconds, context)
    if payload.fail_first and context.failures == 0:
        raise PlannedFailure("fail_first was asked for")
    return {"attempt": context.attempt, "pid": os.getpid()}


def _append_line(path: str, line: str) -> None:
    place = locate(path, settings().describe_folders)
    # A task must not be able to write into somebody's picture.
    if place.path.suffix.lower() not in LEDGER_SUFFIXES:
        raise DoNotRetry("path: a ledger's name must end in .ledger, .log or .txt, or have no ending")
    descriptor = open_file(place, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        # One write: with O_APPEND, lines of several processes never mix.
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def _sleep(seconds: float, context: TaskContext) -> None:
    end = time.monotonic() + seconds
    while True:
        context.check_cancelled()
        left = end - time.monotonic()
        if left <= 0:
            return
        time.sleep(min(left, CANCEL_LOOK_SECONDS))
