"""Schedules as the tests make them, and their rows by plain SQL."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from app.tasks.schedule_requests import ScheduleRequest
from tests.contract.rows import Rows


def wanted(name: str = "report", **fields: Any) -> ScheduleRequest:
    defaults: dict[str, Any] = {"task": "test.noop", "interval_seconds": 60, "payload": {"a": 1}}
    return ScheduleRequest(name=name, **(defaults | fields))


def make_due(rows: Rows, seconds_ago: float = 1, name: str = "report") -> datetime:
    """Let a schedule's next time be past; returns it."""
    moment = (datetime.now(UTC) - timedelta(seconds=seconds_ago)).replace(microsecond=0)
    text_of = moment.strftime("%Y-%m-%d %H:%M:%S.%f") + ("+00" if rows.kind == "postgresql" else "")
    rows.execute("UPDATE schedules SET next_run_at = :at WHERE name = :name", at=text_of, name=name)
    return moment


def row(rows: Rows, name: str = "report") -> dict[str, Any]:
    return dict(rows.execute("SELECT * FROM schedules WHERE name = :name", name=name)[0]._mapping)


def make_soon(rows: Rows, seconds: float) -> None:
    rows.execute("UPDATE schedules SET next_run_at = :at", at=rows.at(seconds))
