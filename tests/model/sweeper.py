"""The sweeper: what it reads, and what it does about it later. Between the two, anything may happen."""

from __future__ import annotations

from collections.abc import Iterator

from tests.model import redis_side, rows
from tests.model.draft import Draft, plain
from tests.model.state import (
    CHOSEN,
    CLEARED,
    DECIDED,
    DISPATCHED,
    EVIDENCE,
    FAULT,
    HEAD,
    LATE,
    LEAKED,
    MARKED,
    NO_GRAVE,
    NONE,
    PROCESSING,
    PUSHING,
    QUEUED,
    REF_BITS,
    REFILL,
    REST,
    ROUTED,
    SCHEDULED,
    SEEN,
    SEEN_CONFIRMED,
    STRAY,
    TIDY,
    Refs,
    Scenario,
    State,
    Sweeper,
    is_fresh,
    task_of,
    ticket,
)
from tests.model.workers import Step

EXPIRED = 9  # the evidence that is no word of a page
RECLAIMED = 2  # what is pushed was reclaimed
ALL_OLDER = -1


def steps(scenario: Scenario, state: State) -> Iterator[Step]:
    for number, sweeper in enumerate(state.sweepers):
        if sweeper.at == REST:
            yield from _begin(scenario, state, number)
        else:
            yield _ACTIONS[sweeper.at](scenario, state, number, sweeper)
            if state.budget[FAULT["kill_sweeper"]]:
                draft = Draft(scenario, state)
                draft.spend("kill_sweeper")
                draft.set_sweeper(number, Sweeper())
                yield ("the sweeper is killed",), None, draft


def time_passes(scenario: Scenario, state: State) -> Iterator[Step]:
    """The lease of a claim whose holder is gone, or never knew that it won, is over some time."""
    for task, row in enumerate(state.rows):
        if row.status != PROCESSING or row.expired:
            continue
        kept = row.grave == LEAKED and scenario.rules.renews_all_of_holder
        if not kept and not rows.is_held(state.workers, task):
            draft = Draft(scenario, state)
            draft.set_row(task, row._replace(expired=1))
            yield ("the lease of task %s runs out", task), "time", draft


def _begin(scenario: Scenario, state: State, number: int) -> Iterator[Step]:
    yield from _begin_rows(scenario, state, number)
    yield from _begin_reclaims(scenario, state, number)
    yield from _fallback(scenario, state, number)
    if state.up and not state.fallback:
        for priority in range(len(state.queues)):
            if state.tracks[priority] == DISPATCHED and not state.paused[priority]:
                yield from _begin_tickets(scenario, state, number, priority)
                yield from _begin_refill(scenario, state, number, priority)
            if scenario.tidies and state.queues[priority]:
                yield _read(
                    scenario,
                    state,
                    number,
                    Sweeper(STRAY, plain(state.queues[priority])),
                    "the sweeper looks at the head of queue %s",
                    priority,
                )


def _read(scenario: Scenario, state: State, number: int, sweeper: Sweeper, text: str, about: int) -> Step:
    draft = Draft(scenario, state)
    draft.set_sweeper(number, sweeper)
    return (text, about), f"sweeper {sweeper.at} {about}", draft


# --- rows that are due, or on the wrong track ---------------------------------------------------------


def _begin_rows(scenario: Scenario, state: State, number: int) -> Iterator[Step]:
    for task, row in enumerate(state.rows):
        if row.status == SCHEDULED and not state.hold:
            draft = Draft(scenario, state)
            moved = rows.due(draft, task)
            draft.set_sweeper(number, _to_push(moved))
            yield ("the sweeper finds task %s due", task), "sweeper due", draft
    wrong = [
        task
        for task, row in enumerate(state.rows)
        if row.status in _movable(scenario)
        and row.status != (QUEUED if state.fallback else state.tracks[row.priority])
    ][: scenario.look_limit]
    if wrong:
        yield _move(scenario, state, number, tuple(wrong))


def _movable(scenario: Scenario) -> frozenset[int]:
    return ROUTED if scenario.rules.recall_waiting_only else ROUTED | {PROCESSING}


