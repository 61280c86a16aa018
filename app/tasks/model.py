"""The nouns of the core, as values: no SQL, no Redis, no Flask.

The transition table below is the contract that `docs/states.md` prints and the store obeys.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple

from app.tasks.keys import PlannedRun
from app.tasks.recurrence import Recurrence


class Status(StrEnum):
    """Where a task is. The route is part of the status: an old poller that knows only QUEUED
    cannot see a dispatched or scheduled row."""

    SCHEDULED = "SCHEDULED"
    QUEUED = "QUEUED"
    DISPATCHED = "DISPATCHED"
    PROCESSING = "PROCESSING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    QUARANTINED = "QUARANTINED"


WAITING = (Status.SCHEDULED, Status.QUEUED, Status.DISPATCHED)
ACTIVE = (*WAITING, Status.PROCESSING)
ENDED = (Status.COMPLETED, Status.FAILED, Status.CANCELLED)


class Priority(StrEnum):
    """The value is the RQ queue's name; the order of members is the order of service.

    FLOW and POOL are none of the queues: a record waits in the lane of its flow, a task of a pool in that of
    its pool, and only who serves the lane claims it."""

    URGENT = "urgent"
    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"
    FLOW = "flow"
    POOL = "pool"

    @property
    def rank(self) -> int:
        """0 for urgent to 3 for low: what the `priority` column holds, so that SQL sorts by it. Who waits in
        a lane has its number there instead, beyond `FLOW_RANK` or `POOL_RANK`."""
        return _RANKS[self]

    @classmethod
    def of_queue(cls, name: str) -> Priority:
        """The priority whose queue has this name. Raises `ValueError`: there is no such queue."""
        found = cls(name)
        if found in LANES:
            raise ValueError(f"{name} is no queue")
        return found

    @classmethod
    def of_rank(cls, rank: int) -> Priority:
        if rank < FLOW_RANK:
            return PRIORITIES[rank]
        return cls.FLOW if rank < POOL_RANK else cls.POOL


FLOW_RANK, POOL_RANK = 100, 20_000
LANES = {Priority.FLOW: FLOW_RANK, Priority.POOL: POOL_RANK}
PRIORITIES: tuple[Priority, ...] = tuple(priority for priority in Priority if priority not in LANES)
_RANKS = {priority: rank for rank, priority in enumerate(PRIORITIES)} | LANES


class Track(StrEnum):
    """How a waiting task reaches a worker."""

    REDIS = "redis"
    DATABASE = "database"

    @property
    def waiting_status(self) -> Status:
        return Status.DISPATCHED if self is Track.REDIS else Status.QUEUED


class OnLost(StrEnum):
    """What a reclaim does with a task whose worker is gone: run it again, or end it as FAILED."""

    RETRY = "retry"
    PARK = "park"


@dataclass(frozen=True, slots=True)
class Edge:
    """One kind of transition: who makes it, from where to where, and what guards it."""

    verb: str
    sources: tuple[Status | None, ...]
    targets: tuple[Status, ...]
    guard: str
    new_epoch: bool


_ROUTED = (Status.QUEUED, Status.DISPATCHED)

TRANSITIONS: tuple[Edge, ...] = (
    Edge("submit", (None,), WAITING, "routing version, idempotency key, active-task limit", True),
    Edge("due", (Status.SCHEDULED,), _ROUTED, "status", True),
    Edge("dispatch", (Status.QUEUED,), (Status.DISPATCHED,), "status", True),
    Edge("recall", (Status.DISPATCHED,), (Status.QUEUED,), "status", True),
    Edge("claim", (Status.QUEUED,), (Status.PROCESSING,), "row lock, locked rows are skipped", False),
    Edge(
        "claim ticket",
        (Status.DISPATCHED,),
        (Status.PROCESSING,),
        "status and epoch; waits for a row lock",
        False,
    ),
    Edge("set aside", _ROUTED, (Status.SCHEDULED,), "as the claim; its user runs too many", True),
    Edge("let in", (Status.SCHEDULED,), _ROUTED, "status, neither a time nor a hold", True),
    Edge("settle", (Status.PROCESSING,), ENDED, "token", False),
    Edge("retry later", (Status.PROCESSING,), WAITING, "token", True),
    Edge("wait for children", (Status.PROCESSING,), (Status.SCHEDULED,), "token", True),
    Edge("release", (Status.PROCESSING,), _ROUTED, "token", True),
    Edge(
        "reclaim",
        (Status.PROCESSING,),
        _ROUTED,
        "the token that was read with the evidence; an expired lease must still be over",
        True,
    ),
    Edge(
        "give up",
        (Status.PROCESSING,),
        (Status.FAILED,),
        "as reclaim; the handler must not repeat, or no retry is left",
        False,
    ),
    Edge(
        "heed a cancel",
        (Status.PROCESSING,),
        (Status.CANCELLED,),
        "as retry later, wait for children, release or reclaim; a cancel was asked for",
        False,
    ),
    Edge("cancel", WAITING, (Status.CANCELLED,), "status", True),
    Edge("quarantine", WAITING, (Status.QUARANTINED,), "status", True),
    Edge(
        "operator's retry",
        (Status.FAILED, Status.CANCELLED, Status.QUARANTINED),
        WAITING,
        "status, active-task limit",
        True,
    ),
    Edge("reprioritise", WAITING, WAITING, "status; SCHEDULED stays", True),
)


class NewTask(NamedTuple):
    """A submission that passed every check which needs no database. `payload` is JSON text."""

    task_id: int
    name: str
    payload: str
    priority: Priority
    user_id: str | None = None
    run_at: datetime | None = None
    idempotency_key: str | None = None
    max_retries: int | None = None
    timeout_seconds: int | None = None
    lane: int | None = None  # of the pool for whose workers it waits

    @property
    def line(self) -> Priority:
        """The queue in which it waits, or that it does so in a pool's lane, where its priority is nothing."""
        return self.priority if self.lane is None else Priority.POOL

    @property
    def rank(self) -> int:
        """What its row has for it."""
        return self.priority.rank if self.lane is None else self.lane

    @property
    def planned_run(self) -> PlannedRun | None:
        """The run of a schedule that this task is."""
        return PlannedRun.of_key(self.idempotency_key)


