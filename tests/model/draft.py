"""The next state while a step is being taken, and the judge's remarks on what the step does."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

from tests.model.state import (
    DISPATCHED,
    EVIDENCE,
    FAULT,
    PROCESSING,
    QUEUED,
    REF_BITS,
    REF_MASK,
    ROUTED,
    Office,
    Refs,
    Row,
    Scenario,
    Slot,
    State,
    Sweeper,
    Worker,
    task_of,
)

_parts_of = attrgetter(*State._fields)
# One change of a row's status or epoch, as it happened: verb, from, to, new epoch.
Edge = tuple[str, int, int, bool]


class Draft:
    """A state that may be changed; `freeze` ends that. `wrong` names the first promise that was broken."""

    __slots__ = (*State._fields, "edges", "scenario", "wrong")

    rows: tuple[Row, ...]
    queues: tuple[Refs, ...]
    up: int
    overflow: tuple[tuple[int, int], ...]
    snapshot: tuple[Refs, ...]
    orphans: Refs
    tracks: tuple[int, ...]
    paused: tuple[int, ...]
    fallback: int
    hold: int
    workers: tuple[Worker, ...]
    sweepers: tuple[Sweeper, ...]
    office: Office
    budget: tuple[int, ...]

    def __init__(self, scenario: Scenario, state: State) -> None:
        (
            self.rows,
            self.queues,
            self.up,
            self.overflow,
            self.snapshot,
            self.orphans,
            self.tracks,
            self.paused,
            self.fallback,
            self.hold,
            self.workers,
            self.sweepers,
            self.office,
            self.budget,
        ) = state
        self.scenario = scenario
        self.edges: list[Edge] = []
        self.wrong = ""

    def freeze(self) -> State:
        return State._make(_parts_of(self))

    def blame(self, wrong: str) -> None:
        self.wrong = self.wrong or wrong

    def spend(self, fault: str) -> None:
        place = FAULT[fault]
        self.budget = (*self.budget[:place], self.budget[place] - 1, *self.budget[place + 1 :])

    def set_row(self, task: int, row: Row) -> None:
        self.rows = (*self.rows[:task], row, *self.rows[task + 1 :])

    def set_worker(self, number: int, worker: Worker) -> None:
        self.workers = (*self.workers[:number], worker, *self.workers[number + 1 :])

    def set_sweeper(self, number: int, sweeper: Sweeper) -> None:
        self.sweepers = (*self.sweepers[:number], sweeper, *self.sweepers[number + 1 :])

    def set_queue(self, priority: int, entries: Refs) -> None:
        self.queues = (*self.queues[:priority], entries, *self.queues[priority + 1 :])

    def routed(self, priority: int) -> int:
        """The status that the routing gives a waiting task now."""
        return QUEUED if self.fallback else self.tracks[priority]

    def change(self, task: int, verb: str, status: int, *, epoch: bool, **values: Any) -> None:
        """The one writer of a row's status. `epoch`: the row gets a new one, and every ticket of it is
        worthless from now on. A row that leaves PROCESSING makes its claim worthless."""
        old = self.rows[task]
        new = old._replace(status=status, **values)
        if epoch and old.hashed:
            new = new._replace(hashed=0)
        self.set_row(task, new)
        self.edges.append((verb, old.status, status, epoch))
        if epoch or (old.status == DISPATCHED and any(self.queues)):
            self._outdate(task, epoch)
        if old.status == PROCESSING:
            self._lose_claim(task)
        if status in ROUTED and status != self.routed(new.priority):
            self.blame(f"ROUTE: {verb} puts task {task} on the track that the routing has left")

    def _outdate(self, task: int, epoch: bool) -> None:
        """No push so far is later than this row's wait; with a new epoch, its tickets are stale."""
        row_bit = ~(1 << (task + REF_BITS))

        def entry(number: int) -> int:
            number &= row_bit
            return number & ~1 if epoch and task_of(number) == task else number

        self.queues = tuple([tuple([entry(one) for one in queue]) for queue in self.queues])
        if self.snapshot:
            self.snapshot = tuple([tuple([entry(one) for one in queue]) for queue in self.snapshot])
        if epoch:
            self._outdate_hands(task)

    def _outdate_hands(self, task: int) -> None:
        def refs(numbers: Refs) -> Refs:
            return (
                tuple([one & ~1 if task_of(one) == task else one for one in numbers]) if numbers else numbers
            )

        self.workers = tuple(
            [
                one._replace(refs=refs(one.refs), pushing=refs(one.pushing), returning=refs(one.returning))
                if one.refs or one.pushing or one.returning
                else one
                for one in self.workers
            ]
        )
        self.sweepers = tuple(
            [
                one._replace(refs=refs(one.refs), present=refs(one.present))
                if one.refs or one.present
                else one
                for one in self.sweepers
            ]
        )
        self.orphans = refs(self.orphans)
        if self.office.pushing:
            self.office = self.office._replace(pushing=refs(self.office.pushing))

    def _lose_claim(self, task: int) -> None:
        def slots(held: tuple[Slot, ...]) -> tuple[Slot, ...]:
            if not any(one.task == task and one.mine for one in held):
                return held
            return tuple([one._replace(mine=0) if one.task == task else one for one in held])

        self.workers = tuple(
            [
                one._replace(slots=slots(one.slots), kept=slots(one.kept)) if one.slots or one.kept else one
                for one in self.workers
            ]
        )
        self.sweepers = tuple([lose_evidence(one, task) for one in self.sweepers])


def lose_evidence(sweeper: Sweeper, task: int) -> Sweeper:
    if sweeper.at == EVIDENCE and sweeper.about == task:
        return sweeper._replace(sure=0)
    return sweeper


def plain(refs: Refs) -> Refs:
    """Entries of a queue as tickets alone."""
    return tuple([entry & REF_MASK for entry in refs])
