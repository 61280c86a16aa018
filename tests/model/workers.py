"""Workers: our own, with its loop and its keeper, and the stock `rq worker`. One yield is one step."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

from tests.model import redis_side, rows
from tests.model.draft import Draft
from tests.model.state import (
    BROKE,
    CHECKED,
    CUT,
    DONE,
    FAULT,
    FINISHED,
    HELD,
    LEAKED,
    LOWERED,
    MISTAKEN,
    PUBLISHED,
    QUEUED,
    RAISED,
    READY,
    RUN,
    RUNNING,
    STARTED,
    TAKEN,
    TOO_LATE,
    UNSTARTED,
    WHOLE,
    WON,
    Refs,
    Scenario,
    Slot,
    State,
    Worker,
    ticket,
)

# What happens in words with its arguments, the fairness class (None: nobody owes this step), the next state.
Label = tuple[str | int | Refs, ...]
Step = tuple[Label, str | None, Draft]

AT_REST = Worker()
FORGOTTEN = -1  # of a claim that a newer page does not name
_PAGE = {HELD: UNSTARTED, DONE: FINISHED, RAISED: BROKE}


def steps(scenario: Scenario, state: State) -> Iterator[Step]:
    for number, kind in enumerate(scenario.workers):
        worker = state.workers[number]
        for label, duty, draft in _owed(scenario, state, number, worker, kind):
            yield label, duty and f"{kind} {duty}", draft
        if worker != AT_REST and any(state.budget):
            yield from _accidents(scenario, state, number, worker, kind)


def _owed(scenario: Scenario, state: State, number: int, worker: Worker, kind: str) -> Iterator[Step]:
    if kind == "stock":
        yield from _stock(scenario, state, number, worker)
    else:
        yield from _ours(scenario, state, number, worker, kind)
    yield from _handler(scenario, state, number, worker)
    if worker.pushing or worker.returning:
        yield _push(scenario, state, number, worker)


# --- the loop of our worker -------------------------------------------------------------------------


def _ours(scenario: Scenario, state: State, number: int, worker: Worker, kind: str) -> Iterator[Step]:
    if worker.phase == READY:
        yield from _fetch(scenario, state, number, worker, kind)
    elif worker.phase == TAKEN:
        yield _turn(scenario, state, number, worker, worker.refs, ())
        yield from _bad_turns(scenario, state, number, worker)
    elif worker.phase == WON:
        draft = Draft(scenario, state)
        draft.set_worker(number, worker._replace(phase=RUN, page=()))
        if worker.kept:  # the page is written anew, and says nothing of them
            kept = tuple([one._replace(late=FORGOTTEN) for one in worker.kept])
            draft.set_worker(number, worker._replace(phase=RUN, page=(), kept=kept))
        yield ("worker %s publishes its batch", number), "begin", draft
    yield from _keeper(scenario, state, number, worker)


def _fetch(scenario: Scenario, state: State, number: int, worker: Worker, kind: str) -> Iterator[Step]:
    if kind == "ours" and state.up and any(state.queues):
        draft = Draft(scenario, state)
        refs = redis_side.take(draft, scenario.batch)
        if refs:
            draft.set_worker(number, worker._replace(phase=TAKEN, refs=refs))
            yield ("worker %s takes the tickets of %s", number, refs), "fetch", draft
    if kind == "poller" or scenario.rules.dormant_poller:
        queued = _queued(scenario, state, worker)
        for chosen in combinations(queued, min(scenario.batch, len(queued))):
            if chosen:
                yield _turn(scenario, state, number, worker, (), chosen)
    if worker.slots:
        yield _turn(scenario, state, number, worker, (), ())


def _queued(scenario: Scenario, state: State, worker: Worker) -> list[int]:
    """What a turn finds QUEUED once it has settled: a task that goes back to waiting, too."""
    found = state.rows
    if worker.slots:
        draft = Draft(scenario, state)
        _settle_all(draft, worker.slots)
        found = draft.rows
    return [task for task, row in enumerate(found) if row.status == QUEUED and not state.paused[row.priority]]


def _turn(
    scenario: Scenario, state: State, number: int, worker: Worker, refs: Refs, queued: tuple[int, ...]
) -> Step:
    """One transaction: the end of the last batch and the claim of the next."""
    draft = Draft(scenario, state)
    pushing, released = _settle_all(draft, worker.slots)
    won, refused = rows.claim_tickets(draft, refs) if refs else ((), ())
    if draft.orphans:
        redis_side.settle_in_flight(draft, refs)
    won += rows.claim_queued(draft, queued)
    after = draft.workers[number]  # its other hands may have changed: a settle makes tickets stale
    draft.set_worker(
        number,
        after._replace(
            phase=WON if won else READY,
            refs=(),
            slots=won,
            cut=WHOLE,
            page=_page_before(scenario, worker) if won else (),
            pushing=after.pushing + pushing,
            returning=after.returning + released + refused,
        ),
    )
    settled = _names(worker.slots)
    claimed = _names(won)
    return ("worker %s settles %s and claims %s in one turn", number, settled, claimed), "turn", draft


def _page_before(scenario: Scenario, worker: Worker) -> Refs:
    """The tasks that the page says were started, until it shows the next batch: if it names no claims, what
    it says is taken for the next claim of the same task."""
    if scenario.rules.page_names_claims:
        return ()
    return tuple([slot.task for slot in worker.slots if slot.phase != HELD])


def _names(slots: tuple[Slot, ...]) -> Refs:
    return tuple([ticket(slot.task, 0) for slot in slots])


def _settle_all(draft: Draft, slots: tuple[Slot, ...]) -> tuple[Refs, Refs]:
    """Settle in the order of the ids. Tickets to push behind the others, and released ones for the head."""
    pushing: Refs = ()
    released: Refs = ()
    settled: set[int] = set()
    for slot in sorted(slots):
        moved = rows.settle(draft, slot._replace(mine=0) if slot.task in settled else slot)
        settled.add(slot.task)
        if slot.phase in (DONE, RAISED):
            pushing += moved
        else:
            released += moved
    return pushing, released


def _bad_turns(scenario: Scenario, state: State, number: int, worker: Worker) -> Iterator[Step]:
    if state.budget[FAULT["turn_fails"]]:
        draft = Draft(scenario, state)
        draft.spend("turn_fails")
        draft.set_worker(
            number, worker._replace(phase=READY, refs=(), returning=worker.returning + worker.refs)
        )
        yield ("worker %s meets no database, and keeps its outcomes", number), None, draft
    if state.budget[FAULT["lost_answer"]]:
        draft = _turn(scenario, state, number, worker, worker.refs, ())[2]
        draft.spend("lost_answer")
        known = draft.workers[number]  # what it had in hand, with the claims lost that it settled
        lost = tuple([one._replace(mine=0) for one in worker.slots])
        draft.set_worker(number, known._replace(phase=READY, slots=lost, returning=worker.refs, pushing=()))
        for slot in known.slots:
            draft.set_row(slot.task, draft.rows[slot.task]._replace(grave=LEAKED))
        yield ("worker %s turns, the answer is lost, and so is the read-back", number), None, draft


def _push(scenario: Scenario, state: State, number: int, worker: Worker) -> Step:
    draft = Draft(scenario, state)
    redis_side.give_back(draft, worker.returning)
    redis_side.push(draft, worker.pushing)
    draft.set_worker(number, worker._replace(pushing=(), returning=()))
    return ("worker %s pushes %s", number, worker.returning + worker.pushing), "push", draft


# --- the keeper: renewal, and the batch cut short -------------------------------------------------------


def _keeper(scenario: Scenario, state: State, number: int, worker: Worker) -> Iterator[Step]:
    if any(slot.late and slot.mine for slot in worker.slots):
        draft = Draft(scenario, state)
        rows.renew(draft, number)
        yield ("worker %s renews its leases", number), "renew", draft
    if worker.phase == RUN:
        yield from _cut(scenario, state, number, worker)
    if worker.kept:
        draft = Draft(scenario, state)
        pushing, released = _settle_all(draft, worker.kept)
        after = draft.workers[number]
        draft.set_worker(
            number,
            after._replace(kept=(), pushing=after.pushing + pushing, returning=after.returning + released),
        )
        tasks = _names(worker.kept)
        yield ("the keeper of worker %s settles what was cut: %s", number, tasks), "settle cut", draft


def _cut(scenario: Scenario, state: State, number: int, worker: Worker) -> Iterator[Step]:
    if worker.cut == WHOLE and state.budget[FAULT["cut"]] and len(worker.slots) > 1:
        draft = Draft(scenario, state)
        draft.spend("cut")
        peeked = tuple([slot.task for slot in worker.slots if slot.phase == HELD])
        draft.set_worker(
            number, worker._replace(cut=LOWERED, peeked=peeked if _looks_early(scenario) else ())
        )
        yield ("the keeper of worker %s begins to cut the batch", number), None, draft
    elif worker.cut == LOWERED:
        draft = Draft(scenario, state)
        if _looks_early(scenario):
            running = [s for s in worker.slots if s.phase < DONE and s.task in worker.peeked]
            rest = tuple([one._replace(phase=HELD) for one in running])
        else:
            rest = tuple([one for one in worker.slots if one.phase == HELD])
        over = tuple([one for one in worker.slots if one.phase in (DONE, RAISED)])
        slots = tuple([one for one in worker.slots if one.phase not in (HELD, DONE, RAISED)])
        draft.set_worker(
            number, worker._replace(slots=slots, kept=worker.kept + over + rest, cut=CUT, peeked=())
        )
        tasks = _names(over + rest)
        yield ("the keeper of worker %s takes %s out of the batch", number, tasks), "cut", draft


def _looks_early(scenario: Scenario) -> bool:
    return not scenario.rules.limit_before_index


# --- the handler's side ---------------------------------------------------------------------------------


def _handler(scenario: Scenario, state: State, number: int, worker: Worker) -> Iterator[Step]:
    """The next instruction of the child that runs the batch: publish, check, start, return."""
    if worker.phase != RUN:
        return
    at = next((at for at, slot in enumerate(worker.slots) if slot.phase < DONE), None)
    if at is None:
        yield _stop(scenario, state, number, worker, "worker %s has run its batch")
        return
    slot = worker.slots[at]
    phase = slot.phase
    if phase in (HELD, PUBLISHED) and _must_stop(scenario, worker, slot):
        yield _stop(scenario, state, number, worker, "worker %s stops before its next start")
    elif phase == HELD and scenario.rules.publish_first:
        yield _set(scenario, state, number, at, PUBLISHED, "worker %s publishes the start of task %s")
    elif phase in (HELD, PUBLISHED):
        yield _set(scenario, state, number, at, CHECKED, "worker %s checks limit and lease of task %s")
    elif phase == CHECKED:
        label, kind, draft = _set(scenario, state, number, at, RUNNING, "worker %s starts task %s")
        rows.start(draft, slot)
        yield label, kind, draft
    else:
        yield _set(scenario, state, number, at, DONE, "in worker %s the handler of task %s returns")
        if state.budget[FAULT["fail"]]:
            label, _, draft = _set(
                scenario, state, number, at, RAISED, "in worker %s the handler of task %s fails"
            )
            draft.spend("fail")
            yield label, None, draft


def _must_stop(scenario: Scenario, worker: Worker, slot: Slot) -> bool:
    """The limit counts once the index is published; a keeper that looks too early lowers it too late."""
    if slot.phase == HELD and scenario.rules.publish_first:
        return False
    lowered = worker.cut == CUT if _looks_early(scenario) else worker.cut != WHOLE
    return lowered or bool(slot.late and scenario.rules.deadline_checked)


def _stop(scenario: Scenario, state: State, number: int, worker: Worker, text: str) -> Step:
    """The loop goes on, and takes back from the keeper what a cut has left unsettled: before that is settled,
    the page must not show another batch."""
    draft = Draft(scenario, state)
    slots, kept = worker.slots, worker.kept
    if scenario.rules.page_keeps_unsettled:
        slots, kept = (*kept, *slots), ()
    draft.set_worker(number, worker._replace(phase=READY, slots=slots, kept=kept, cut=WHOLE, peeked=()))
    return (text, number), "run", draft


def _set(scenario: Scenario, state: State, number: int, at: int, phase: int, text: str) -> Step:
    worker = state.workers[number]
    slot = worker.slots[at]
    draft = Draft(scenario, state)
    slots = (*worker.slots[:at], slot._replace(phase=phase), *worker.slots[at + 1 :])
    draft.set_worker(number, worker._replace(slots=slots))
    return (text, number, slot.task), "run", draft


# --- the stock worker -----------------------------------------------------------------------------------


def _stock(scenario: Scenario, state: State, number: int, worker: Worker) -> Iterator[Step]:
    """`rq worker`: pops one ticket, and `run_ticket` claims, runs and settles its task."""
    if worker.phase == READY and worker.slots:
        draft = Draft(scenario, state)
        slot = worker.slots[0]
        moved = rows.settle(draft, slot) if slot.phase in (DONE, RAISED) else ()
        draft.set_worker(number, draft.workers[number]._replace(slots=(), pushing=moved))
        word = "settles" if slot.phase in (DONE, RAISED) else "leaves the lost claim of"
        yield (f"rq worker %s {word} task %s", number, slot.task), "turn", draft
    elif worker.phase == READY and not worker.pushing and state.up and any(state.queues):
        draft = Draft(scenario, state)
        refs = redis_side.take(draft, 1, in_flight=False)
        if refs:
            draft.set_worker(number, worker._replace(phase=TAKEN, refs=refs))
            yield ("rq worker %s pops the ticket of %s", number, refs), "fetch", draft
    elif worker.phase == TAKEN:
        yield _stock_claim(scenario, state, number, worker)
        if state.budget[FAULT["hash_expires"]]:
            draft = Draft(scenario, state)
            draft.spend("hash_expires")
            draft.set_worker(number, Worker())
            draft.rows = tuple([row._replace(hashed=0) for row in draft.rows])
            yield ("rq worker %s finds no hash and drops the ticket in silence", number), None, draft
    elif any(slot.late and slot.mine for slot in worker.slots):
        draft = Draft(scenario, state)
        rows.renew(draft, number)
        yield ("rq worker %s renews its lease", number), "renew", draft


def _stock_claim(scenario: Scenario, state: State, number: int, worker: Worker) -> Step:
    draft = Draft(scenario, state)
    won, refused = rows.claim_tickets(draft, worker.refs)
    rows.unconfirm(draft, refused)
    won = tuple([slot._replace(phase=PUBLISHED) for slot in won])  # it has no page
    draft.set_worker(number, worker._replace(phase=RUN if won else READY, refs=(), slots=won))
    word = "claims" if won else "drops the refused ticket of" if refused else "drops the stale ticket of"
    return (f"rq worker %s {word} %s", number, worker.refs), "turn", draft


# --- accidents ------------------------------------------------------------------------------------------


def _accidents(scenario: Scenario, state: State, number: int, worker: Worker, kind: str) -> Iterator[Step]:
    if state.budget[FAULT["kill"]]:
        draft = Draft(scenario, state)
        draft.spend("kill")
        if kind != "stock":
            _bury(draft, worker)
        draft.set_worker(number, Worker())
        yield ("worker %s is killed", number), None, draft
    held = [slot for slot in worker.slots if slot.mine and not state.rows[slot.task].expired]
    if state.budget[FAULT["freeze"]] and held:
        draft = Draft(scenario, state)
        draft.spend("freeze")
        for slot in held:
            draft.set_row(slot.task, draft.rows[slot.task]._replace(expired=1))
        slots = tuple([s._replace(late=TOO_LATE if s.phase == CHECKED else 1) for s in worker.slots])
        draft.set_worker(number, worker._replace(slots=slots))
        yield ("worker %s is frozen, and its leases run out", number), None, draft


def _bury(draft: Draft, worker: Worker) -> None:
    """The kernel frees the lock of the life file; its page stays. It names claims by their tokens."""
    for slot in (*worker.slots, *worker.kept):
        if slot.mine:
            word = _PAGE.get(slot.phase, STARTED)
            if slot.late == FORGOTTEN or not draft.scenario.rules.page_tells_started:
                word = UNSTARTED
            if slot.phase in (CHECKED, RUNNING) and not draft.scenario.rules.publish_first:
                word = UNSTARTED
            if slot.phase == HELD and slot.task in worker.page:
                word = MISTAKEN
            draft.set_row(slot.task, draft.rows[slot.task]._replace(grave=word))
