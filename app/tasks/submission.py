"""From what a caller wants to a checked `NewTask`: everything that needs no database, a pool's lane aside."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import structlog

from app.tasks.errors import FieldProblem, InvalidTask, PayloadTooLarge, UnknownPriority
from app.tasks.handlers import Handler, HandlerRegistry, write_json
from app.tasks.ids import IdSource
from app.tasks.keys import CHILD_KEYS, RECORD_KEYS, RUN_KEYS
from app.tasks.model import NewTask, Priority
from app.tasks.settings import CoreSettings
from app.tasks.sources import SOURCE_KEYS, is_imported

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
    pool: str | None = None  # None: the handler's, if it has one


class RequestCheck:
    """Turns requests into new tasks, or raises `InvalidTask` (or a subclass) naming every wrong field."""

    def __init__(
        self,
        handlers: HandlerRegistry,
        settings: CoreSettings,
        ids: IdSource,
        now: Callable[[], datetime],
        *,
        lane_of_pool: Callable[[str], int | None],
    ) -> None:
        self._lane_of_pool = lane_of_pool
        self._handlers = handlers
        self._settings = settings
        self._ids = ids
        self._now = now

    def __call__(self, request: TaskRequest) -> NewTask:
        handler = self._handlers[request.name]
        payload = request.payload if request.payload is not None else {}
        try:
            text = self._payload_text(handler, payload)
            priority = self._priority(request.priority)
        except InvalidTask:
            raise self._everything_wrong(handler, payload, request) from None
        if problems := _field_problems(request):
            raise InvalidTask(problems)
        run_at = request.run_at
        if run_at is not None and run_at <= self._now():
            run_at = None
        return NewTask(
            task_id=self._ids.next(),
            name=request.name,
            payload=text,
            priority=priority,
            user_id=request.user_id,
            run_at=run_at.astimezone(UTC) if run_at else None,
            idempotency_key=request.idempotency_key,
            max_retries=request.max_retries,
            timeout_seconds=request.timeout_seconds,
            lane=self._lane(request.pool or handler.pool),
        )

    def lane_of_name(self, name: str) -> int | None:
        """The lane of the pool that is meant to run tasks of this name; None: any worker is."""
        handler = self._handlers.find(name)
        return self._lane(handler.pool) if handler is not None else None

    def _lane(self, pool: str | None) -> int | None:
        """Asks the database only for a pool that it meets for the first time."""
        if pool is None:
            return None
        lane = self._lane_of_pool(pool)
        if lane is None:
            reason = f"there is no pool {pool[:40]!r}: python scripts/pools.py create makes one"
            raise InvalidTask([FieldProblem("pool", reason)])
        return lane

    def _everything_wrong(self, handler: Handler, payload: Any, request: TaskRequest) -> InvalidTask:
        """All that is wrong with a request, in one error; the error itself if it is the only one."""
        errors: list[InvalidTask] = []
        checks: list[Callable[[], object]] = [
            lambda: self._payload_text(handler, payload),
            lambda: self._priority(request.priority),
        ]
        for check in checks:
            try:
                check()
            except InvalidTask as error:
                errors.append(error)
        if problems := _field_problems(request):
            errors.append(InvalidTask(problems))
        if len(errors) == 1:
            return errors[0]
        return InvalidTask([problem for error in errors for problem in error.problems])

    def _payload_text(self, handler: Handler, payload: Any) -> str:
        try:
            text = write_json(payload)
            size = len(text) if text.isascii() else len(text.encode())
        except (TypeError, ValueError, RecursionError) as error:
            reason = f"cannot be written as JSON: {error}"[:200]
            raise InvalidTask([FieldProblem("payload", reason)]) from None
        if size > self._settings.payload_limit_bytes:
            raise PayloadTooLarge(size_bytes=size, limit_bytes=self._settings.payload_limit_bytes)
        handler.parse(payload)
        return text

    def _priority(self, value: Priority | str | None) -> Priority:
        if value is None:
            return Priority.NORMAL
        try:
            return Priority.of_queue(value)
        except ValueError:
            fallback = self._settings.priority_fallback
            if fallback is None:
                raise UnknownPriority(value) from None
            log.warning("task.priority_replaced", given=str(value)[:40], used=fallback.value)
            return fallback


def _field_problems(request: TaskRequest) -> list[FieldProblem]:
    return [*_key_problems(request), *_time_problems(request), *_number_problems(request)]


def _key_problems(request: TaskRequest) -> list[FieldProblem]:
    if request.user_id is None and request.idempotency_key is None:
        return []
    problems = []
    keys: Mapping[str, Any] = {"user_id": request.user_id, "idempotency_key": request.idempotency_key}
    for field, value in keys.items():
        if value is not None and not _is_key(value):
            message = f"must be 1 to {KEY_CHARACTERS} printable characters without blanks at the ends"
            problems.append(FieldProblem(field, message))
    key = request.idempotency_key if isinstance(request.idempotency_key, str) else ""
    for reserved, whose in ((RUN_KEYS, "schedules"), (RECORD_KEYS, "records"), (CHILD_KEYS, "children")):
        if key.startswith(reserved):
            reason = f"must not begin with {reserved!r}: {whose} do"
            problems.append(FieldProblem("idempotency_key", reason))
    if is_imported(request.idempotency_key if isinstance(request.idempotency_key, str) else None):
        reason = f"must not begin with {SOURCE_KEYS!r}: imported tasks do"
        problems.append(FieldProblem("idempotency_key", reason))
    return problems


def _is_key(value: Any) -> bool:
    """A blank at the end is no part of a key for MySQL, and is one for the others."""
    if not isinstance(value, str) or not 0 < len(value) <= KEY_CHARACTERS:
        return False
    return value.isprintable() and value == value.strip()


def _time_problems(request: TaskRequest) -> list[FieldProblem]:
    run_at: Any = request.run_at
    if run_at is None:
        return []
    if not isinstance(run_at, datetime) or run_at.tzinfo is None:
        return [FieldProblem("run_at", "needs a time with a zone, for example 2026-01-31T08:00:00Z")]
    try:
        run_at.astimezone(UTC)
    except OverflowError:
        return [FieldProblem("run_at", "is beyond the end of the calendar")]
    return []


def _number_problems(request: TaskRequest) -> list[FieldProblem]:
    if request.max_retries is None and request.timeout_seconds is None:
        return []
    problems = []
    numbers: tuple[tuple[str, Any, int, int], ...] = (
        ("max_retries", request.max_retries, 0, RETRIES_LIMIT),
        ("timeout_seconds", request.timeout_seconds, 1, TIMEOUT_LIMIT_SECONDS),
    )
    for field, value, low, high in numbers:
        whole = isinstance(value, int) and not isinstance(value, bool)
        if value is not None and not (whole and low <= value <= high):
            problems.append(FieldProblem(field, f"must be a whole number from {low} to {high}"))
    return problems