def _move(scenario: Scenario, state: State, number: int, wrong: tuple[int, ...]) -> Step:
    """One transaction reads the routing under its lock and moves the rows."""
    draft = Draft(scenario, state)
    if not scenario.rules.move_reads_routing:  # decide now, move later
        refs = tuple([ticket(task, draft.rows[task].priority) for task in wrong])
        target = draft.routed(draft.rows[wrong[0]].priority)
        draft.set_sweeper(number, Sweeper(DECIDED, refs, about=target))
        return ("the sweeper reads that task %s is on the wrong track", wrong[0]), "sweeper wrong", draft
    moved: Refs = ()
    for task in wrong:
        moved += rows.move(draft, task, target=draft.routed(draft.rows[task].priority))
    draft.set_sweeper(number, _to_push(moved))
    return ("the sweeper moves task %s to its right track", wrong[0]), "sweeper wrong", draft


def _move_as_decided(scenario: Scenario, state: State, number: int, sweeper: Sweeper) -> Step:
    draft = Draft(scenario, state)
    other = QUEUED if sweeper.about == DISPATCHED else DISPATCHED
    moved: Refs = ()
    for ref in sweeper.refs:
        if draft.rows[task_of(ref)].status == other:
            moved += rows.move(draft, task_of(ref), target=sweeper.about)
    draft.set_sweeper(number, _to_push(moved))
    return ("the sweeper moves the rows that it found",), "sweeper moves", draft


def _to_push(refs: Refs) -> Sweeper:
    return Sweeper(PUSHING, refs) if refs else Sweeper()


def _push(scenario: Scenario, state: State, number: int, sweeper: Sweeper) -> Step:
    """What was moved goes to the end of its queue, what was reclaimed to the head."""
    draft = Draft(scenario, state)
    redis_side.push(draft, sweeper.refs, how="front" if sweeper.word == RECLAIMED else "end")
    draft.set_sweeper(number, Sweeper())
    return ("the sweeper pushes %s", sweeper.refs), "sweeper pushes", draft


# --- reclaims -----------------------------------------------------------------------------------------


def _begin_reclaims(scenario: Scenario, state: State, number: int) -> Iterator[Step]:
    for task, row in enumerate(state.rows):
        if row.status != PROCESSING:
            continue
        if row.expired:
            found = Sweeper(EVIDENCE, about=task, word=EXPIRED)
            yield _read(
                scenario, state, number, found, "the sweeper reads that the lease of task %s is over", task
            )
        if row.grave not in (NO_GRAVE, LEAKED):
            found = Sweeper(EVIDENCE, about=task, word=row.grave)
            yield _read(
                scenario, state, number, found, "the sweeper reads that the holder of task %s is dead", task
            )


def _reclaim(scenario: Scenario, state: State, number: int, sweeper: Sweeper) -> Step:
    draft = Draft(scenario, state)
    task, sure = sweeper.about, bool(sweeper.sure)
    if sweeper.word == EXPIRED:
        moved = rows.reclaim_expired(draft, task, sure=sure)
    else:
        moved = rows.reclaim_dead(draft, task, sweeper.word, sure=sure)
    draft.set_sweeper(number, Sweeper(PUSHING, moved, word=RECLAIMED) if moved else Sweeper())
    text = "the sweeper reclaims task %s" if draft.edges else "the sweeper comes too late for task %s"
    return (text, task), "sweeper reclaims", draft


# --- the fallback, and the way back -------------------------------------------------------------------


def _fallback(scenario: Scenario, state: State, number: int) -> Iterator[Step]:
    if not scenario.rules.fallback_recorded:
        return
    if not state.up and not state.fallback and DISPATCHED in state.tracks:
        draft = Draft(scenario, state)
        draft.fallback = 1
        draft.office = draft.office._replace(current=0)
        yield ("the sweeper records the fallback",), "sweeper falls back", draft
    if state.up and state.fallback and not any(row.status == DISPATCHED for row in state.rows):
        draft = Draft(scenario, state)
        draft.set_sweeper(number, Sweeper(CLEARED))
        redis_side.clear(draft)
        yield ("the sweeper finds no row left in Redis and clears the queues",), "sweeper clears", draft


