"""The handlers of `benchmarks.fan_out`: a run, and its tables, each of which takes as long as it is told."""

from __future__ import annotations

import time
from typing import Any

from app.distributed.fan_out import fan_out, gather
from app.tasks.handlers import TaskContext, task

RUN, TABLE, POOL, TAG = "bench.run", "bench.table", "bench", "bench"


@task(RUN)
def run(payload: dict[str, Any], context: TaskContext) -> int:
    """As many tables as are asked for, in a pool or with a tag if that is asked for."""
    tables = {f"table {number}": payload for number in range(payload["tables"])}
    return len(
        gather(fan_out(context, "tables", TABLE, tables, pool=payload["pool"], tag=payload.get("tag")))
    )


@task(TABLE)
def table(payload: dict[str, Any]) -> None:
    """Waits, as a copy waits for its databases."""
    time.sleep(payload["seconds"])
