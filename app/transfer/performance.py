"""How fast submissions are taken and test tasks done, measured on the running system."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from app.system import System
from app.tasks.errors import TaskError
from app.tasks.model import ENDED, Status, Task
from app.tasks.store.queries import Filter
from app.tasks.submission import TaskRequest
from app.transfer import trials

SUBMISSIONS = 50
MEAN_LIMIT_SECONDS = 0.1
AT_ONCE = 20
LEAST_ACCEPTED = 18
READ_AT_ONCE = 500


def percentile(values: Sequence[float], percent: float) -> float | None:
    """The smallest value that so many percent of them do not exceed; None of nothing."""
    if not values:
        return None
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


@dataclass(frozen=True, slots=True)
class Performance:
    """What was measured, beside what is asked for."""

    submissions: int
    refused: int
    mean_seconds: float
    p95_seconds: float
    at_once: int
    accepted_at_once: int
    first_refusal: str | None

    @property
    def good(self) -> bool:
        return not self.shortfalls

    @property
    def shortfalls(self) -> list[str]:
        """What is missed, a sentence each."""
        found = []
        if self.refused:
            found.append(f"{self.refused} of {self.submissions} submissions were refused")
        if self.mean_seconds >= MEAN_LIMIT_SECONDS:
            found.append(f"a submission took {self.mean_seconds:.3f} s, the limit is {MEAN_LIMIT_SECONDS} s")
        if self.accepted_at_once < LEAST_ACCEPTED:
            found.append(f"{self.accepted_at_once} of {self.at_once} at once were accepted")
        return found


def validate(system: System) -> Performance:
    """50 submissions one after the other, then 20 at once. They are test tasks and can be removed.

    What cannot be submitted counts as refused, also while the database is away.
    """
    run = trials.new_run()
    one_by_one = [_timed(system, trials.trial(run, number)) for number in range(SUBMISSIONS)]
    with ThreadPoolExecutor(AT_ONCE) as crowd:
        requests = [trials.trial(f"{run}crowd:", number) for number in range(AT_ONCE)]
        at_once = list(crowd.map(lambda request: _timed(system, request), requests))
    seconds = [took for took, _ in one_by_one]
    refusals = [refusal for _, refusal in (*one_by_one, *at_once) if refusal]
    return Performance(
        submissions=SUBMISSIONS,
        refused=sum(refusal is not None for _, refusal in one_by_one),
        mean_seconds=sum(seconds) / len(seconds),
        p95_seconds=percentile(seconds, 95) or 0.0,
        at_once=AT_ONCE,
        accepted_at_once=sum(refusal is None for _, refusal in at_once),
        first_refusal=refusals[0] if refusals else None,
    )


def _timed(system: System, request: TaskRequest) -> tuple[float, str | None]:
    """How long the answer took, and why it was none."""
    began = time.monotonic()
    try:
        system.queue.submit(request)
    except TaskError as error:
        return time.monotonic() - began, str(error)
    return time.monotonic() - began, None


@dataclass(frozen=True, slots=True)
class Load:
    """A load test: how fast tasks were taken and ended. `lost`: accepted, and not completed in time."""

    tasks: int
    accepted: int
    refused: int
    completed: int
    lost: int
    submit_seconds: dict[str, float | None]
    end_seconds: dict[str, float | None]
    accepted_per_second: float
    completed_per_second: float


def load(
    system: System,
    *,
    tasks: int,
    concurrent: int,
    limit_seconds: float,
    on_step: Callable[[str, int], None] = lambda what, done: None,
) -> Load:
    """Submit `tasks` by so many callers at once, and follow each to its end. Raises `DatabaseUnavailable`."""
    run, began = trials.new_run(), time.monotonic()
    requests = [trials.trial(run, number) for number in range(tasks)]
    answers = []
    with ThreadPoolExecutor(concurrent) as callers:
        for answer in callers.map(lambda request: _timed(system, request), requests):
            answers.append(answer)
            on_step("submitted", len(answers))
    submitted_in = time.monotonic() - began
    states = trials.wait_for_ends(system, run, limit_seconds=limit_seconds)
    ended_in = time.monotonic() - began
    completed = [task_id for task_id, status in states.items() if status is Status.COMPLETED]
    accepted = sum(refusal is None for _, refusal in answers)
    return Load(
        tasks=tasks,
        accepted=accepted,
        refused=tasks - accepted,
        completed=len(completed),
        lost=accepted - len(completed),
        submit_seconds=_spread([took for took, refusal in answers if refusal is None]),
        end_seconds=_spread(spans(system, completed)),
        accepted_per_second=accepted / submitted_in,
        completed_per_second=len(completed) / ended_in,
    )


def _spread(values: Sequence[float]) -> dict[str, float | None]:
    wanted: dict[str, Any] = {f"p{percent}": percentile(values, percent) for percent in (50, 95, 99)}
    return wanted | {"most": max(values, default=None)}


def spans(system: System, task_ids: Sequence[int]) -> list[float]:
    """From the submission of these tasks to their end, in seconds; of those that have ended."""
    found: list[float] = []
    for start in range(0, len(task_ids), READ_AT_ONCE):
        ids = task_ids[start : start + READ_AT_ONCE]
        found += ages_at_end(system.store.queries.page(Filter(ids=ids), limit=READ_AT_ONCE))
    return found


def ages_at_end(tasks: Sequence[Task]) -> list[float]:
    """Of each ended task the seconds from its submission, or from its planned time, to its end."""
    return [
        max(0.0, (task.ended_at - (task.run_at or task.created_at)).total_seconds())
        for task in tasks
        if task.status in ENDED and task.ended_at is not None
    ]
