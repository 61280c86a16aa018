"""A handler that reports progress while its own transaction is open."""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import text

from app.tasks.database import SQLITE_BUSY_SECONDS
from app.tasks.handlers import HandlerRegistry, TaskContext
from app.tasks.model import Status
from app.tasks.runner import LiveTask, Runner, boot_clock
from app.tasks.settings import CoreSettings
from tests.contract.parts import MakeStore, handler
from tests.contract.rows import Rows


def test_progress_beside_the_handlers_own_writes_waits_for_no_lock_and_is_kept(
    rows: Rows, make_store: MakeStore
) -> None:
    store = make_store(rows)
    task_id = rows.put("QUEUED")
    claim = store.claims.queued(holder="w", limit=1, lease_seconds=60)[0]

    def work(payload: Any, context: TaskContext) -> None:
        context.connection.execute(text("INSERT INTO effects (task_id) VALUES (:id)"), {"id": task_id})
        context.progress(40, "half way and more")

    runner = Runner(store, HandlerRegistry([handler("test.noop", work)]), CoreSettings())
    began = time.monotonic()
    settled = runner.run(LiveTask(claim, store, lease_ends=boot_clock() + 60))
    assert time.monotonic() - began < SQLITE_BUSY_SECONDS
    assert settled is not None
    assert settled.recorded == {task_id: Status.COMPLETED}
    row = rows.row(task_id)
    assert (row["status"], row["progress_step"]) == ("COMPLETED", "half way and more")
    assert rows.effects() == [task_id]
