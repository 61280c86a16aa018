"""Everybody else: the web process that submits, people with wishes, operators, and what befalls Redis."""

from __future__ import annotations

from collections.abc import Iterator

from tests.model import redis_side, rows
from tests.model.draft import Draft
from tests.model.state import (
    ABSENT,
    CANCELLED,
    DISPATCHED,
    EARLY,
    FAILED,
    FAULT,
    IDLE,
    KNOWS,
    PROCESSING,
    QUARANTINED,
    QUEUED,
    SCHEDULED,
    WAITING,
    Office,
    Refs,
    Row,
    Scenario,
    State,
    ticket,
)
from tests.model.workers import Step

RETRYABLE = (FAILED, CANCELLED, QUARANTINED)


def steps(scenario: Scenario, state: State) -> Iterator[Step]:
    yield from _office(scenario, state)
    if state.up and not (any(state.budget) or any(state.paused) or state.hold):
        return
    for task, row in enumerate(state.rows):
        yield from _wishes(scenario, state, task, row)
    for priority in range(len(state.queues)):
        yield from _operator(scenario, state, priority)
    yield from _intake(scenario, state)
    yield from _redis(scenario, state)


# --- the web process --------------------------------------------------------------------------------


def _office(scenario: Scenario, state: State) -> Iterator[Step]:
    office = state.office
    if office != Office() and state.budget[FAULT["kill"]]:
        draft = Draft(scenario, state)
        draft.spend("kill")
        draft.office = Office()
        yield ("the web process is killed",), None, draft
    if office.pushing:
        draft = Draft(scenario, state)
        redis_side.push(draft, office.pushing)
        draft.office = office._replace(pushing=())
        yield ("the web process pushes %s", office.pushing), "office pushes", draft
    elif office.at == IDLE:
        new = next((task for task, row in enumerate(state.rows) if row.status == ABSENT), None)
        if new is not None:
            yield _read_routing(scenario, state, new, None)
    elif office.at == KNOWS and not (office.current or not scenario.rules.submit_guard):
        yield _read_routing(scenario, state, office.task, "office reads")
    else:
        yield _insert(scenario, state)


def _read_routing(scenario: Scenario, state: State, task: int, duty: str | None) -> Step:
    draft = Draft(scenario, state)
    status = SCHEDULED if state.hold else draft.routed(state.rows[task].priority)
    draft.office = Office(KNOWS, task, status)
    return ("a submission of task %s reads the routing", task), duty, draft


def _insert(scenario: Scenario, state: State) -> Step:
    """One statement: the row, if the routing still has the version that was read."""
    office = state.office
    draft = Draft(scenario, state)
    first = (ticket(office.task, state.rows[office.task].priority),)
    early = not scenario.rules.commit_first and office.status == DISPATCHED
    if early and office.at == KNOWS:
        redis_side.push(draft, first)
        draft.office = office._replace(at=EARLY)
        return ("the web process pushes %s, and has not committed its row", first), "office pushes", draft
    draft.change(office.task, "submit", office.status, epoch=True)
    draft.office = Office(pushing=first if office.status == DISPATCHED and not early else ())
    return ("task %s is inserted and committed", office.task), "office inserts", draft


def _later_push(draft: Draft, refs: Refs) -> None:
    draft.office = draft.office._replace(pushing=draft.office.pushing + refs)


# --- wishes -----------------------------------------------------------------------------------------


def _wishes(scenario: Scenario, state: State, task: int, row: Row) -> Iterator[Step]:
    budget = state.budget
    if budget[FAULT["cancel"]] and (row.status in WAITING or (row.status == PROCESSING and not row.wish)):
        draft = Draft(scenario, state)
        draft.spend("cancel")
        rows.cancel(draft, task)
        yield ("task %s is cancelled by its user", task), None, draft
    if budget[FAULT["reprioritise"]] and row.status in WAITING and len(state.queues) > 1:
        draft = Draft(scenario, state)
        draft.spend("reprioritise")
        _later_push(draft, rows.reprioritise(draft, task))
        yield ("task %s gets the other priority", task), None, draft
    if budget[FAULT["retry"]] and row.status in RETRYABLE:
        draft = Draft(scenario, state)
        draft.spend("retry")
        _later_push(draft, rows.operator_retry(draft, task))
        yield ("an operator retries task %s", task), None, draft
    if budget[FAULT["quarantine"]] and row.status in WAITING:
        draft = Draft(scenario, state)
        draft.spend("quarantine")
        rows.quarantine(draft, task)
        yield ("task %s is quarantined", task), None, draft


# --- operators --------------------------------------------------------------------------------------


def _operator(scenario: Scenario, state: State, priority: int) -> Iterator[Step]:
    if state.budget[FAULT["pause"]] and not state.paused[priority]:
        draft = Draft(scenario, state)
        draft.spend("pause")
        draft.paused = _with(draft.paused, priority, 1)
        yield ("an operator pauses queue %s", priority), None, draft
    if state.paused[priority]:
        draft = Draft(scenario, state)
        draft.paused = _with(draft.paused, priority, 0)
        yield ("the operator ends the pause of queue %s", priority), "operator resumes", draft
    if state.budget[FAULT["flip"]]:
        draft = Draft(scenario, state)
        draft.spend("flip")
        other = QUEUED if draft.tracks[priority] == DISPATCHED else DISPATCHED
        draft.tracks = _with(draft.tracks, priority, other)
        draft.office = draft.office._replace(current=0)
        name = "Redis" if other == DISPATCHED else "database"
        yield (f"an operator flips the routing of queue %s to the {name}", priority), None, draft


def _intake(scenario: Scenario, state: State) -> Iterator[Step]:
    if state.budget[FAULT["hold"]] and not state.hold:
        draft = Draft(scenario, state)
        draft.spend("hold")
        draft.hold = 1
        draft.office = draft.office._replace(current=0)
        yield ("an operator holds the intake",), None, draft
    if state.hold:
        draft = Draft(scenario, state)
        draft.hold = 0
        draft.office = draft.office._replace(current=0)
        yield ("the operator opens the intake again",), "operator opens", draft


def _with(values: tuple[int, ...], place: int, value: int) -> tuple[int, ...]:
    return (*values[:place], value, *values[place + 1 :])


# --- Redis ------------------------------------------------------------------------------------------


def _redis(scenario: Scenario, state: State) -> Iterator[Step]:
    budget = state.budget
    if not state.up:
        draft = Draft(scenario, state)
        draft.up = 1
        yield ("Redis answers again",), None, draft  # nobody promises that
        return
    empty = ((),) * len(state.queues)
    if budget[FAULT["lose"]]:
        draft = Draft(scenario, state)
        draft.spend("lose")
        redis_side.new_incarnation(draft, empty)
        yield ("Redis loses all its data",), None, draft
    if budget[FAULT["save"]] and state.queues != empty:
        draft = Draft(scenario, state)
        draft.spend("save")
        draft.snapshot = state.queues
        yield ("Redis saves a snapshot",), None, draft
    if budget[FAULT["restore"]] and state.snapshot:
        draft = Draft(scenario, state)
        draft.spend("restore")
        redis_side.new_incarnation(draft, state.snapshot)
        draft.snapshot = ()
        yield ("Redis comes back with the older snapshot",), None, draft
    if budget[FAULT["down"]]:
        draft = Draft(scenario, state)
        draft.spend("down")
        draft.up = 0
        yield ("Redis stops answering",), None, draft
