"""Test tasks: they do nothing, are known by their idempotency key, and can be removed again."""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from app.system import System
from app.tasks.model import ENDED, PRIORITIES, Priority, Status, Submitted
from app.tasks.submission import TaskRequest

KEY = "test-tasks:"
NAME = "test.noop"
BATCH = 500
LOOK_SECONDS = 0.1


def new_run() -> str:
    """What the keys of one run begin with; no other run has it."""
    return f"{KEY}{secrets.token_hex(4)}:"


def trial(run: str, number: int, priority: Priority = Priority.NORMAL) -> TaskRequest:
    return TaskRequest(NAME, {}, priority=priority, idempotency_key=f"{run}{priority.value}:{number}")


@dataclass(frozen=True, slots=True)
class Followed:
    """Test tasks of every priority, followed to their end: where they began, and what did not complete.
    `gone`: accepted, and no longer there."""

    first_statuses: dict[str, int]
    refused: list[str]
    completed: int
    not_completed: Mapping[int, Status]

    @property
    def accepted(self) -> int:
        return sum(self.first_statuses.values())

    @property
    def gone(self) -> int:
        return self.accepted - self.completed - len(self.not_completed)

    @property
    def good(self) -> bool:
        return not self.refused and self.completed == self.accepted


def follow(
    system: System, per_priority: int, *, limit_seconds: float, on_look: Callable[[], None] = lambda: None
) -> Followed:
    """Submit so many tasks of each priority and wait until all have ended, or for `limit_seconds`.

    Raises `DatabaseUnavailable`, and whatever `on_look` raises at one of the looks.
    """
    run = new_run()
    answers = system.queue.submit_many(
        trial(run, number, priority) for priority in PRIORITIES for number in range(per_priority)
    )
    tracks = Counter(answer.status.value for answer in answers if isinstance(answer, Submitted))
    refused = [str(answer) for answer in answers if not isinstance(answer, Submitted)]
    states = wait_for_ends(system, run, limit_seconds=limit_seconds, on_look=on_look)
    left = {task_id: status for task_id, status in states.items() if status is not Status.COMPLETED}
    return Followed(dict(tracks), refused, len(states) - len(left), left)


def wait_for_ends(
    system: System, run: str, *, limit_seconds: float, on_look: Callable[[], None] = lambda: None
) -> dict[int, Status]:
    """The tasks of a run once all have ended, or as they are when the time is over."""
    until = time.monotonic() + limit_seconds
    while True:
        states = system.store.queries.keyed(run)
        on_look()
        if all(status in ENDED for status in states.values()) or time.monotonic() >= until:
            return states
        time.sleep(LOOK_SECONDS)


@dataclass(frozen=True, slots=True)
class Removed:
    cancelled: int
    deleted: int
    left: int  # they run at the moment


def remove(system: System) -> Removed:
    """Remove the test tasks of all runs: cancel what waits, then delete what has ended."""
    cancelled, deleted = 0, _purged(system)
    while stale := system.store.moves.cancel_keyed(KEY, limit=BATCH):
        cancelled += len(stale)
        for priority in PRIORITIES:
            system.queue.withdraw([ticket for ticket in stale if ticket.priority is priority])
        deleted += _purged(system)
    return Removed(cancelled, deleted, len(system.store.queries.keyed(KEY)))


def _purged(system: System) -> int:
    deleted = 0
    while gone := system.store.moves.purge_keyed(KEY, limit=BATCH):
        deleted += gone
    return deleted
