"""What the model knows of the world: rows, queues, routing, workers, sweepers; and the rules they follow.

Numbers that only matter by equality are kept as one bit. An epoch never returns, so a ticket is `fresh` or
it is worthless for ever; a token never returns, so a claim is `mine` or lost for ever; an incarnation never
returns, so a confirmation of another one is none. That keeps the number of states finite and small.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from app.tasks.model import Status

# A status as a number: 0 is "no row yet", the others are in the order of `Status`.
STATUSES: tuple[Status | None, ...] = (None, *Status)
(
    ABSENT,
    SCHEDULED,
    QUEUED,
    DISPATCHED,
    PROCESSING,
    COMPLETED,
    FAILED,
    CANCELLED,
    QUARANTINED,
) = range(9)
WAITING = frozenset((SCHEDULED, QUEUED, DISPATCHED))
ROUTED = frozenset((QUEUED, DISPATCHED))
ENDED = frozenset((COMPLETED, FAILED, CANCELLED, QUARANTINED))

# A ticket as a number: task, queue, and whether its epoch is still the row's.
Refs = tuple[int, ...]


def ticket(task: int, priority: int) -> int:
    return task << 2 | priority << 1 | 1


def task_of(ref: int) -> int:
    return ref >> 2 & 3


def priority_of(ref: int) -> int:
    return ref >> 1 & 1


def is_fresh(ref: int) -> bool:
    return bool(ref & 1)


# A queue's entry is a ticket and, above it, one bit per task: "this row's wait began before this push".
REF_BITS = 4
REF_MASK = (1 << REF_BITS) - 1


class Row(NamedTuple):
    """A task's row. The last two are the judge's, no step reads them."""

    status: int = ABSENT
    priority: int = 0
    expired: int = 0  # the lease is over
    confirmed: int = 0  # its ticket was seen in this incarnation
    hashed: int = 0  # a hash of its ticket exists; kept only where there is a window
    wish: int = 0  # a cancel was asked for while it ran
    failures: int = 0
    grave: int = 0  # its holder is proven dead; what the page says of it
    unpaid: int = 0  # starts minus the failures, retries and reclaims that paid for another one
    unwanted: int = 0  # a cancel was accepted, and no operator has retried it since


# What a dead worker's page says of a claim.
# MISTAKEN: that it was started, and it was not. LEAKED: its holder lives, and never learned that it won.
NO_GRAVE, UNSTARTED, STARTED, FINISHED, BROKE, MISTAKEN, LEAKED = range(7)
# What has become of a claim in a batch.
HELD, PUBLISHED, CHECKED, RUNNING, DONE, RAISED = range(6)


class Slot(NamedTuple):
    """A claim in a worker's hands."""

    task: int
    mine: int = 1  # the row still carries its token
    phase: int = HELD
    late: int = 0  # the worker's own deadline for it is over


TOO_LATE = 2  # it was over only after the last check: frozen before the first instruction


# Where a worker's loop stands.
READY, TAKEN, WON, RUN, OVER = range(5)
# How far its keeper is with cutting the batch short.
WHOLE, LOWERED, CUT = range(3)


class Worker(NamedTuple):
    """One worker process: its loop, and the keeper beside it, which renews, cuts and settles what it cut."""

    phase: int = READY
    refs: Refs = ()  # tickets in hand, not claimed yet
    slots: tuple[Slot, ...] = ()
    kept: tuple[Slot, ...] = ()  # taken out of the batch by a cut, not settled yet
    cut: int = WHOLE
    page: Refs = ()  # tasks that the page still names of the batch before
    peeked: Refs = ()  # what a keeper that looks too early took for unstarted
    pushing: Refs = ()
    returning: Refs = ()  # taken and refused: back to the head of their queue


NONE = -1
NO_OVERFLOW = (NONE, NONE)
ENDLESS = 99  # a window that no configuration fills

# What a sweeper is at.
REST, CHOSEN, SEEN, SEEN_CONFIRMED, HEAD, PUSHING, EVIDENCE = range(7)
DECIDED, CLEARED, STRAY, TIDY, MARKED, REFILL, LATE = range(7, 14)


class Sweeper(NamedTuple):
    at: int = REST
    refs: Refs = ()  # rows chosen; tickets missing, or to push
    present: Refs = ()  # tickets that were seen
    sure: int = 1  # what was read is still so: the incarnation, or the claim's token
    about: int = 0  # the queue, the task, or the rows older than the head
    word: int = 0  # the evidence


# What the web process is at with a submission.
IDLE, KNOWS, EARLY = range(3)


