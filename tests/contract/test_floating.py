"""The float: what many async handlers at a time cost the database."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.system import System, build_system
from app.tasks.handlers import HandlerRegistry, TaskContext
from app.tasks.runner import LiveTask, Runner, boot_clock
from config import Config
from tests.contract.parts import counted, handler
from tests.contract.rows import Rows
from tests.waiting import wait_until
from workers.floating import Float
from workers.page import Page

COUNT = 20
FAR = 3600.0


async def _waits_half_way(payload: Any, context: TaskContext) -> None:
    context.progress(50, f"task {context.task_id}")
    await asyncio.sleep(FAR)


@pytest.fixture
def system(rows: Rows, tmp_path: Path) -> Iterator[System]:
    config = Config.for_tests(DATABASE_URL=rows.url, VAR_DIR=str(tmp_path), RQ_ENABLED=False)
    made = build_system(config)
    made.store.routing.ensure(redis_percent=0)
    handlers = HandlerRegistry([handler("test.noop", _waits_half_way)])
    yield replace(made, handlers=handlers)
    made.close()


def test_the_progress_of_all_running_handlers_is_one_statement(system: System, rows: Rows) -> None:
    rows.put("QUEUED", count=COUNT)
    claims = system.store.claims.queued(holder="w", limit=COUNT, lease_seconds=FAR)
    runner = Runner(system.store, system.handlers, system.settings)
    floating = Float(system, runner, page=Page.anonymous(), record=lambda *_: None, limit=COUNT)
    lives = [LiveTask(claim, system.store, lease_ends=boot_clock() + FAR) for claim in claims]
    for live in lives:
        floating.launch(live)
    wait_until(
        lambda: all(live.progress_changed for live in lives), deadline_seconds=60, what="all to report"
    )
    with counted(system.store.database) as seen:
        floating._carry()
    assert seen["statements"] <= 2, "one that writes, one that asks for cancels"
    for claim in claims:
        row = rows.row(claim.task_id)
        assert (row["progress_percent"], row["progress_step"]) == (50, f"task {claim.task_id}")
    floating._release_all()
    wait_until(lambda: not floating._running, deadline_seconds=60, what="all to be given back")
    floating._settle()
    assert not floating.in_use
    assert rows.count("QUEUED") == COUNT
