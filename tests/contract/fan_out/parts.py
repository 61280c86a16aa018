"""A parent and its children in the database, and one hand that runs them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from app.distributed.fan_out import fan_out, gather
from app.tasks.handlers import DoNotRetry, HandlerRegistry, TaskContext
from app.tasks.model import Claim
from app.tasks.queue import TaskQueue
from app.tasks.runner import LiveTask, Runner, boot_clock
from app.tasks.settings import CoreSettings
from app.tasks.store import Store
from app.tasks.submission import TaskRequest
from tests.contract.parts import handler
from tests.contract.rows import Rows

Work = Callable[[Any, TaskContext], Any]
SPREAD = {f"table{number}": {"n": number} for number in range(4)}


class Place:
    """A store, and one hand that claims and runs what waits in the database."""

    def __init__(self, store: Store, rows: Rows, parent: Work, child: Work) -> None:
        self.store, self.rows = store, rows
        handlers = HandlerRegistry([handler("test.parent", parent), handler("test.child", child)])
        settings = CoreSettings(retry_base_seconds=0, max_retries=3)
        self.queue = TaskQueue(store, handlers, None, settings)
        self.families = self.queue.families
        self.runner = Runner(store, handlers, settings, families=self.families)

    def submit(self) -> int:
        return self.queue.submit(TaskRequest("test.parent")).task_id

    def claim(self, limit: int = 100) -> list[Claim]:
        return self.store.claims.queued(holder="one", limit=limit, lease_seconds=60)

    def live(self, claim: Claim) -> LiveTask:
        return LiveTask(claim, self.store, lease_ends=boot_clock() + 60)

    def work(self, limit: int = 100) -> int:
        """Run what waits now; returns how many tasks that were."""
        claims = self.claim(limit)
        for claim in claims:
            self.runner.run(self.live(claim))
        return len(claims)

    def work_off(self) -> None:
        """Run and sweep until nothing waits any more."""
        while self.work() or self.families.step():
            pass

    def children(self) -> dict[str, dict[str, Any]]:
        """The rows of all children, by name."""
        found = self.rows.execute("SELECT task_id, name FROM children ORDER BY task_id")
        return {row.name: self.rows.row(row.task_id) for row in found}

    def statuses(self) -> list[str]:
        return [row["status"] for row in self.children().values()]


MakePlace = Callable[..., Place]


def spread(payload: Any, context: TaskContext) -> Any:
    return gather(fan_out(context, "tables", "test.child", SPREAD))


def spread_tagged(payload: Any, context: TaskContext) -> Any:
    return gather(fan_out(context, "tables", "test.child", SPREAD, tag="database"))


def number(payload: Any, context: TaskContext) -> Any:
    return payload["n"]


def fails_at_two(payload: Any, context: TaskContext) -> Any:
    if payload["n"] == 2:
        raise DoNotRetry("it has no such column")
    return payload["n"]