class Office(NamedTuple):
    """The web process: a submission in work, and tickets of committed rows that it is to push."""

    at: int = IDLE
    task: int = 0
    status: int = 0  # what the routing said when it was read
    current: int = 1  # nobody changed the routing since
    pushing: Refs = ()


class State(NamedTuple):
    rows: tuple[Row, ...]
    queues: tuple[Refs, ...]
    up: int  # Redis answers
    overflow: tuple[tuple[int, int], ...]  # per queue: the mark, and the lowest task refused since
    snapshot: tuple[Refs, ...]
    orphans: Refs  # in-flight lists; kept only where a rule reads them
    tracks: tuple[int, ...]  # per priority: QUEUED or DISPATCHED
    paused: tuple[int, ...]
    fallback: int
    hold: int  # intake is held
    workers: tuple[Worker, ...]
    sweepers: tuple[Sweeper, ...]
    office: Office
    budget: tuple[int, ...]


# What may go wrong, and what people may do: each as often as a configuration allows.
FAULTS = (
    *("kill", "kill_sweeper", "freeze", "cut", "lost_answer", "turn_fails"),
    *("lose", "save", "restore", "down", "hash_expires", "fail"),
    *("cancel", "reprioritise", "pause", "hold", "flip", "retry", "quarantine"),
)
FAULT = {name: number for number, name in enumerate(FAULTS)}


@dataclass(frozen=True, slots=True)
class Rules:
    """The protocol. Each field is right as it stands; a mutant changes one."""

    commit_first: bool = True
    submit_guard: bool = True  # the insert is guarded by the routing's version
    settle_guard: str = "token"  # or "status" (id and status), or "id"
    claim_needs_status: bool = True
    claim_needs_epoch: bool = True
    reclaim_needs_token: bool = True
    reclaim_needs_expiry: bool = True  # the lease is looked at again in the reclaiming statement
    renewal_counts_rows: bool = True  # a renewal that met a lost claim extends no deadline
    renews_all_of_holder: bool = False
    deadline_checked: bool = True  # before each start
    publish_first: bool = True  # a start is published before its first instruction
    limit_before_index: bool = True  # the keeper lowers the limit, then reads what was published
    page_keeps_unsettled: bool = True  # no new batch on the page while a cut is not settled
    page_tells_started: bool = True
    page_names_claims: bool = True  # by their tokens, not only by their tasks
    burial_needs_token: bool = True
    wish_heeded: bool = True  # release, retry and reclaim of a row with a cancel request end it
    reprioritise_routes: bool = True
    move_reads_routing: bool = True  # under the lock of its own transaction
    recall_waiting_only: bool = True
    push_keeps_epoch: bool = True  # the sweeper's
    second_look: bool = True
    confirm_needs_epoch: bool = True
    incarnation_compared: bool = True
    in_flight_counts: bool = False
    refills: bool = True  # the sweeper feeds what waits beyond the window
    window_counts_in_flight: bool = False
    fallback_recorded: bool = True
    dormant_poller: bool = True


@dataclass(frozen=True, slots=True)
class Scenario:
    """One configuration: who is there, how the rows begin, and how often what may happen."""

    tasks: int = 1
    begin: int = ABSENT
    workers: tuple[str, ...] = ("stock", "ours")
    batch: int = 2
    sweepers: int = 1
    priorities: tuple[int, ...] = (0,)  # of the tasks, in turn
    queues: int = 1
    tracks: tuple[int, ...] = (DISPATCHED,)
    window: int = ENDLESS
    look_limit: int = 99  # rows that one statement of the sweeper takes
    max_retries: int = 9
    parks: bool = False  # the handlers must not repeat
    delayed_retry: bool = False
    tidies: bool = False  # the sweeper also takes stale tickets out
    budget: Mapping[str, int] = field(default_factory=dict)
    rules: Rules = field(default_factory=Rules)

    def initial(self) -> State:
        rows = tuple(
            Row(status=self.begin, priority=self.priorities[number % len(self.priorities)])
            for number in range(self.tasks)
        )
        return State(
            rows=rows,
            queues=((),) * self.queues,
            up=1,
            overflow=(NO_OVERFLOW,) * self.queues,
            snapshot=(),
            orphans=(),
            tracks=self.tracks,
            paused=(0,) * self.queues,
            fallback=0,
            hold=0,
            workers=(Worker(),) * len(self.workers),
            sweepers=(Sweeper(),) * self.sweepers,
            office=Office(),
            budget=tuple(self.budget.get(fault, 0) for fault in FAULTS),
        )
