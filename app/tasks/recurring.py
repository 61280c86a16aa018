"""Schedules that the code declares: a decorator beside `@task`.

    @recurring(cron="0 6 * * *", time_zone="Europe/Berlin")
    @task("report.daily")
    def report(payload, context): ...

Each entrance brings them to the database when it starts; see `Schedules.sync`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from app.tasks.handlers import HandlerFunction, HandlerRegistry
from app.tasks.model import Overlap, Priority
from app.tasks.schedule_requests import ScheduleRequest

_declared: list[tuple[HandlerFunction, str | None, dict[str, Any]]] = []


def recurring(
    *,
    cron: str | None = None,
    interval_seconds: int | None = None,
    name: str | None = None,
    time_zone: str = "UTC",
    payload: Any = None,
    priority: Priority | str | None = None,
    user_id: str | None = None,
    max_retries: int | None = None,
    timeout_seconds: int | None = None,
    overlap: Overlap | str = Overlap.SKIP,
    enabled: bool = True,
) -> Callable[[HandlerFunction], HandlerFunction]:
    """Run a handler again and again: by a cron expression in a time zone, or every so many seconds.

    Stands above or below `@task`, once per schedule. `name` is the task's name unless given; a handler with
    two schedules names them. Runs that were missed while the system was down are made up for by one.
    `enabled=False` keeps the declaration and plans no run.
    """
    rules = {
        "cron": cron,
        "interval_seconds": interval_seconds,
        "time_zone": time_zone,
        "payload": payload,
        "priority": priority,
        "user_id": user_id,
        "max_retries": max_retries,
        "timeout_seconds": timeout_seconds,
        "overlap": overlap,
        "enabled": enabled,
    }

    def declare(function: HandlerFunction) -> HandlerFunction:
        _declared.append((function, name, rules))
        return function

    return declare


def declared_schedules(handlers: HandlerRegistry) -> tuple[ScheduleRequest, ...]:
    """The declared schedules of these handlers. Raises `ValueError` for two of one name."""
    task_of = {handler.function: handler.name for handler in handlers.values()}
    found: dict[str, ScheduleRequest] = {}
    for function, name, rules in _declared:
        task = task_of.get(function)
        if task is None:  # its module is not among those whose handlers may run, or was loaded anew
            continue
        request = ScheduleRequest(name=name or task, task=task, **rules)
        if request.name in found:
            raise ValueError(f"two schedules are named {request.name!r}: give one of them another name")
        found[request.name] = request
    return tuple(found.values())
