"""Redis: what one script does. A call while Redis is away changes nothing; callers ask `draft.up`."""

from __future__ import annotations

from tests.model.draft import Draft, plain
from tests.model.state import (
    ABSENT,
    DISPATCHED,
    ENDLESS,
    HEAD,
    NO_OVERFLOW,
    NONE,
    REF_BITS,
    REF_MASK,
    SEEN,
    SEEN_CONFIRMED,
    Refs,
    Sweeper,
    is_fresh,
    priority_of,
    task_of,
)


def _stamp(draft: Draft) -> int:
    """The rows whose wait began before now, as bits of an entry."""
    bits = 0
    for task, row in enumerate(draft.rows):
        if row.status == DISPATCHED:
            bits |= 1 << (task + REF_BITS)
    return bits


def push(draft: Draft, refs: Refs, *, how: str = "end") -> None:
    """Push tickets of committed rows, as `push.lua` does: at the `end`, `missing` ones, or in `front`.

    At the end there is room for a window of tickets, and while an overflow is marked, whatever lies beyond
    the mark waits its turn. What is refused sets the mark, or is noted below it. The front takes all.
    """
    if not draft.up:
        return
    stamp = _stamp(draft)
    room, marks = _room(draft, how)
    for ref in reversed(refs) if how == "front" else refs:
        priority, task = priority_of(ref), task_of(ref)
        if draft.rows[task].status == ABSENT:
            draft.blame(f"T1: a ticket of task {task} is in Redis, and no row was committed")
        if room[priority] <= 0 or NONE < marks[priority] <= task:
            _refuse(draft, priority, task)
        elif how != "missing" or not _has_hash(draft, ref):
            room[priority] -= 1
            _enter(draft, ref, stamp, front=how == "front")


def _room(draft: Draft, how: str) -> tuple[list[int], list[int]]:
    """Per queue how many tickets fit, and from which task on they wait for their turn."""
    if how == "front":
        return [ENDLESS] * len(draft.queues), [NONE] * len(draft.queues)
    counted = len(draft.orphans) if draft.scenario.rules.window_counts_in_flight else 0
    room = [draft.scenario.window - len(queue) - counted for queue in draft.queues]
    return room, [mark for mark, _ in draft.overflow]


def _refuse(draft: Draft, priority: int, task: int) -> None:
    mark, low = draft.overflow[priority]
    if mark == NONE:
        set_overflow(draft, priority, task, NONE)
    else:
        set_overflow(draft, priority, mark, task if low == NONE else min(low, task))


def _enter(draft: Draft, ref: int, stamp: int, *, front: bool = False) -> None:
    queue = draft.queues[priority_of(ref)]
    draft.set_queue(priority_of(ref), (ref | stamp, *queue) if front else (*queue, ref | stamp))
    if draft.scenario.window < ENDLESS and is_fresh(ref):
        draft.set_row(task_of(ref), draft.rows[task_of(ref)]._replace(hashed=1))


def _has_hash(draft: Draft, ref: int) -> bool:
    return is_fresh(ref) and bool(draft.rows[task_of(ref)].hashed)


def set_overflow(draft: Draft, priority: int, mark: int, low: int) -> None:
    draft.overflow = (*draft.overflow[:priority], (mark, low), *draft.overflow[priority + 1 :])


def refill(draft: Draft, priority: int, refs: Refs, *, start: int, last: bool) -> int | None:
    """Push what has no hash yet and move the mark, in one script, if nobody else has moved it.

    With the last row the mark goes; returns the lowest task refused meanwhile, or `NONE`. None: not our mark.
    """
    mark, low = draft.overflow[priority]
    if not draft.up or mark != start:
        return None
    stamp = _stamp(draft)
    for ref in refs:
        if not _has_hash(draft, ref):
            _enter(draft, ref, stamp)
    if last:
        set_overflow(draft, priority, *NO_OVERFLOW)
        return low
    set_overflow(draft, priority, task_of(refs[-1]) + 1, low)
    return NONE


def give_back(draft: Draft, refs: Refs) -> None:
    """Tickets that were taken and refused go to the head; they keep the time of their old push."""
    if draft.up:
        for ref in reversed(refs):
            draft.set_queue(priority_of(ref), (ref, *draft.queues[priority_of(ref)]))
        settle_in_flight(draft, refs)


def take(draft: Draft, count: int, *, in_flight: bool = True) -> Refs:
    """Up to `count` tickets in strict order of the queues that are not paused."""
    taken: Refs = ()
    for priority, queue in enumerate(draft.queues):
        left = count - len(taken)
        if left <= 0:
            break
        if draft.paused[priority] or not queue:
            continue
        taken += plain(queue[:left])
        draft.set_queue(priority, queue[left:])
    rules = draft.scenario.rules
    if in_flight and (rules.in_flight_counts or rules.window_counts_in_flight):
        draft.orphans = tuple(sorted((*draft.orphans, *taken)))
    return taken


def settle_in_flight(draft: Draft, refs: Refs) -> None:
    """Tickets leave their worker's in-flight list."""
    left = list(draft.orphans)
    for ref in refs:
        for one in (ref, ref & ~1):
            if one in left:
                left.remove(one)
                break
    draft.orphans = tuple(left)


def present(draft: Draft, priority: int) -> set[int]:
    """The tickets of a queue's own list, as a look sees them."""
    found = {entry & REF_MASK for entry in draft.queues[priority]}
    if draft.scenario.rules.in_flight_counts:
        found |= set(draft.orphans)
    return found


def remove(draft: Draft, refs: Refs) -> None:
    for ref in refs:
        queue = draft.queues[priority_of(ref)]
        draft.set_queue(priority_of(ref), tuple([one for one in queue if one & REF_MASK != ref]))


def new_incarnation(draft: Draft, queues: tuple[Refs, ...]) -> None:
    """The server lost its data, or came back with older data: whatever was seen was seen in another one."""
    draft.queues = queues
    draft.orphans = ()
    draft.overflow = (NO_OVERFLOW,) * len(queues)
    if draft.scenario.window < ENDLESS:
        kept = {task_of(entry) for queue in queues for entry in queue if is_fresh(entry)}
        draft.rows = tuple([row._replace(hashed=int(task in kept)) for task, row in enumerate(draft.rows)])
    if draft.scenario.rules.incarnation_compared:
        draft.rows = tuple([row._replace(confirmed=0) for row in draft.rows])
        draft.sweepers = tuple([forget_look(one) for one in draft.sweepers])


def forget_look(sweeper: Sweeper) -> Sweeper:
    return sweeper._replace(sure=0) if sweeper.at in (SEEN, SEEN_CONFIRMED, HEAD) else sweeper


def clear(draft: Draft) -> None:
    """Every ticket of every queue is deleted, and the marks with them."""
    draft.queues = ((),) * len(draft.queues)
    draft.overflow = (NO_OVERFLOW,) * len(draft.queues)
    draft.rows = tuple([row._replace(hashed=0) for row in draft.rows])
