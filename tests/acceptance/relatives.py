"""A parent and its children, who tell when they begin and end. Loaded by TASK_MODULES in tests only.

Each line of the ledger file in the payload is "id attempt pid what name".
"""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import Any

from app.distributed.fan_out import fan_out, gather
from app.tasks.handlers import TaskContext, task

CHILDREN = 12
FAILS_ONCE, HANGS_ONCE = "child 4", "child 6"
NAMES = [f"child {number}" for number in range(CHILDREN)]


def _tell(payload: dict[str, Any], context: TaskContext, what: str) -> None:
    with open(payload["path"], "a", encoding="utf-8") as ledger:
        ledger.write(f"{context.task_id} {context.attempt} {os.getpid()} {what} {payload.get('name', '')}\n")


@task("relatives.parent", retry_base_seconds=0.2)
def parent(payload: dict[str, Any], context: TaskContext) -> dict[str, Any]:
    """Children with a tag, then a last one."""
    _tell(payload, context, "parent")
    payloads = {name: payload | {"name": name} for name in NAMES}
    found = gather(fan_out(context, "tables", "relatives.child", payloads, tag="database", max_retries=2))
    last = gather(fan_out(context, "cleanup", "relatives.child", {"last": payload | {"name": "last"}}))
    return {"tables": sorted(found.values()), "last": last["last"]}


@task("relatives.child", retry_base_seconds=0.2)
def child(payload: dict[str, Any], context: TaskContext) -> str:
    """One fails once; one hangs in its first run, until it is killed."""
    _tell(payload, context, "begin")
    if payload["name"] == HANGS_ONCE and not context.failures:
        time.sleep(600)
    time.sleep(0.05)
    _tell(payload, context, "end")
    if payload["name"] == FAILS_ONCE and not context.failures:
        raise ValueError("not the first time")
    return str(payload["name"])


@task("relatives.flow", retry_base_seconds=0.2)
def flow(payload: dict[str, Any], context: TaskContext) -> dict[str, Any]:
    """Children in one pool, a last one in another. Its first run that has the children hangs, until it is
    killed."""
    _tell(payload, context, "parent")
    payloads = {name: payload | {"name": name} for name in NAMES}
    tables = gather(fan_out(context, "tables", "relatives.child", payloads, pool="etl", max_retries=2))
    if not context.failures:
        _tell(payload, context, "hangs")
        time.sleep(600)
    last = {"last": payload | {"name": "last"}}
    cleanup = gather(fan_out(context, "cleanup", "relatives.child", last, pool="cleanup"))
    return {"tables": sorted(tables.values()), "last": cleanup["last"]}


@task("relatives.table", retry_base_seconds=0.2)
def table(payload: dict[str, Any], context: TaskContext) -> str:
    """Runs until the file `gate` is there."""
    _tell(payload, context, "begin")
    while not os.path.exists(payload["gate"]):
        time.sleep(0.02)
    _tell(payload, context, "end")
    return "copied"


@task("relatives.travellers")
def travellers(payload: dict[str, Any], context: TaskContext) -> dict[str, Any]:
    """As many tables as are asked for, over all hosts."""
    names = [f"table {number}" for number in range(payload["tables"])]
    payloads = {name: payload | {"name": name} for name in names}
    return gather(fan_out(context, "tables", "relatives.traveller", payloads))


@task("relatives.traveller")
def traveller(payload: dict[str, Any], context: TaskContext) -> str:
    """Ends once every host has begun a table: no host can have all the work."""
    host = socket.gethostname()
    _tell(payload, context, f"begin@{host}")
    begun = {f"begin@{name}" for name in payload["hosts"]}
    while not begun <= {what for _, what, _ in told(Path(payload["path"]))}:
        context.check_cancelled()
        time.sleep(0.02)
    return host


@task("relatives.host")
def host(payload: dict[str, Any], context: TaskContext) -> list[str]:
    """Two cleanups side by side."""
    left = fan_out(context, "cleanups", "relatives.guest", {"left": payload | {"name": "left"}})
    right = fan_out(context, "cleanups", "relatives.guest", {"right": payload | {"name": "right"}})
    return sorted((gather(left) | gather(right)).values())


@task("relatives.guest")
def guest(payload: dict[str, Any], context: TaskContext) -> str:
    """Ends once the other is there: it never does unless both run at the same time."""
    _tell(payload, context, "begin")
    while not {"left", "right"} <= _present(payload["path"]):
        context.check_cancelled()
        time.sleep(0.02)
    return str(payload["name"])


def _present(path: str) -> set[str]:
    with open(path, encoding="utf-8") as ledger:
        return {line.split()[-1] for line in ledger}


def told(ledger: Path) -> list[tuple[int, str, str]]:
    """(pid, what, name) of each line, for the tests."""
    lines = ledger.read_text().splitlines() if ledger.exists() else []
    parts = [line.split(" ", 4) for line in lines]
    return [(int(pid), what, name) for _, _, pid, what, name in parts]
