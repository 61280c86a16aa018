"""The database: what one committed transaction does to a row, with its guards, as the store does it.

Each function is one statement or a part of a transaction; the step that calls it is the commit.
"""

from __future__ import annotations

from collections.abc import Iterable

from tests.model.draft import Draft
from tests.model.state import (
    BROKE,
    CANCELLED,
    COMPLETED,
    DISPATCHED,
    DONE,
    ENDED,
    FAILED,
    FINISHED,
    MISTAKEN,
    NO_GRAVE,
    PROCESSING,
    QUARANTINED,
    QUEUED,
    RAISED,
    SCHEDULED,
    TOO_LATE,
    UNSTARTED,
    WAITING,
    Refs,
    Row,
    Slot,
    Worker,
    is_fresh,
    task_of,
    ticket,
)

LEAST_UNPAID = -2  # below, more credit tells nothing new


def _paid(row: Row) -> int:
    return max(LEAST_UNPAID, row.unpaid - 1)


def _failures(draft: Draft, row: Row) -> int:
    return min(draft.scenario.max_retries, row.failures + 1) if draft.scenario.max_retries < 9 else 0


def _no_retry_left(draft: Draft, row: Row) -> bool:
    return draft.scenario.max_retries < 9 and row.failures >= draft.scenario.max_retries


def place(draft: Draft, task: int, verb: str, row: Row, *, status: int | None = None) -> Refs:
    """Bring a row to waiting, by the routing; a ticket to push if that is Redis. `row` has the new values."""
    target = draft.routed(row.priority) if status is None else status
    draft.change(
        task,
        verb,
        target,
        epoch=True,
        priority=row.priority,
        expired=0,
        confirmed=0,
        wish=row.wish if target in WAITING and not draft.scenario.rules.wish_heeded else 0,
        failures=row.failures,
        grave=NO_GRAVE,
        unpaid=row.unpaid,
        unwanted=row.unwanted,
    )
    return (ticket(task, row.priority),) if target == DISPATCHED else ()


def end(draft: Draft, task: int, verb: str, status: int, *, epoch: bool = False) -> None:
    draft.change(task, verb, status, epoch=epoch, expired=0, confirmed=0, wish=0, failures=0, grave=NO_GRAVE)


# --- claims -------------------------------------------------------------------------------------------


def _win(draft: Draft, task: int, verb: str) -> Slot:
    row = draft.rows[task]
    if row.status == PROCESSING:
        draft.blame(f"P1: a second claim of task {task} wins while the first one counts")
    if row.status in ENDED:
        draft.blame(f"P2: task {task} has ended and is claimed")
    if row.unwanted:
        draft.blame(f"P5: task {task} was cancelled and is claimed again")
    draft.change(task, verb, PROCESSING, epoch=False, expired=0, confirmed=0, grave=NO_GRAVE)
    return Slot(task)


def claim_tickets(draft: Draft, refs: Refs) -> tuple[tuple[Slot, ...], Refs]:
    """The claims won, and the tickets refused because their queue is paused; stale ones are dropped."""
    rules = draft.scenario.rules
    won: list[Slot] = []
    refused: list[int] = []
    for ref in refs:
        task = task_of(ref)
        row = draft.rows[task]
        right_status = row.status == DISPATCHED or (
            not rules.claim_needs_status and row.status in (QUEUED, PROCESSING)
        )
        if not right_status or not (is_fresh(ref) or not rules.claim_needs_epoch):
            continue
        if any(slot.task == task for slot in won):
            continue  # one statement wins a row once
        if draft.paused[row.priority]:
            refused.append(ref)
            continue
        if not is_fresh(ref):
            draft.blame(f"T2: a ticket of an earlier wait claims task {task}")
        won.append(_win(draft, task, "claim ticket"))
    return tuple(won), tuple(refused)


def claim_queued(draft: Draft, tasks: tuple[int, ...]) -> tuple[Slot, ...]:
    return tuple([_win(draft, task, "claim") for task in tasks])


def renew(draft: Draft, number: int) -> None:
    """Renew the claims that a batch holds. A deadline moves only if every claim was still there."""
    worker = draft.workers[number]
    rules = draft.scenario.rules
    met = True
    for slot in worker.slots:
        if slot.mine:
            row = draft.rows[slot.task]
            draft.set_row(slot.task, row._replace(expired=0))
        else:
            met = False
    if met or not rules.renewal_counts_rows:
        slots = tuple([slot._replace(late=0) for slot in worker.slots])
        draft.set_worker(number, worker._replace(slots=slots))


# --- settling -----------------------------------------------------------------------------------------


def settle(draft: Draft, slot: Slot) -> Refs:
    """Record what became of a claim, if the guard lets it. A ticket, if the task waits in Redis again."""
    row = draft.rows[slot.task]
    if not _may_settle(draft, slot, row):
        return ()
    if not slot.mine:
        draft.blame(f"P2: a worker that lost its claim of task {slot.task} records an end")
    if slot.phase == DONE:
        end(draft, slot.task, "settle", CANCELLED if row.wish else COMPLETED)
        return ()
    if slot.phase == RAISED:
        return _raised(draft, slot.task, row)
    if row.wish and draft.scenario.rules.wish_heeded:
        end(draft, slot.task, "heed a cancel", CANCELLED)
        return ()
    return place(draft, slot.task, "release", row)


def _may_settle(draft: Draft, slot: Slot, row: Row) -> bool:
    guard = draft.scenario.rules.settle_guard
    if guard == "token":
        return bool(slot.mine)
    return row.status == PROCESSING or guard == "id"


