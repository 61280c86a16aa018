"""Handlers: the functions that run tasks, their rules, and the context they are given.

A handler is registered by name when its module is imported; the modules named by the setting
TASK_MODULES are the closed list of what may run. Nothing that arrives through Redis or a row can name
any other function.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

from pydantic import BaseModel, TypeAdapter, ValidationError
from sqlalchemy.engine import Connection

from app.tasks.errors import FieldProblem, InvalidTask, UnknownTaskName
from app.tasks.keys import PlannedRun
from app.tasks.model import OnLost

# JSON as rows hold it. One encoder for all: json.dumps would make one for every call.
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)
write_json: Callable[[Any], str] = _ENCODER.encode


CANCEL_LOOK_SECONDS = 0.5


class TaskCancelled(Exception):
    """Raised in a handler, by `context.check_cancelled()`, once a cancel was asked for."""


class TimeLimitExceeded(Exception):
    """Raised in a handler that has run for longer than its time limit."""


class ChildrenOpen(BaseException):
    """Goes through a handler, which must not stop it, once it needs what its children have not brought yet.

    Its task waits for them, without a worker, and the handler is then called again from its top.
    """


class DoNotRetry(Exception):
    """Raised by a handler to end its task as FAILED at once, whatever its retry rule says.

    The message becomes the task's error and is shown to the submitter: write it for them.
    """


class ContextBackend(Protocol):
    """What a runner gives to a context: no call of it may cost a round trip, but `connection`."""

    def report_progress(self, percent: int | None, step: str | None) -> None: ...

    def cancel_requested(self) -> bool: ...

    def connection(self) -> Connection: ...


@dataclass(frozen=True, slots=True)
class TaskContext:
    """What a handler may know and do beside its payload.

    `attempt` numbers the claims, `failures` counts the runs that failed or were lost: a claim that was given
    back unstarted raises the one and not the other.
    """

    task_id: int
    attempt: int
    user_id: str | None
    backend: ContextBackend
    failures: int = 0
    planned_run: PlannedRun | None = None

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt of this task: give it to outside systems that accept one."""
        return f"twintrack-{self.task_id}"

    def progress(self, percent: int | None = None, step: str | None = None) -> None:
        """Publish how far the task is: `percent` 0 to 100, `step` a short sentence. Cheap to call often."""
        self.backend.report_progress(percent, step)

    @property
    def planned_at(self) -> datetime | None:
        """For which time a schedule planned this run (aware UTC); None for a task that nobody scheduled.

        After an outage one run makes up for all that were missed: this is then the first missed time."""
        return self.planned_run.planned_at if self.planned_run else None

    @property
    def cancel_requested(self) -> bool:
        return self.backend.cancel_requested()

    def check_cancelled(self) -> None:
        """Raise `TaskCancelled` if somebody asked to cancel this task."""
        if self.backend.cancel_requested():
            raise TaskCancelled("cancelled while running")

    @property
    def connection(self) -> Connection:
        """A database connection in a transaction that commits together with this task's end.

        What the handler writes through it happens exactly once: if the claim was lost, it rolls back.
        The handler must not commit or close it. An `async def` has none (`RuntimeError`): a statement would
        hold up every other task of its event loop.
        """
        return self.backend.connection()


HandlerFunction = Callable[..., Any]


class Isolation(StrEnum):
    """Where a handler runs: in the worker's own process, or in one that is forked for each run."""

    WORKER = "worker"
    FORK = "fork"


@dataclass(frozen=True, slots=True)
class Handler:
    """A registered function with its rules. `max_retries` and `timeout_seconds` None: the settings' value.

    `is_async`: an `async def`, of which many run at a time on one event loop."""

    name: str
    function: HandlerFunction
    payload_type: TypeAdapter[Any]
    timeout_seconds: int | None = None
    max_retries: int | None = None
    retry_base_seconds: float | None = None
    on_lost: OnLost = OnLost.RETRY
    takes_context: bool = True
    isolation: Isolation = Isolation.WORKER
    pool: str | None = None
    is_async: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "is_async", inspect.iscoroutinefunction(self.function))

    def parse(self, payload: Any) -> Any:
        """The typed payload. Raises `InvalidTask` with a dotted path per wrong field."""
        try:
            return self.payload_type.validate_python(payload)
        except ValidationError as error:
            raise InvalidTask(list(_problems(error))) from None

    def parse_json(self, payload: str) -> Any:
        """As `parse`, from the row's JSON text."""
        try:
            return self.payload_type.validate_json(payload)
        except ValidationError as error:
            raise InvalidTask(list(_problems(error))) from None

    def call(self, payload: Any, context: TaskContext) -> Any:
        """What the function returns; of an `async def`, the coroutine to be awaited."""
        if self.takes_context:
            return self.function(payload, context)
        return self.function(payload)