def _return(scenario: Scenario, state: State, number: int, _sweeper: Sweeper) -> Step:
    draft = Draft(scenario, state)
    draft.fallback = 0
    draft.office = draft.office._replace(current=0)
    draft.set_sweeper(number, Sweeper())
    return ("the sweeper ends the fallback",), "sweeper returns", draft


# --- tickets: the first look and the second -----------------------------------------------------------


def _begin_tickets(scenario: Scenario, state: State, number: int, priority: int) -> Iterator[Step]:
    fresh = _chosen(scenario, state, priority, confirmed=0, older=ALL_OLDER)
    if fresh:
        found = Sweeper(CHOSEN, fresh, about=priority)
        yield _read(
            scenario, state, number, found, "the sweeper reads unconfirmed rows of queue %s", priority
        )
    if not scenario.rules.second_look:
        return
    head = state.queues[priority][0] >> REF_BITS if state.queues[priority] else ALL_OLDER
    if _chosen(scenario, state, priority, confirmed=1, older=head):
        found = Sweeper(HEAD, about=priority, word=head)
        yield _read(scenario, state, number, found, "the sweeper looks at the head of queue %s", priority)


def _chosen(scenario: Scenario, state: State, priority: int, *, confirmed: int, older: int) -> Refs:
    """DISPATCHED rows of a queue in the order of their ids, as many as one statement takes."""
    found = [
        ticket(task, priority)
        for task, row in enumerate(state.rows)
        if row.status == DISPATCHED
        and row.priority == priority
        and row.confirmed == confirmed
        and older >> task & 1
        and (confirmed or not NONE < state.overflow[priority][0] <= task)  # beyond the mark it is not missing
    ]
    return tuple(found[: scenario.look_limit])


def _choose_confirmed(scenario: Scenario, state: State, number: int, sweeper: Sweeper) -> Step:
    draft = Draft(scenario, state)
    found = _chosen(scenario, state, sweeper.about, confirmed=1, older=sweeper.word) if sweeper.sure else ()
    draft.set_sweeper(number, Sweeper(CHOSEN, found, about=sweeper.about, word=1) if found else Sweeper())
    return ("the sweeper reads confirmed rows, older than the head: %s", found), "sweeper chooses", draft


def _look(scenario: Scenario, state: State, number: int, sweeper: Sweeper) -> Step:
    """One script reads the queue's own list and the incarnation."""
    draft = Draft(scenario, state)
    if not state.up:
        draft.set_sweeper(number, Sweeper())
        return ("the sweeper cannot look",), "sweeper looks", draft
    seen = redis_side.present(draft, sweeper.about)
    missing = tuple([ref for ref in sweeper.refs if ref not in seen])
    found = tuple([ref for ref in sweeper.refs if ref in seen]) if sweeper.word == 0 else ()
    at = SEEN if missing else SEEN_CONFIRMED
    draft.set_sweeper(number, Sweeper(at, missing, found) if missing or found else Sweeper())
    return ("the sweeper looks for %s, and misses %s", sweeper.refs, missing), "sweeper looks", draft


def _push_missing(scenario: Scenario, state: State, number: int, sweeper: Sweeper) -> Step:
    draft = Draft(scenario, state)
    refs = sweeper.refs
    if not scenario.rules.push_keeps_epoch:
        refs = ()
        for ref in sweeper.refs:
            if is_fresh(ref) and draft.rows[task_of(ref)].status == DISPATCHED:
                refs += rows.place(draft, task_of(ref), "push again", draft.rows[task_of(ref)])
    redis_side.push(draft, refs)
    left = draft.sweepers[number]
    draft.set_sweeper(number, left._replace(at=SEEN_CONFIRMED, refs=()) if left.present else Sweeper())
    return ("the sweeper pushes %s again", sweeper.refs), "sweeper pushes", draft


def _confirm(scenario: Scenario, state: State, number: int, sweeper: Sweeper) -> Step:
    draft = Draft(scenario, state)
    rows.confirm(draft, sweeper.present, same_incarnation=bool(sweeper.sure))
    draft.set_sweeper(number, Sweeper())
    return ("the sweeper confirms %s", sweeper.present), "sweeper confirms", draft


