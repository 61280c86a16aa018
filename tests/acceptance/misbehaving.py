"""Handlers that do to their worker what handlers do in bad nights. Loaded by TASK_MODULES in tests only.

Each writes its start into the ledger file of its payload first: "id attempt pid".
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import re
import subprocess
import time
from typing import Any

from app.tasks.handlers import TaskContext, task


def _start(payload: dict[str, Any], context: TaskContext) -> None:
    with open(payload["path"], "a", encoding="utf-8") as ledger:
        ledger.write(f"{context.task_id} {context.attempt} {os.getpid()}\n")


@task("bad.fine", retry_base_seconds=0.2)
def fine(payload: dict[str, Any], context: TaskContext) -> str:
    """The neighbour: does nothing wrong."""
    _start(payload, context)
    return "fine"


@task("bad.deaf", retry_base_seconds=0.2)
def deaf(payload: dict[str, Any], context: TaskContext) -> None:
    """Swallows its time limit and every cancel; idles, for the others on this machine."""
    _start(payload, context)
    while True:
        with contextlib.suppress(Exception):
            time.sleep(0.05)


@task("bad.c_code", retry_base_seconds=0.2)
def c_code(payload: dict[str, Any], context: TaskContext) -> None:
    """C code that keeps the interpreter's lock and looks at no signal; with `once`, in the first run."""
    _start(payload, context)
    if not (payload.get("once") and context.failures):
        any(itertools.repeat(False))


@task("bad.regex", retry_base_seconds=0.2)
def regex(payload: dict[str, Any], context: TaskContext) -> None:
    """C code that keeps the interpreter's lock for hours, and looks at signals."""
    _start(payload, context)
    re.match(r"(a+)+$", "a" * 60 + "b")


@task("bad.exit", retry_base_seconds=0.2)
def leave(payload: dict[str, Any], context: TaskContext) -> None:
    _start(payload, context)
    os._exit(3)


@task("bad.segfault", retry_base_seconds=0.2)
def segfault(payload: dict[str, Any], context: TaskContext) -> None:
    _start(payload, context)
    ctypes.string_at(0)


@task("bad.memory", retry_base_seconds=0.2)
def memory(payload: dict[str, Any], context: TaskContext) -> None:
    """Takes up to a gigabyte, slowly enough to be seen, and holds it."""
    _start(payload, context)
    hoard = []
    for _ in range(256):
        hoard.append(bytearray(os.urandom(1)) * (4 * 2**20))
        time.sleep(0.01)
    time.sleep(60)


@task("bad.killed", retry_base_seconds=0.2)
def killed(payload: dict[str, Any], context: TaskContext) -> str:
    """Dies as by somebody else's kill -9, the first time."""
    _start(payload, context)
    if context.failures == 0:
        os.kill(os.getpid(), 9)
    return "the second time"


@task("fork.fine", retry_base_seconds=0.2, isolation="fork")
def fine_alone(payload: dict[str, Any], context: TaskContext) -> dict[str, Any]:
    """Nothing wrong, and a large result."""
    _start(payload, context)
    context.progress(40, "nearly")
    return {"pid": os.getpid(), "padding": "x" * payload["size"]}


@task("fork.connection", isolation="fork")
def connection(payload: dict[str, Any], context: TaskContext) -> Any:
    """Asks for what a run in a process of its own has not."""
    return context.connection


@task("fork.family", isolation="fork")
def family(payload: dict[str, Any], context: TaskContext) -> None:
    """Starts a process of its own, and does not hear."""
    subprocess.Popen(["sleep", "600"])
    deaf(payload, context)


for culprit in (deaf, c_code, regex, leave, segfault, memory):
    name = {"leave": "exit"}.get(culprit.__name__, culprit.__name__)
    task(f"fork.{name}", retry_base_seconds=0.2, isolation="fork")(culprit)
