"""Handlers that never return, eat memory, leave or crash: each ends by its rule, and alone."""

from __future__ import annotations

from typing import Any

from app.tasks.runner import boot_clock
from app.tasks.submission import TaskRequest
from tests.soak.installation import Installation, end_process
from tests.soak.results import Chapter

CULPRITS = {
    "soak.hangs": "never returns and heeds no time limit",
    "soak.eats": "eats memory",
    "soak.exits": "calls os._exit",
    "soak.segfaults": "crashes with a segfault",
}
BEFORE, AFTER = 24, 8  # neighbours: a worker takes one task at a time until it knows that they are short
DEADLINE_SECONDS = 60.0
SETTINGS: dict[str, Any] = {
    "RQ_KILL_GRACE": 0.5,
    "RQ_WORKER_MEMORY_MB": 160,
    "RQ_TICKET_GRACE": 1,
    "LOG_LEVEL": "warning",
}


class BadNights:
    """Rounds on one installation with one worker, so that culprits and neighbours share batches."""

    def __init__(self, place: Installation, chapter: Chapter) -> None:
        self._place = place
        self._chapter = chapter
        self._pool = place.start_pool(workers=1, pollers=0)

    def run(self, culprit: str) -> None:
        """One culprit between its neighbours: it fails once, and they are not run again."""
        place, tally = self._place, self._chapter.tally(CULPRITS[culprit])
        tally.count(rounds=1)
        began = boot_clock()
        fine = TaskRequest("soak.works", {})
        tasks = place.submit([*[fine] * BEFORE, TaskRequest(culprit, {}), *[fine] * AFTER])
        left = place.wait_until_ended(tasks, deadline_seconds=DEADLINE_SECONDS)
        tally.took("all ended", [boot_clock() - began])
        verdict = place.judge(tasks)
        for row in place.oracle.rows(tasks).values():
            starts = sum(line.word == "S" for line in place.ledger.of_task[row.id])
            if row.name == culprit:
                tally.count(hits=int(starts == 1 and row.failures == 1))
            elif (row.failures, starts) != (0, 1):
                verdict.wrong[row.id] = f"a neighbour of {culprit}: {row.failures} failures, {starts} starts"
        tally.judge(verdict, tasks=len(tasks))
        tally.count(late=len(left))
        self._chapter.blame(f"{place.oracle.kind}, {culprit}", verdict)

    def finish(self) -> None:
        left = self._place.leftovers(deadline_seconds=60)
        if left:
            self._chapter.problems.append(f"{self._place.oracle.kind}: left behind at the end: {left}")
        end_process(self._pool)
