"""SIGKILL at every named step: a round gives an installation work and has one process die at one point."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from app.tasks.runner import boot_clock
from app.tasks.submission import TaskRequest
from tests.soak.installation import Installation, end_process
from tests.soak.points import NAMES, Hit, Scope
from tests.soak.results import Chapter
from tests.waiting import happens

DEADLINE_SECONDS = 60.0
NO_HIT_SECONDS = 6.0
TASKS = 36
# The latest pass at which a process dies: deep in a batch where a step is passed once per task.
OFTEN = {"run.first": 14, "run.middle": 14, "run.last": 14, "submit.open": 6}
RARELY = ("heal.", "push.")
SETTINGS: dict[str, Any] = {
    "RQ_HYBRID_MODE": "true",
    "RQ_ROLLOUT_PERCENT": 70,
    "RQ_TICKET_GRACE": 1,
    "LOG_LEVEL": "warning",
}


@dataclass(slots=True)
class Round:
    """One round: what was armed, what came of it."""

    number: int
    point: str
    nth: int
    scope: Scope
    tasks: list[int] = field(default_factory=list)
    hit: Hit | None = None
    claimed: dict[int, int] = field(default_factory=dict)  # attempt of each task that the dead one held
    popped: set[int] = field(default_factory=set)


class Killing:
    """Rounds on one installation, one after the other."""

    def __init__(self, place: Installation, chapter: Chapter, dice: random.Random) -> None:
        self._place = place
        self._chapter = chapter
        self._dice = dice
        self._pool = place.start_pool()
        self._number = 0

    def run(self, point: str, scope: Scope, *, deepest: int | None = None) -> None:
        """One round. The kill comes at a pass between the first and the `deepest`."""
        self._number += 1
        often = OFTEN.get(point, 1 if point.startswith(RARELY) else 2)
        nth = self._dice.randint(1, deepest or often)
        now = Round(self._number, point, nth, scope)
        tally = self._chapter.tally(point)
        tally.count(rounds=1)
        place = self._place
        place.points.arm(now.number, point, nth=nth, scope=scope)
        if point.startswith("submit."):
            self._submit_by_victim(now)
        else:
            self._submit(now)
        self._await_hit(now)
        place.points.disarm()
        still_open = place.wait_until_ended(now.tasks, deadline_seconds=DEADLINE_SECONDS)
        over = boot_clock()
        verdict = place.judge(now.tasks)
        tally.judge(verdict, tasks=len(now.tasks))
        where = f"{place.oracle.kind}, round {now.number}, {point}, pass {nth}, {scope}"
        self._chapter.blame(where, verdict)
        if still_open:
            tally.count(late=len(still_open))
            self._give_up_on(still_open, where)
        if now.hit is not None:
            tally.count(hits=1)
            tally.took("all ended", [over - now.hit.at])
            self._measure(now, now.hit)

    def finish(self) -> None:
        """Judge everything once more, and what lies about."""
        place = self._place
        left = place.leftovers(deadline_seconds=60)
        if left:
            self._chapter.problems.append(f"{place.oracle.kind}: left behind at the end: {left}")
        verdict = place.judge()
        self._chapter.blame(f"{place.oracle.kind}, at the end", verdict)
        end_process(self._pool)

    # --- a round's parts ----------------------------------------------------------------------------------

    def _submit(self, now: Round) -> None:
        requests = self._place.requests(self._dice, count=TASKS)
        now.tasks = self._place.submit(requests)
        self._place.cancel(self._dice.sample(now.tasks[:TASKS], 2))

    def _submit_by_victim(self, now: Round) -> None:
        """A submitter that dies has told nobody of its last task: the harness notes what it was answered."""
        path = self._place.submit_by_victim(self._place.requests(self._dice, count=8)[:8])
        happens(
            lambda: self._place.points.hit(now.number) or (path.exists() and "all\n" in path.read_text()),
            deadline_seconds=NO_HIT_SECONDS,
        )
        now.tasks = [*self._place.note_accepted(path), *self._place.adopt_strangers()]

    def _await_hit(self, now: Round) -> None:
        points, oracle = self._place.points, self._place.oracle
        # passes come with the work: once all has ended, nobody will come by
        happens(
            lambda: points.hit(now.number) or not oracle.open_tasks(now.tasks),
            deadline_seconds=DEADLINE_SECONDS,
        )
        now.hit = points.hit(now.number)
        if now.hit is None:
            return
        if now.scope is Scope.TREE and now.hit.role != "submitter":
            end_process(self._pool)
            self._pool = self._place.start_pool()
        now.claimed = self._claimed_by(now, now.hit)
        now.popped = self._popped_by(now.hit)

    def _claimed_by(self, now: Round, hit: Hit) -> dict[int, int]:
        """Tasks that the dead process held, or any process of a dead tree."""
        rows = self._place.oracle.open_tasks(now.tasks)
        tree = now.scope is Scope.TREE
        return {
            row.id: row.attempt
            for row in rows
            if row.status == "PROCESSING" and (tree or f":{hit.pid}:" in str(row.holder))
        }

    def _popped_by(self, hit: Hit) -> set[int]:
        """Tasks whose tickets the dead process had taken and not yet claimed."""
        client = self._place.redis.client()
        found: set[int] = set()
        for key in client.scan_iter(match=f"twintrack:inflight:*:{hit.pid}:*", count=1000):
            names: list[Any] = client.lrange(key, 0, -1)
            found |= {int(name[1:].partition(b"-e")[0]) for name in names}
        open_ones = {row.id: row.status for row in self._place.oracle.open_tasks(found)}
        return {task_id for task_id, status in open_ones.items() if status == "DISPATCHED"}

    def _measure(self, now: Round, hit: Hit) -> None:
        """When did what the kill had interrupted start again?"""
        tally = self._chapter.tally(now.point)
        for task_id in {*now.claimed, *now.popped}:
            again = self._first_start_after(task_id, hit.at)
            if again is None:
                continue  # it had ended, or was cancelled, or must not repeat
            lines = self._place.ledger.of_task[task_id]
            if task_id in now.popped:
                what = "popped, unclaimed"
            elif any(line.attempt == now.claimed[task_id] and line.at <= hit.at for line in lines):
                what = "interrupted"
            else:
                what = "claimed, unstarted"
            tally.took(what, [again - hit.at])

    def _first_start_after(self, task_id: int, at: float) -> float | None:
        starts = [
            line.at for line in self._place.ledger.of_task[task_id] if line.word == "S" and line.at > at
        ]
        return min(starts, default=None)

    def _give_up_on(self, rows: Sequence[Any], where: str) -> None:
        """What never ended must not hold up the rounds that follow."""
        for row in rows:
            self._chapter.notes.append(f"{where}: not ended within {DEADLINE_SECONDS:g} s: {tuple(row)}")


def plan(
    dice: random.Random, rounds: int, names: Sequence[str] = NAMES, *, first: int = 0
) -> list[tuple[str, Scope]]:
    """The points in turn, from the `first` on; every third kill takes the whole tree."""
    order = [names[(first + number) % len(names)] for number in range(rounds)]
    return [(point, Scope.TREE if dice.random() < 1 / 3 else Scope.PROCESS) for point in order]


def warm_up(place: Installation, dice: random.Random) -> None:
    """One quiet load, so that the first round does not measure the start."""
    tasks = place.submit(
        [TaskRequest("soak.works", {}, priority="normal") for _ in range(dice.randint(3, 6))]
    )
    left = place.wait_until_ended(tasks, deadline_seconds=DEADLINE_SECONDS)
    assert not left, f"the installation does not work; log:\n{place.tail()}"
