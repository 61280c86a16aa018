"""From what is to recur to a checked definition: everything that needs no database."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from app.tasks.errors import FieldProblem, InvalidTask, UnknownTaskName
from app.tasks.model import NewTask, Overlap, Priority, Schedule
from app.tasks.recurrence import LONGEST_INTERVAL_SECONDS, Recurrence, cron_problem, time_zone_problem
from app.tasks.submission import RequestCheck, TaskRequest

NAME_CHARACTERS = 80

_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{NAME_CHARACTERS - 1}}}")


@dataclass(frozen=True, slots=True)
class ScheduleRequest:
    """What is to run again and again: `task` by `cron` in `time_zone`, or every `interval_seconds`.

    What is None takes the default of a submission. `overlap` says what becomes of a run whose predecessor has
    not ended: "skip" or "allow"."""

    name: str
    task: str
    cron: str | None = None
    interval_seconds: int | None = None
    time_zone: str = "UTC"
    payload: Any = None
    priority: Priority | str | None = None
    user_id: str | None = None
    max_retries: int | None = None
    timeout_seconds: int | None = None
    overlap: Overlap | str = Overlap.SKIP
    enabled: bool = True

    @property
    def recurrence(self) -> Recurrence:
        return Recurrence(self.cron, self.interval_seconds, self.time_zone)

    @classmethod
    def of(cls, schedule: Schedule) -> ScheduleRequest:
        """The request that would make this schedule."""
        columns = columns_of(schedule) | {"payload": json.loads(schedule.payload)}
        return cls(name=schedule.name, **columns)


class ScheduleCheck:
    """Turns requests into the columns of a definition, or raises `InvalidTask` naming every wrong field."""

    def __init__(self, check_task: RequestCheck) -> None:
        self._check_task = check_task

    def __call__(self, request: ScheduleRequest) -> dict[str, Any]:
        """The columns of a definition. Raises `InvalidTask` naming each wrong field, `UnknownTaskName`."""
        problems = [*_name_problems(request), *_recurrence_problems(request)]
        if request.overlap not in tuple(Overlap):
            problems.append(FieldProblem("overlap", "must be skip or allow"))
        new = self._checked_task(request, problems)
        return {
            "task": new.name,
            "cron": request.cron,
            "interval_seconds": request.interval_seconds,
            "time_zone": request.time_zone,
            "payload": new.payload,
            "priority": new.priority,
            "user_id": new.user_id,
            "max_retries": new.max_retries,
            "timeout_seconds": new.timeout_seconds,
            "overlap": str(request.overlap),
        }

    def _checked_task(self, request: ScheduleRequest, problems: list[FieldProblem]) -> NewTask:
        """The task that each run would be, with a task's own checks added to `problems`."""
        task = TaskRequest(
            name=request.task,
            payload=request.payload,
            priority=request.priority,
            user_id=request.user_id,
            max_retries=request.max_retries,
            timeout_seconds=request.timeout_seconds,
        )
        try:
            new = self._check_task(task)
        except UnknownTaskName:
            if problems:
                problems.append(FieldProblem("task", "names no registered handler"))
                raise InvalidTask(problems) from None
            raise UnknownTaskName(request.task, field="task") from None
        except InvalidTask as error:
            if not problems:
                raise
            raise InvalidTask([*problems, *error.problems]) from None
        if problems:
            raise InvalidTask(problems)
        return new


def _name_problems(request: ScheduleRequest) -> Iterator[FieldProblem]:
    if not isinstance(request.name, str) or not _NAME.fullmatch(request.name):
        words = f"must be 1 to {NAME_CHARACTERS} letters, digits, dots, dashes and underscores"
        yield FieldProblem("name", words)


def _recurrence_problems(request: ScheduleRequest) -> Iterator[FieldProblem]:
    cron, interval = request.cron, request.interval_seconds
    if (cron is None) == (interval is None):
        yield FieldProblem("cron", "give either cron or interval_seconds")
    if cron is not None and (problem := _text_problem(cron, cron_problem)):
        yield FieldProblem("cron", problem)
    whole = isinstance(interval, int) and not isinstance(interval, bool)
    if interval is not None and not (whole and 1 <= interval <= LONGEST_INTERVAL_SECONDS):
        words = f"must be a whole number from 1 to {LONGEST_INTERVAL_SECONDS}"
        yield FieldProblem("interval_seconds", words)
    if problem := _text_problem(request.time_zone, time_zone_problem):
        yield FieldProblem("time_zone", problem)


def _text_problem(value: Any, check: Callable[[str], str | None]) -> str | None:
    return check(value) if isinstance(value, str) else "must be text"


def columns_of(schedule: Schedule) -> dict[str, Any]:
    """The columns of the definition, as `ScheduleCheck` gives them."""
    rule = schedule.recurrence
    return {
        "task": schedule.task,
        "cron": rule.cron,
        "interval_seconds": rule.interval_seconds,
        "time_zone": rule.time_zone,
        "payload": schedule.payload,
        "priority": schedule.priority,
        "user_id": schedule.user_id,
        "max_retries": schedule.max_retries,
        "timeout_seconds": schedule.timeout_seconds,
        "overlap": str(schedule.overlap),
    }
