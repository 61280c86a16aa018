"""The errors of the task core: one root, so that a caller can catch all of ours and nothing else.

    TaskError
    ├── InvalidTask                 the submission is wrong (fields say where)
    │   ├── UnknownTaskName
    │   ├── UnknownPriority
    │   └── PayloadTooLarge
    ├── TaskNotFound
    ├── ScheduleNotFound
    ├── ScheduleRefused             the schedule's state or origin does not allow the verb
    ├── WrongState                  the task is not in a state that allows the verb
    ├── RoutingTaken                a transfer has the priority for itself
    ├── UserLimitReached            names the active task
    ├── IdempotencyConflict         the key was used for another task
    ├── IntakePaused                says until when
    ├── QueueFull
    ├── DatabaseUnavailable
    │   ├── LoginRefused
    │   ├── SchemaMissing
    │   └── SourceUnavailable       a legacy table's, which is not ours
    ├── StatementRefused
    └── RedisUnavailable

A lost race (somebody else claimed, moved or ended the row first) is a return value, not an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime


class TaskError(Exception):
    """Root of every error that the task core raises on purpose."""


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """One wrong field: its dotted path from the body's root and what is wrong with it."""

    field: str
    message: str


class InvalidTask(TaskError):
    """The submission cannot become a task; `problems` names each wrong field."""

    def __init__(self, problems: Sequence[FieldProblem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(f"{p.field}: {p.message}" for p in self.problems))


class UnknownTaskName(InvalidTask):
    """`field` is where the caller wrote the name."""

    def __init__(self, name: object, *, field: str = "name") -> None:
        self.name = name
        super().__init__([FieldProblem(field, f"no handler is registered for {str(name)[:100]!r}")])


class UnknownPriority(InvalidTask):
    def __init__(self, value: object) -> None:
        super().__init__(
            [FieldProblem("priority", f"{str(value)[:40]!r} is not one of urgent, high, normal, low")]
        )


class PayloadTooLarge(InvalidTask):
    """The payload's JSON text is larger than the limit; both sizes are in bytes."""

    def __init__(self, *, size_bytes: int, limit_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes
        super().__init__([FieldProblem("payload", f"{size_bytes} bytes, the limit is {limit_bytes}")])


class TaskNotFound(TaskError):
    def __init__(self, task_id: object) -> None:
        self.task_id = task_id
        super().__init__(f"no task has the id {str(task_id)[:40]!r}")


class ScheduleNotFound(TaskError):
    def __init__(self, name: object) -> None:
        super().__init__(f"no schedule is named {str(name)[:100]!r}")


class ScheduleRefused(TaskError):
    """The verb does not apply to the schedule as it is: the name is taken, the code declares it, a run of it
    is still open (`task_id`), or somebody changed it at the same moment."""

    def __init__(self, name: str, reason: str, *, task_id: int | None = None) -> None:
        self.name = name
        self.task_id = task_id
        super().__init__(f"schedule {name!r}: {reason}")


class WrongState(TaskError):
    """The verb does not apply to the task's status."""

    def __init__(self, *, task_id: int, status: str, verb: str) -> None:
        self.task_id = task_id
        self.status = status
        self.verb = verb
        super().__init__(f"cannot {verb} task {task_id}: it is {status}")


class RoutingTaken(TaskError):
    """The routing of this priority belongs to a transfer until that ends."""

    def __init__(self, *, priority: str, transfer_id: int) -> None:
        self.priority = priority
        self.transfer_id = transfer_id
        super().__init__(f"transfer {transfer_id} has {priority}: let it end, or abort it first")


class UserLimitReached(TaskError):
    """The user already has as many active tasks as the limit allows."""

    def __init__(self, *, user_id: str, limit: int, active_task_id: int | None) -> None:
        self.user_id = user_id
        self.limit = limit
        self.active_task_id = active_task_id
        super().__init__(f"user {user_id!r} has {limit} active task(s) already, among them {active_task_id}")


class IdempotencyConflict(TaskError):
    """The idempotency key belongs to a task with another name, payload or user."""

    def __init__(self, *, key: str, task_id: int) -> None:
        self.key = key
        self.task_id = task_id
        super().__init__(f"idempotency key {key!r} was used for a different task, {task_id}")


class IntakePaused(TaskError):
    """Submission is paused in refuse mode."""

    def __init__(self, *, reason: str, until: datetime | None, retry_after_seconds: int) -> None:
        self.reason = reason
        self.until = until
        self.retry_after_seconds = retry_after_seconds
        super().__init__(f"task submission is paused: {reason}")


class QueueFull(TaskError):
    def __init__(self, *, limit: int) -> None:
        self.limit = limit
        super().__init__(f"{limit} tasks are waiting already, the limit is {limit}")


class DatabaseUnavailable(TaskError):
    """The database cannot be reached or did not answer; nothing was half-done."""


class LoginRefused(DatabaseUnavailable):
    """The database answers, and lets this account, or from here, nobody in."""


class SchemaMissing(DatabaseUnavailable):
    """The database answers, but its tables are not there yet: no entrance has prepared it."""


class SourceUnavailable(DatabaseUnavailable):
    """The database of a legacy table, another one than ours, cannot be reached or did not answer."""


class StatementRefused(TaskError):
    """The database answered, and refused what it was asked to do: our mistake, or a value it cannot hold."""


class RedisUnavailable(TaskError):
    """Redis cannot be reached or did not answer."""
