"""The verdict on one task, from its row and its tickets as they were seen together. Pure: reads nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from app.transfer.verification.faults import Fault
from app.transfer.verification.rows import DISPATCHED, NO_WINDOW, RowState
from app.transfer.verification.tickets import Seen

ENDED = ("COMPLETED", "FAILED", "CANCELLED")


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What else holds while a task is looked at."""

    window_starts: Mapping[int, int] = field(default_factory=dict)  # by rank
    closed_ranks: frozenset[int] = frozenset()
    in_hand: frozenset[int] = frozenset()
    grace_seconds: float = 30.0
    tickets_asked: bool = True
    somebody_heals: bool = False
    left_status: str | None = None  # the track that was to be left, and by which priorities
    left_ranks: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Verdict:
    """Faults, or a reason why it is too early to say; neither means that all is well.

    `seen` tells one state of a task from the next: a verdict counts once it has stayed the same.
    """

    faults: tuple[Fault, ...] = ()
    pending: str = ""
    seen: tuple[object, ...] = ()

    @property
    def clean(self) -> bool:
        return not self.faults and not self.pending


def judge(row: RowState | None, tickets: list[Seen], now: Circumstances) -> Verdict:
    """What is wrong with a task; the row and the tickets belong to the same id."""
    seen = (None if row is None else (row.status, row.epoch, row.rank), tuple(sorted(tickets)))
    if row is None:
        return Verdict((Fault.ORPHAN_TICKET,) if tickets else (), seen=seen)
    if row.status != DISPATCHED:
        faults: tuple[Fault, ...] = (_of_idle_row(row),) if tickets else ()
        if row.status == now.left_status and row.rank in now.left_ranks:
            faults += (Fault.LEFT_BEHIND,)
        return Verdict(faults, seen=seen)
    if now.left_status == DISPATCHED and row.rank in now.left_ranks:
        return Verdict((Fault.LEFT_BEHIND,), seen=seen)
    if not now.tickets_asked:
        return Verdict(seen=seen)
    current = [ticket for ticket in tickets if ticket.epoch == row.epoch]
    if current:
        stale = (Fault.STALE_TICKET,) if len(current) < len(tickets) else ()
        return Verdict(_of_tickets(row, current) + stale, seen=seen)
    return _without_ticket(row, tickets, now, seen)


def _of_idle_row(row: RowState) -> Fault:
    if row.status in ENDED:
        return Fault.TICKET_OF_ENDED_ROW
    return Fault.TICKET_OF_QUEUED_ROW if row.status == "QUEUED" else Fault.STALE_TICKET


def _of_tickets(row: RowState, current: list[Seen]) -> tuple[Fault, ...]:
    faults = [fault for ticket in current for fault in ticket.faults]
    if any(ticket.rank != row.rank for ticket in current):
        faults.append(Fault.WRONG_QUEUE)
    whole = [ticket for ticket in current if Fault.HOLLOW_TICKET not in ticket.faults]
    if any(ticket.timeout != str(row.timeout_seconds) for ticket in whole):
        faults.append(Fault.WRONG_TIMEOUT)
    if len(current) > 1:
        faults.append(Fault.DOUBLED_TICKET)
    return tuple(dict.fromkeys(faults))


def _without_ticket(
    row: RowState, others: list[Seen], now: Circumstances, seen: tuple[object, ...]
) -> Verdict:
    """A dispatched row none of whose tickets a worker would take for it."""
    if row.task_id >= now.window_starts.get(row.rank, NO_WINDOW):
        return Verdict((Fault.STALE_TICKET,) if others else (), seen=seen)
    if others:
        return Verdict((Fault.WRONG_EPOCH,), seen=seen)
    if row.task_id in now.in_hand:
        return Verdict(pending="a worker has taken its ticket and not begun yet", seen=seen)
    if row.rank in now.closed_ranks:
        return Verdict(pending="its queue is closed: no ticket is pushed before it opens", seen=seen)
    if row.waited < now.grace_seconds:
        return Verdict(pending="it has just begun to wait: its ticket may be on the way", seen=seen)
    return Verdict((Fault.MISSING_TICKET,), seen=seen)