class Submitted(NamedTuple):
    """The answer to a submission. `created` is false when the idempotency key named an older task."""

    task_id: int
    status: Status
    priority: Priority
    created: bool = True


class Ticket(NamedTuple):
    """What Redis holds of a task: enough to claim it, and safe to lose, double or outlive."""

    task_id: int
    epoch: int
    priority: Priority
    name: str
    timeout_seconds: int | None = None

    @property
    def job_id(self) -> str:
        return f"t{self.task_id}-e{self.epoch}"


class Claim(NamedTuple):
    """One worker's right to run one task until its lease ends. A tuple: one is made for every run."""

    task_id: int
    name: str
    payload: str
    priority: Priority
    token: int
    epoch: int
    attempt: int
    failures: int
    track: Track
    user_id: str | None = None
    max_retries: int | None = None
    timeout_seconds: int | None = None
    cancel_requested: bool = False
    idempotency_key: str | None = None

    @property
    def planned_run(self) -> PlannedRun | None:
        """The run of a schedule that this task is."""
        return PlannedRun.of_key(self.idempotency_key)


class Progress(NamedTuple):
    """How far a handler said that it is: 0 to 100, and a short sentence."""

    percent: int
    step: str | None


@dataclass(frozen=True, slots=True)
class Completed:
    """The handler returned. `result` is JSON text. `progress`, here as below: what it said last, if that is
    not in the row yet."""

    claim: Claim
    result: str
    progress: Progress | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """The handler failed and no retry is left, or the rule forbids one: a dead letter."""

    claim: Claim
    error: str
    progress: Progress | None = None


@dataclass(frozen=True, slots=True)
class RetryLater:
    """The handler failed and is to run again after `delay_seconds`."""

    claim: Claim
    error: str
    delay_seconds: float
    progress: Progress | None = None


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The handler stopped because a cancel was asked for."""

    claim: Claim
    error: str = "cancelled while running"
    progress: Progress | None = None


@dataclass(frozen=True, slots=True)
class Released:
    """The claim is given back unstarted: it costs no failure."""

    claim: Claim


@dataclass(frozen=True, slots=True)
class Waits:
    """The handler is to be called again once the task's children have ended: it costs no failure."""

    claim: Claim
    progress: Progress | None = None


Outcome = Completed | Failed | RetryLater | Cancelled | Released | Waits


class Moved(NamedTuple):
    """A row that a verb brought to a status; DISPATCHED ones need a ticket, QUEUED ones somebody awake."""

    task_id: int
    status: Status
    ticket: Ticket | None = None
    priority: Priority | None = None
    front: bool = False  # its turn has been: the ticket goes before all others


@dataclass(frozen=True, slots=True)
class Task:
    """A task as readers see it. Times are aware UTC; `payload` and `result` are decoded JSON."""

    task_id: int
    name: str
    status: Status
    priority: Priority
    payload: Any
    user_id: str | None
    epoch: int
    attempt: int
    failures: int
    max_retries: int | None
    timeout_seconds: int | None
    progress_percent: int
    progress_step: str | None
    result: Any
    error: str | None
    cancel_requested: bool
    held: bool
    holder: str | None
    created_at: datetime
    run_at: datetime | None
    waiting_since: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    planned_run: PlannedRun | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """An unusual transition of a task, for people who ask what happened to it."""

    task_id: int
    at: datetime
    kind: str
    detail: Mapping[str, Any] = field(default_factory=dict)


class ScheduleState(StrEnum):
    """Only ACTIVE ones have a next time. WITHDRAWN: the code does not declare it any more, or disabled."""

    ACTIVE = "active"
    PAUSED = "paused"
    WITHDRAWN = "withdrawn"


class Origin(StrEnum):
    """Who defines a schedule."""

    CODE = "code"
    API = "api"


class Overlap(StrEnum):
    """What happens to a run whose predecessor has not ended: it is skipped, or runs beside it."""

    SKIP = "skip"
    ALLOW = "allow"


@dataclass(frozen=True, slots=True)
class Schedule:
    """A task that runs again and again, as its row says. `payload` is JSON text; times are aware UTC.

    `last_run_at` is the time for which the last run was planned, `skipped` counts runs that were left out."""

    name: str
    task: str
    recurrence: Recurrence
    payload: str
    priority: Priority
    user_id: str | None
    max_retries: int | None
    timeout_seconds: int | None
    overlap: Overlap
    origin: Origin
    state: ScheduleState
    version: int
    next_run_at: datetime | None
    last_run_at: datetime | None
    last_task_id: int | None
    skipped: int
    skip_reason: str | None
    created_at: datetime
    changed_at: datetime

    def upcoming(self, count: int) -> list[datetime]:
        """The next planned times; none while it is not active."""
        times = [self.next_run_at] if self.next_run_at else []
        while times and len(times) < count:
            times.append(self.recurrence.next_after(times[-1], times[-1]))
        return times
