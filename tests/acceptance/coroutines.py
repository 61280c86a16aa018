"""Async handlers that tell how many of them run at once. Loaded by TASK_MODULES in tests only.

Each writes its start into the ledger file of its payload first: "id attempt pid".
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from app.tasks.handlers import TaskContext, task

_inside: set[int] = set()


@contextlib.contextmanager
def _counted(payload: dict[str, Any], context: TaskContext) -> Iterator[int]:
    """How many run in this process, this one included."""
    _inside.add(context.task_id)
    try:
        _write(payload, f"{context.task_id} {context.attempt} {os.getpid()}")
        yield len(_inside)
    finally:
        _inside.discard(context.task_id)


def _write(payload: dict[str, Any], line: str) -> None:
    with Path(payload["path"]).open("a", encoding="utf-8") as ledger:
        ledger.write(f"{line}\n")


@task("async.sleep", retry_base_seconds=0.2)
async def sleep(payload: dict[str, Any], context: TaskContext) -> dict[str, Any]:
    with _counted(payload, context) as inside:
        context.progress(50, "asleep")
        await asyncio.sleep(payload["seconds"])
        return {"inside": inside}


@task("async.long_first", retry_base_seconds=0.2)
async def long_first(payload: dict[str, Any], context: TaskContext) -> None:
    """Its first run does not end by itself while a test looks."""
    with _counted(payload, context):
        await asyncio.sleep(payload["seconds"] if context.failures == 0 else 0)


@task("async.park", on_lost="park")
async def park(payload: dict[str, Any], context: TaskContext) -> None:
    with _counted(payload, context):
        await asyncio.sleep(payload["seconds"])


@task("async.raise", retry_base_seconds=0.2)
async def raises(payload: dict[str, Any], context: TaskContext) -> str:
    with _counted(payload, context):
        await asyncio.sleep(0)
        if context.failures == 0:
            raise ValueError("the first run breaks")
        return "the second does not"


@task("async.tidy")
async def tidy(payload: dict[str, Any], context: TaskContext) -> None:
    """Cleans up for a while when it is cancelled, and leaves a note of it."""
    with _counted(payload, context):
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.8)  # longer than from one look for cancels to the next
            _write({"path": payload["note"]}, "tidied up")


@task("async.deaf")
async def deaf(payload: dict[str, Any], context: TaskContext) -> None:
    """Swallows every cancellation."""
    with _counted(payload, context):
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(60)


@task("async.block")
async def block(payload: dict[str, Any], context: TaskContext) -> None:
    """Holds up its loop, and all others on it."""
    with _counted(payload, context):
        time.sleep(60)


@task("async.connection")
async def connection(payload: dict[str, Any], context: TaskContext) -> None:
    with _counted(payload, context):
        context.connection.begin()


@task("async.forked", isolation="fork")
async def forked(payload: dict[str, Any], context: TaskContext) -> str:
    with _counted(payload, context):
        await asyncio.sleep(0)
        return "in a process of its own"


@task("async.cancels_itself")
async def cancels_itself(payload: dict[str, Any], context: TaskContext) -> None:
    with _counted(payload, context):
        raise asyncio.CancelledError