# --- what waits beyond the window ---------------------------------------------------------------------


def _begin_refill(scenario: Scenario, state: State, number: int, priority: int) -> Iterator[Step]:
    """One script lowers the mark to what was refused below it, and tells the mark and the queue's length."""
    mark, low = state.overflow[priority]
    room = scenario.window - len(state.queues[priority])
    if mark == NONE or room < 1 or not scenario.rules.refills:
        return
    draft = Draft(scenario, state)
    mark = mark if low == NONE else min(mark, low)
    redis_side.set_overflow(draft, priority, mark, NONE)
    draft.set_sweeper(number, Sweeper(MARKED, sure=mark, about=priority, word=room))
    yield (
        ("the sweeper sees that queue %s has room, and rows wait from task %s on", priority, mark),
        "marked",
        draft,
    )


def _choose_refill(scenario: Scenario, state: State, number: int, sweeper: Sweeper) -> Step:
    draft = Draft(scenario, state)
    found = _unpushed(state, sweeper.about, sweeper.sure)[: sweeper.word]
    last = len(found) < sweeper.word
    draft.set_sweeper(number, Sweeper(REFILL, found, sure=sweeper.sure, about=sweeper.about, word=int(last)))
    return ("the sweeper reads the next rows: %s", found), "sweeper reads on", draft


def _unpushed(state: State, priority: int, start: int) -> Refs:
    """DISPATCHED, unconfirmed rows of a queue from a task on, in order."""
    return tuple(
        [
            ticket(task, priority)
            for task, row in enumerate(state.rows)
            if task >= start and row.status == DISPATCHED and row.priority == priority and not row.confirmed
        ]
    )


def _refill(scenario: Scenario, state: State, number: int, sweeper: Sweeper) -> Step:
    draft = Draft(scenario, state)
    late = redis_side.refill(draft, sweeper.about, sweeper.refs, start=sweeper.sure, last=bool(sweeper.word))
    found = _unpushed(state, sweeper.about, late) if late is not None and late != NONE else ()
    draft.set_sweeper(number, Sweeper(LATE, found, about=sweeper.about) if found else Sweeper())
    return ("the sweeper refills with %s", sweeper.refs), "sweeper refills", draft


def _push_late(scenario: Scenario, state: State, number: int, sweeper: Sweeper) -> Step:
    draft = Draft(scenario, state)
    redis_side.push(draft, sweeper.refs, how="missing")
    draft.set_sweeper(number, Sweeper())
    return ("the sweeper pushes what was refused meanwhile: %s", sweeper.refs), "sweeper pushes", draft


# --- stale tickets near the head ------------------------------------------------------------------------


def _judge_strays(scenario: Scenario, state: State, number: int, sweeper: Sweeper) -> Step:
    draft = Draft(scenario, state)
    stale = tuple(
        [ref for ref in sweeper.refs if not is_fresh(ref) or draft.rows[task_of(ref)].status != DISPATCHED]
    )
    draft.set_sweeper(number, Sweeper(TIDY, stale) if stale else Sweeper())
    return ("the sweeper finds the stale ones: %s", stale), "sweeper judges", draft


def _tidy(scenario: Scenario, state: State, number: int, sweeper: Sweeper) -> Step:
    draft = Draft(scenario, state)
    if draft.up:
        redis_side.remove(draft, sweeper.refs)
    draft.set_sweeper(number, Sweeper())
    return ("the sweeper takes %s out", sweeper.refs), "sweeper tidies", draft


_ACTIONS = {
    CHOSEN: _look,
    SEEN: _push_missing,
    SEEN_CONFIRMED: _confirm,
    HEAD: _choose_confirmed,
    PUSHING: _push,
    EVIDENCE: _reclaim,
    DECIDED: _move_as_decided,
    CLEARED: _return,
    STRAY: _judge_strays,
    TIDY: _tidy,
    MARKED: _choose_refill,
    REFILL: _refill,
    LATE: _push_late,
}