@dataclass(slots=True)
class Call:
    """A handler about to be called with a checked payload."""

    handler: Handler
    payload: Any
    context: TaskContext
    limit_seconds: int

    def __call__(self) -> Any:
        return self.handler.call(self.payload, self.context)


async def heed_cancels(coroutine: Coroutine[Any, Any, Any], context: TaskContext) -> Any:
    """Await a handler that is alone on its loop; a cancel that was asked for cancels its coroutine, once.

    Raises `TaskCancelled` then, and whatever the handler raises.
    """
    running = asyncio.ensure_future(coroutine)
    try:
        while not running.done() and not context.cancel_requested:
            await asyncio.wait({running}, timeout=CANCEL_LOOK_SECONDS)
        if not running.done():
            running.cancel()
        return await running
    except asyncio.CancelledError:
        if context.cancel_requested:
            raise TaskCancelled("cancelled while running") from None
        raise RuntimeError("its coroutine was cancelled") from None


def _problems(error: ValidationError) -> Iterator[FieldProblem]:
    for item in error.errors(include_url=False, include_input=False, include_context=False):
        path = ".".join(["payload", *(str(part) for part in item["loc"])])
        yield FieldProblem(path, item["msg"])


class HandlerRegistry(Mapping[str, Handler]):
    """Handlers by task name."""

    def __init__(self, handlers: Iterable[Handler] = ()) -> None:
        self._handlers = {handler.name: handler for handler in handlers}

    def __getitem__(self, name: str) -> Handler:
        """The handler. Raises `UnknownTaskName`, which is no KeyError: callers show it to people."""
        try:
            return self._handlers[name]
        except (KeyError, TypeError):
            raise UnknownTaskName(name) from None

    def find(self, name: str) -> Handler | None:
        """The handler, or None: for rows whose handler this process does not have."""
        return self._handlers.get(name)

    def __contains__(self, name: object) -> bool:
        return name in self._handlers

    def __iter__(self) -> Iterator[str]:
        return iter(self._handlers)

    def __len__(self) -> int:
        return len(self._handlers)

    def add(self, handler: Handler) -> None:
        """Register; a name that another function holds is refused with `ValueError`."""
        present = self._handlers.get(handler.name)
        if present is not None and _origin(present.function) != _origin(handler.function):
            raise ValueError(
                f"task name {handler.name!r} belongs to {_origin(present.function)} already,"
                f" {_origin(handler.function)} needs another"
            )
        self._handlers[handler.name] = handler


def _origin(function: HandlerFunction) -> str:
    return f"{function.__module__}.{function.__qualname__}"


_declared = HandlerRegistry()
_loading = threading.Lock()


def task(
    name: str,
    *,
    payload: Any = dict[str, Any],
    timeout_seconds: int | None = None,
    max_retries: int | None = None,
    retry_base_seconds: float | None = None,
    on_lost: OnLost | str = OnLost.RETRY,
    isolation: Isolation | str = Isolation.WORKER,
    pool: str | None = None,
) -> Callable[[HandlerFunction], HandlerFunction]:
    """Declare a function as the handler of a task name.

    `payload` is the type that the payload must have: a pydantic model, or any type pydantic can check.
    The function is called as `f(payload, context)`, or `f(payload)` if it takes one argument; what it
    returns must be JSON (a pydantic model is dumped). `on_lost` says what happens when its worker dies in
    mid-run: "retry" runs it again, "park" ends it as FAILED for a person to decide. `isolation` "fork" gives
    each run a process of its own, for code that may crash or leak; that costs some milliseconds, and there
    is no `context.connection` in it. `pool`: only the workers of that pool run it.
    """

    def declare(function: HandlerFunction) -> HandlerFunction:
        _declared.add(
            Handler(
                name=name,
                function=function,
                payload_type=TypeAdapter(payload),
                timeout_seconds=timeout_seconds,
                max_retries=max_retries,
                retry_base_seconds=retry_base_seconds,
                on_lost=OnLost(on_lost),
                takes_context=_positional_arguments(function) > 1,
                isolation=Isolation(isolation),
                pool=pool,
            )
        )
        return function

    return declare


def _positional_arguments(function: HandlerFunction) -> int:
    return function.__code__.co_argcount


def load_handlers(modules: Iterable[str]) -> HandlerRegistry:
    """Import the modules and return the handlers that they (and the modules below them) declare.

    Raises `ImportError` naming the module that cannot be imported.
    """
    names = list(modules)
    with _loading:
        for module in names:
            importlib.import_module(module)
    prefixes = tuple(f"{module}." for module in names)
    return HandlerRegistry(
        handler
        for handler in _declared.values()
        if handler.function.__module__ in names or handler.function.__module__.startswith(prefixes)
    )


def to_json(value: Any) -> str:
    """JSON text of a handler's result. Raises `TypeError` or `ValueError` for what JSON cannot hold."""
    if isinstance(value, BaseModel):
        return value.model_dump_json()
    return write_json(value)
