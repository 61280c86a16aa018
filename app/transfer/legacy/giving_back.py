"""The rollback of an import: tasks that never started become queued legacy rows again, by id.

What runs goes on, and what has run stays ours: it writes back when it ends. Named rows stay as they are.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from app.tasks.queue import TaskQueue
from app.transfer.errors import Incomplete, NotPossible
from app.transfer.legacy.beginning import open_imports
from app.transfer.records import TransferRecords

BATCH_ROWS = 500
REST_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class GivenBack:
    """What a rollback of an import came to. `aborted`: imports that were under way."""

    rows: int
    aborted: tuple[int, ...]


def give_back(
    queue: TaskQueue,
    source: str,
    *,
    patience_seconds: float = 60.0,
    watcher: Callable[[int], None] = lambda rows: None,
) -> GivenBack:
    """Give all rows back whose tasks never started; an import of the source that is under way is aborted.

    `watcher` is told the number after each batch. Raises `NotPossible` for a source that was never
    imported, `Incomplete` if tasks stay locked, and `DatabaseUnavailable`: what was given back stays so.
    """
    store = queue.store
    if store.imports.source(source) is None:
        raise NotPossible(f"nothing was ever imported from {source}")
    aborted = _abort_imports(queue, source)
    while store.write_backs.queue_staged(source, limit=BATCH_ROWS):
        pass
    rows, last_progress = 0, time.monotonic()
    while True:
        given = store.write_backs.give_back(source, limit=BATCH_ROWS)
        rows += len(given)
        watcher(rows)
        if given:
            last_progress = time.monotonic()
            continue
        left = store.imports.count_never_started(source)
        store.write_backs.deliver()
        untold = store.ends.count(source)
        if not left and not untold:
            return GivenBack(rows, aborted)
        if time.monotonic() - last_progress > patience_seconds:
            raise Incomplete(
                f"{left} tasks of {source} stay locked by somebody else, {untold} rows are still to be told:"
                " the sweeper tells them once their database answers"
            )
        time.sleep(REST_SECONDS)


def _abort_imports(queue: TaskQueue, source: str) -> tuple[int, ...]:
    """A batch that is being marked holds its routing row, and the abort waits for it."""
    records = TransferRecords(queue.store.database)
    ended = [
        one.transfer_id
        for one in open_imports(queue, source)
        if records.abort(one.transfer_id, reason="its rows are being given back")
    ]
    if ended:
        queue.waking.rules_changed()
    return tuple(ended)
