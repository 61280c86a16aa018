"""Fan-out: a handler stores other tasks as its children and goes on with what they bring.

    @task("main_etl")
    def main_etl(payload, context):
        tables = fan_out(context, "tables", "process_table_etl", {"orders": {...}, ...}, tag="database")
        counts = gather(tables)

While children are open, `gather` ends the run: the task waits without a worker, and once they have ended its
handler is called again from its top. So a handler may do before a `gather` only what may happen again; what
it fanned out is there, and what has ended is not repeated.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from app.tasks.families import Families
from app.tasks.handlers import ChildrenOpen, DoNotRetry, TaskCancelled, TaskContext
from app.tasks.live_task import LiveTask
from app.tasks.model import ACTIVE, Priority, Status
from app.tasks.schema import AnyRow

NAMED = 10


class ChildrenFailed(DoNotRetry):
    """Some children did not complete; `failed` says of each why. Their parent fails, and is not retried by
    itself: an operator's retry lets these children run again, and the parent after them."""

    def __init__(self, failed: Mapping[str, Undone]) -> None:
        self.failed = dict(failed)
        told = "; ".join(f"{name}: {undone.error}" for name, undone in list(failed.items())[:NAMED])
        super().__init__(f"{len(failed)} of its children did not complete: {told}{_more(len(failed))}")


class ChildrenLate(DoNotRetry):
    """The time limit of a `gather` is over, and the `open` ones have not ended. They go on."""

    def __init__(self, names: Sequence[str], limit_seconds: float) -> None:
        self.open = list(names)
        told = ", ".join(self.open[:NAMED])
        super().__init__(f"after {limit_seconds:g} s these children were open: {told}{_more(len(self.open))}")


@dataclass(frozen=True, slots=True)
class Undone:
    """A child that has ended and has not completed."""

    status: Status
    error: str


@dataclass(frozen=True, slots=True)
class Children:
    """The children of one phase that a handler wants to hear of."""

    live: LiveTask
    phase: str
    names: tuple[str, ...]


def fan_out(
    context: TaskContext,
    phase: str,
    task_name: str,
    payloads: Mapping[str, Any],
    *,
    tag: str | None = None,
    max_retries: int | None = None,
    timeout_seconds: int | None = None,
    priority: Priority | str | None = None,
    pool: str | None = None,
) -> Children:
    """Store one child per payload, under its name in this phase, once: whatever is there from an earlier run
    of this task is left as it is, whatever its payload was.

    Children wait in the queue of `priority` (default: the parent's), or with a `pool` (default: their
    handler's) for its workers alone. Those with a `tag` start only while the tag's limit has a place. Raises
    `InvalidTask`, `DatabaseUnavailable`, `TaskCancelled` if the claim of this run is lost, and `RuntimeError`
    in an async handler, in one with isolation="fork", and once the handler has used `context.connection`.
    """
    live, families = _own(context)
    if live.has_connection:
        raise RuntimeError("fan out before context.connection is used: its writes are rolled back by a wait")
    stored = families.fan_out(
        live.claim,
        phase,
        task_name,
        payloads,
        tag=tag,
        max_retries=max_retries,
        timeout_seconds=timeout_seconds,
        priority=priority,
        pool=pool,
    )
    if not stored:
        raise TaskCancelled("its claim was lost")
    return Children(live, phase, tuple(payloads))


def gather(children: Children, *, fail: str = "fail", limit_seconds: float | None = None) -> dict[str, Any]:
    """What each child returned, by name, once all children of this task have ended.

    Until then it raises `ChildrenOpen`, which is no error: let it pass. A child that did not complete makes
    it raise `ChildrenFailed`; with `fail="continue"` it is in the answer as an `Undone`. `limit_seconds`
    counts from the birth of the first of these children: after that, `ChildrenLate` names the open ones. What
    the handler wrote through `context.connection` before a wait is rolled back.
    """
    if fail not in ("fail", "continue"):
        raise ValueError(f"fail is {fail!r}; it may be 'fail' or 'continue'")
    live = children.live
    assert live.families is not None
    wanted = set(children.names)
    rows = [row for row in live.families.of_phase(live.claim, children.phase) if row.name in wanted]
    still_open = [row.name for row in rows if row.status in ACTIVE]
    if still_open:
        _wait(live, live.families, rows, still_open, limit_seconds)
    found = {row.name: _brought(row) for row in rows}
    failed = {name: one for name, one in found.items() if isinstance(one, Undone)}
    if failed and fail == "fail":
        raise ChildrenFailed(failed)
    return {name: found[name] for name in children.names}


def _wait(
    live: LiveTask, families: Families, rows: Sequence[AnyRow], still_open: Sequence[str], limit: float | None
) -> None:
    if limit is not None:
        deadline = min(row.created_at for row in rows) + timedelta(seconds=limit)
        if rows[0].now >= deadline:
            raise ChildrenLate(still_open, limit)
        live.undo_writes()  # as the wait will; until then nobody else could write into SQLite
        families.set_deadline(live.claim, deadline)
    raise ChildrenOpen


def _brought(row: AnyRow) -> Any:
    if row.status is Status.COMPLETED:
        return json.loads(row.result)
    return Undone(row.status, row.error or row.status.value.lower())


def _own(context: TaskContext) -> tuple[LiveTask, Families]:
    live = context.backend
    if not isinstance(live, LiveTask) or live.families is None:
        raise RuntimeError("only a handler that runs in a worker's own process can have children")
    if live.has_loop:
        raise RuntimeError("an async handler has no children: its statements would hold up its loop")
    return live, live.families


def _more(count: int) -> str:
    return f" and {count - NAMED} more" if count > NAMED else ""
