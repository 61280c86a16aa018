"""The core's settings as a value: the composition root fills it from Config, tests as they like."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from app.tasks.handlers import Handler
from app.tasks.model import Priority


@dataclass(frozen=True, slots=True)
class CoreSettings:
    """All times in seconds, sizes in bytes; 0 as a limit means none."""

    payload_limit_bytes: int = 262_144
    result_limit_bytes: int = 1_048_576
    active_tasks_per_user: int = 0
    queue_size_limit: int = 0
    user_concurrency: int = 0
    age_bonus_seconds: float = 0
    default_timeout_seconds: int = 3600
    priority_timeout_seconds: Mapping[Priority, int] = field(default_factory=dict)
    max_retries: int = 3
    retry_base_seconds: float = 60
    retry_cap_seconds: float = 3600
    priority_fallback: Priority | None = None
    redis_percent: int = 100
    lease_seconds: float = 30
    ticket_grace_seconds: float = 30
    fallback_enabled: bool = True
    fallback_after_seconds: float = 30
    return_after_seconds: float = 5

    def time_limit(self, handler: Handler | None, priority: Priority, of_task: int | None) -> int:
        """The seconds a task may run: its own limit, else its handler's, its priority's, the default."""
        of_handler = handler.timeout_seconds if handler else None
        of_priority = self.priority_timeout_seconds.get(priority)
        return of_task or of_handler or of_priority or self.default_timeout_seconds

    def retry_limit(self, handler: Handler | None, of_task: int | None) -> int:
        """How many failures a task survives: its own limit, else its handler's, else the default."""
        if of_task is not None:
            return of_task
        if handler is not None and handler.max_retries is not None:
            return handler.max_retries
        return self.max_retries
