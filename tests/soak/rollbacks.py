"""Rollbacks at random moments of a move, some of them while Redis is dead.

Rows that never started must be as they were before the move, byte by byte, wait in the database, and be
claimed by pollers that know nothing of Redis.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from app.tasks.model import PRIORITIES
from app.tasks.runner import boot_clock
from app.tasks.submission import TaskRequest
from app.transfer import baseline
from app.transfer.digests import row_digest
from tests.soak.installation import Installation, end_process, tree_of
from tests.soak.operating import DEADLINE_SECONDS, Operator
from tests.soak.oracle import Verdict
from tests.soak.results import Chapter
from tests.waiting import happens

ALIVE, DEAD = "Redis alive", "Redis dead"
DEAD_EVERY = 5  # one rollback in so many finds Redis dead
TASKS = 120
MOVE_SECONDS = 0.9  # a move of so many rows takes about as long
# What a way to Redis and back may change of a row that never started: it waits anew.
WAITS = {"epoch", "waiting_since"}


class Rollbacks:
    """Rounds on one installation, one after the other."""

    def __init__(self, place: Installation, chapter: Chapter, dice: random.Random) -> None:
        self._place = place
        self._chapter = chapter
        self._dice = dice
        self._operator = Operator(place)
        self._number = 0

    def run(self, name: str) -> None:
        """A backlog of which a part starts, a move, a rollback at a random moment, and then only pollers."""
        self._number += 1
        place, tally = self._place, self._chapter.tally(name)
        tally.count(rounds=1)
        self._operator.route_all(redis_percent=0)
        tasks = place.submit(self._requests())
        folder = place.folder / f"baseline-{self._number}"
        baseline.record(place.stack.system.store.database, folder)
        before = self._rows(tasks)
        pool = place.start_pool(workers=1, pollers=0)
        moment = self._dice.uniform(0, MOVE_SECONDS)
        where = f"{place.oracle.kind}, round {self._number}, {name}, after {moment:.3f} s"
        began = self._roll_back(name, moment, where)
        tally.took("rolled back", [boot_clock() - began])
        end_process(pool)
        after = self._rows(tasks)
        tally.count(hits=self._came_back(after))
        found = _compared(before, after, folder)
        never_started = [task_id for task_id, row in after.items() if not row["attempt"]]
        left = self._let_pollers_work(tasks, never_started, found)
        tally.count(late=len(left))
        found.add(place.judge(tasks))
        tally.judge(found, tasks=len(tasks))
        self._chapter.blame(where, found)
        if name == DEAD:
            place.redis.start()

    def finish(self) -> None:
        self._chapter.blame(f"{self._place.oracle.kind}, at the end", self._place.judge())

    # --- a round's parts ----------------------------------------------------------------------------------

    def _requests(self) -> list[TaskRequest]:
        dice = self._dice
        return [
            TaskRequest(
                dice.choice(("soak.works", "soak.writes")),
                {"seconds": 0.01, "note": f"é😀\\ {dice.random()}"},
                priority=dice.choice(PRIORITIES),
                user_id=dice.choice((None, "ä", "user")),
            )
            for _ in range(TASKS)
        ]

    def _roll_back(self, name: str, moment: float, where: str) -> float:
        """When it began; Redis died just before, or lives."""
        before = self._operator.newest()[0]
        self._operator.start("dispatch")
        self._operator.until_under_way(since=before)
        due = boot_clock() + moment
        happens(lambda: boot_clock() >= due, deadline_seconds=DEADLINE_SECONDS)
        if name == DEAD:
            self._place.redis.kill9()
        began = boot_clock()
        self._operator.start("recall", take_over=True)
        if not self._operator.until_closed("recall", since=before, take_over=True):
            self._chapter.problems.append(f"{where}: not closed; log:\n{self._place.tail()}")
        elif strays := self._operator.strays("recall"):
            self._chapter.problems.append(f"{where}: complete, and {strays} rows are left in Redis")
        return began

    def _came_back(self, rows: dict[int, dict[str, Any]]) -> bool:
        """The rollback ended the move, and brought rows back that had been in Redis and never started."""
        query = "SELECT state FROM transfers WHERE direction = 'dispatch' ORDER BY id DESC LIMIT 1"
        aborted = self._place.oracle.select(query)[0][0] == "aborted"
        return aborted and any(row["epoch"] > 2 and not row["attempt"] for row in rows.values())

    def _let_pollers_work(self, tasks: list[int], never_started: list[int], verdict: Verdict) -> list[Any]:
        """What never started is claimed by pollers and ends. Returns what is still open at the deadline."""
        place = self._place
        pool = place.start_pool(workers=0, pollers=2)
        left = place.wait_until_ended(tasks, deadline_seconds=DEADLINE_SECONDS)
        pollers = {process.pid for process in tree_of(pool)}
        place.ledger.look()
        for task_id in never_started:
            if any(line.pid not in pollers for line in place.ledger.of_task[task_id]):
                verdict.wrong[task_id] = "was not run by a poller"
        end_process(pool)
        return left

    def _rows(self, tasks: list[int]) -> dict[int, dict[str, Any]]:
        """Every column, as it is."""
        marks = ", ".join(map(str, tasks))
        rows = self._place.oracle.select(f"SELECT * FROM tasks WHERE id IN ({marks})")
        return {row.id: dict(row._mapping) for row in rows}


def _compared(before: dict[int, dict[str, Any]], after: dict[int, dict[str, Any]], folder: Path) -> Verdict:
    """The rows as they are now beside what was recorded of them, by us and by the product."""
    verdict = Verdict()
    recorded = baseline.Baseline(folder)
    stretches = recorded.stretches([head.last for head in recorded.heads()])
    kept = {task_id: row for stretch in stretches for task_id, row in stretch.rows().items()}
    for task_id in before:
        row = after.get(task_id)
        if row is None:
            verdict.lost[task_id] = "no row is there after the rollback"
        elif row_digest(row) != kept[task_id].digest:
            verdict.wrong[task_id] = "the row is not what the baseline says"
        elif not row["attempt"]:
            other = {name for name in row if row[name] != before[task_id][name]} - WAITS
            if other or row["status"] != "QUEUED":
                verdict.wrong[task_id] = f"never started, {row['status']}, and other than before: {other}"
    return verdict


def plan(rounds: int) -> list[str]:
    """One in `DEAD_EVERY` finds Redis dead."""
    return [DEAD if number % DEAD_EVERY == DEAD_EVERY - 1 else ALIVE for number in range(rounds)]