def _raised(draft: Draft, task: int, row: Row) -> Refs:
    if _no_retry_left(draft, row):
        end(draft, task, "settle", CANCELLED if row.wish else FAILED)
        return ()
    if row.wish and draft.scenario.rules.wish_heeded:
        end(draft, task, "heed a cancel", CANCELLED)
        return ()
    row = row._replace(unpaid=_paid(row), failures=_failures(draft, row))
    later = SCHEDULED if draft.scenario.delayed_retry else None
    return place(draft, task, "retry later", row, status=later)


# --- reclaims -----------------------------------------------------------------------------------------


def is_held(workers: Iterable[Worker], task: int) -> bool:
    """A living worker knows a claim of this task that still counts."""
    return any(
        slot.task == task and slot.mine for worker in workers for slot in (*worker.slots, *worker.kept)
    )


def reclaim_expired(draft: Draft, task: int, *, sure: bool) -> Refs:
    """`sure`: the row still carries the token that was read with the expired lease."""
    rules = draft.scenario.rules
    row = draft.rows[task]
    if row.status != PROCESSING or not (sure or not rules.reclaim_needs_token):
        return ()
    if rules.reclaim_needs_expiry and rules.reclaim_needs_token and not row.expired:
        return ()
    if not row.expired and row.grave == NO_GRAVE and is_held(draft.workers, task):
        draft.blame(f"P3: a claim of task {task} is taken from a living worker whose lease is not over")
    return _reclaim(draft, task, row)


def reclaim_dead(draft: Draft, task: int, word: int, *, sure: bool) -> Refs:
    """What a dead worker's page says of the task decides: an end that was reached is recorded."""
    row = draft.rows[task]
    if row.status != PROCESSING or not (sure or not draft.scenario.rules.burial_needs_token):
        return ()
    if row.grave == NO_GRAVE and not row.expired:
        draft.blame(f"P3: a claim of task {task} is taken from a living worker whose lease is not over")
    if word == FINISHED:
        return settle(draft, Slot(task, phase=DONE))
    if word == BROKE:
        return settle(draft, Slot(task, phase=RAISED))
    if word == MISTAKEN:
        draft.blame(f"COST: task {task} pays with a failure for a claim that never started")
    if word == UNSTARTED and not row.wish:
        return place(draft, task, "reclaim", row)
    return _reclaim(draft, task, row)


def _reclaim(draft: Draft, task: int, row: Row) -> Refs:
    if row.wish and draft.scenario.rules.wish_heeded:
        end(draft, task, "heed a cancel", CANCELLED)
        return ()
    if draft.scenario.parks or _no_retry_left(draft, row):
        end(draft, task, "give up", FAILED)
        return ()
    row = row._replace(unpaid=_paid(row), failures=_failures(draft, row))
    return place(draft, task, "reclaim", row)


# --- what people ask for ------------------------------------------------------------------------------


def cancel(draft: Draft, task: int) -> None:
    row = draft.rows[task]
    draft.set_row(task, row._replace(unwanted=1))
    if row.status in WAITING:
        end(draft, task, "cancel", CANCELLED, epoch=True)
    else:
        draft.set_row(task, row._replace(wish=1, unwanted=1))


def reprioritise(draft: Draft, task: int) -> Refs:
    row = draft.rows[task]
    row = row._replace(priority=1 - row.priority)
    stays = row.status == SCHEDULED or not draft.scenario.rules.reprioritise_routes
    return place(draft, task, "reprioritise", row, status=row.status if stays else None)


def operator_retry(draft: Draft, task: int) -> Refs:
    row = draft.rows[task]
    row = row._replace(unpaid=_paid(row), unwanted=0, failures=0)
    return place(draft, task, "operator's retry", row, status=SCHEDULED if draft.hold else None)


def quarantine(draft: Draft, task: int) -> None:
    end(draft, task, "quarantine", QUARANTINED, epoch=True)


# --- the sweeper's --------------------------------------------------------------------------------------


def confirm(draft: Draft, refs: Refs, *, same_incarnation: bool) -> None:
    """Write the look's incarnation into rows that still wait at the epoch of the ticket that was seen."""
    rules = draft.scenario.rules
    for ref in refs:
        task = task_of(ref)
        row = draft.rows[task]
        if row.status != DISPATCHED or not (is_fresh(ref) or not rules.confirm_needs_epoch):
            continue
        if not is_fresh(ref):
            draft.blame(f"T3: task {task} is confirmed, though the ticket of this wait was not seen")
        if same_incarnation or not rules.incarnation_compared:
            draft.set_row(task, row._replace(confirmed=1))


def unconfirm(draft: Draft, refs: Refs) -> None:
    for ref in refs:
        task = task_of(ref)
        if is_fresh(ref) and draft.rows[task].status == DISPATCHED:
            draft.set_row(task, draft.rows[task]._replace(confirmed=0))


def move(draft: Draft, task: int, *, target: int) -> Refs:
    """Dispatch or recall: to `target`, which is the routing's unless a rule says otherwise."""
    row = draft.rows[task]
    verb = "dispatch" if target == DISPATCHED else "recall"
    return place(draft, task, verb, row, status=target)


def due(draft: Draft, task: int) -> Refs:
    return place(draft, task, "due", draft.rows[task])


# --- the first instruction ------------------------------------------------------------------------------


def start(draft: Draft, slot: Slot) -> None:
    """A handler's first instruction: P3 and P5 are judged here."""
    row = draft.rows[slot.task]
    if row.unpaid >= 1:
        draft.blame(
            f"P3: task {slot.task} starts again, and no failure, retry or reclaim was recorded for it"
        )
    if row.unwanted and row.status in ENDED and slot.late != TOO_LATE:  # no protocol closes that
        draft.blame(f"P5: task {slot.task} was cancelled and starts")
    draft.set_row(slot.task, row._replace(unpaid=row.unpaid + 1))
