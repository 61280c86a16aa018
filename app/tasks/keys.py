"""Idempotency keys that say what a task is: a run of a schedule, a record, a child. No submission has one."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

RUN_KEYS = "schedule:"
RECORD_KEYS = "record:"  # then the lane and the key that the record was given
CHILD_KEYS = "child:"  # then the parent's id, the phase and the child's name in it


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """One run of a schedule: which one, and for what time it was planned (aware UTC).

    It is the task's idempotency key, so that no planned time can have two tasks."""

    schedule: str
    planned_at: datetime

    @property
    def key(self) -> str:
        moment = self.planned_at.astimezone(UTC).isoformat().replace("+00:00", "Z")
        return f"{RUN_KEYS}{self.schedule}:{moment}"

    @classmethod
    def of_key(cls, key: str | None) -> PlannedRun | None:
        """The run that an idempotency key names; None for every other key."""
        if key is None or not key.startswith(RUN_KEYS):
            return None
        schedule, _, text = key.removeprefix(RUN_KEYS).partition(":")
        with suppress(ValueError):  # a key that somebody used before these were kept for schedules
            moment = datetime.fromisoformat(text)
            return cls(schedule, moment) if moment.tzinfo else None
        return None
