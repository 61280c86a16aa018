"""From what a caller wants to a checked `NewTask`: everything that needs no database."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import structlog

from app.tasks.errors import FieldProblem, InvalidTask, PayloadTooLarge, UnknownPriority
from app.tasks.handlers import HandlerRegistry
from app.tasks.ids import IdSource
from app.tasks.model import NewTask, Priority
from app.tasks.settings import CoreSettings

KEY_CHARACTERS = 128
RETRIES_LIMIT = 1000
TIMEOUT_LIMIT_SECONDS = 7 * 86_400

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class TaskRequest:
    """What a caller asks for. `payload` is anything JSON can hold; `run_at` is aware."""

    name: str
    payload: Any = None
    priority: Priority | str | None = None
    user_id: str | None = None
    run_at: datetime | None = None
    idempotency_key: str | None = None
    max_retries: int | None = None
    timeout_seconds: int | None = None


class RequestCheck:
    """Turns requests into new tasks, or raises `InvalidTask` (or a subclass) naming every wrong field."""

    def __init__(
        self, handlers: HandlerRegistry, settings: CoreSettings, ids: IdSource, now: Callable[[], datetime]
    ) -> None:
        self._handlers = handlers
        self._settings = settings
        self._ids = ids
        self._now = now

    def __call__(self, request: TaskRequest) -> NewTask:
        handler = self._handlers[request.name]
        payload = request.payload if request.payload is not None else {}
        text = self._payload_text(payload)
        handler.parse(payload)
        problems = [*_key_problems(request), *_number_problems(request)]
        if problems:
            raise InvalidTask(problems)
        run_at = request.run_at
        if run_at is not None and run_at <= self._now():
            run_at = None
        return NewTask(
            task_id=self._ids.next(),
            name=request.name,
            payload=text,
            priority=self._priority(request.priority),
            user_id=request.user_id,
            run_at=run_at.astimezone(UTC) if run_at else None,
            idempotency_key=request.idempotency_key,
            max_retries=request.max_retries,
            timeout_seconds=request.timeout_seconds,
        )

    def _payload_text(self, payload: Any) -> str:
        try:
            text = json.dumps(payload, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
            size = len(text.encode())
        except (TypeError, ValueError, RecursionError) as error:
            reason = f"cannot be written as JSON: {error}"[:200]
            raise InvalidTask([FieldProblem("payload", reason)]) from None
        if size > self._settings.payload_limit_bytes:
            raise PayloadTooLarge(size_bytes=size, limit_bytes=self._settings.payload_limit_bytes)
        return text

    def _priority(self, value: Priority | str | None) -> Priority:
        if value is None:
            return Priority.NORMAL
        try:
            return Priority(value)
        except ValueError:
            fallback = self._settings.priority_fallback
            if fallback is None:
                raise UnknownPriority(value) from None
            log.warning("task.priority_replaced", given=str(value)[:40], used=fallback.value)
            return fallback


def _key_problems(request: TaskRequest) -> list[FieldProblem]:
    problems = []
    keys: Mapping[str, Any] = {"user_id": request.user_id, "idempotency_key": request.idempotency_key}
    for field, value in keys.items():
        if value is None:
            continue
        if not isinstance(value, str) or not value or len(value) > KEY_CHARACTERS or not value.isprintable():
            problems.append(FieldProblem(field, f"must be 1 to {KEY_CHARACTERS} printable characters"))
    return problems


def _number_problems(request: TaskRequest) -> list[FieldProblem]:
    problems = []
    if request.run_at is not None and request.run_at.tzinfo is None:
        problems.append(FieldProblem("run_at", "needs a time zone, for example 2026-01-31T08:00:00Z"))
    for field, value, low, high in (
        ("max_retries", request.max_retries, 0, RETRIES_LIMIT),
        ("timeout_seconds", request.timeout_seconds, 1, TIMEOUT_LIMIT_SECONDS),
    ):
        if value is not None and not low <= value <= high:
            problems.append(FieldProblem(field, f"must be {low} to {high}"))
    return problems
