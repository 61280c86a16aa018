"""The bodies that the task API takes, as shapes. Types are strict: "3" is no number, 1 is no flag."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

BATCH_LIMIT = 1000


def _moment(value: object) -> datetime | None:
    if value is None:
        return None
    if isinstance(value, str):
        with suppress(ValueError, OverflowError):
            moment = datetime.fromisoformat(value)
            if moment.tzinfo is not None:
                return moment.astimezone(UTC)
    raise ValueError("must be an ISO 8601 time with its zone, for example 2026-01-31T08:00:00Z")


Moment = Annotated[datetime | None, BeforeValidator(_moment)]


class RequestBody(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)


class TaskBody(RequestBody):
    """`POST /api/tasks`. What is None takes the default of the handler, the priority or the settings."""

    name: Annotated[str, Field(min_length=1, max_length=100)]
    payload: Any = None
    priority: str | None = None
    user_id: str | None = None
    run_at: Moment = None
    idempotency_key: str | None = None
    max_retries: int | None = None
    timeout_seconds: int | None = None


class BatchBody(RequestBody):
    """`POST /api/tasks/batch`. Each task is checked by itself, so that one mistake spoils one task."""

    tasks: Annotated[list[Any], Field(max_length=BATCH_LIMIT)]


class PriorityBody(RequestBody):
    """`PUT /api/tasks/{id}/priority`."""

    priority: str
