"""Redis loses its data, its memory, its past or its time, under load; what was accepted may not be lost."""

from __future__ import annotations

import random
import shutil
import signal
from collections.abc import Callable
from typing import Any

from app.tasks.runner import boot_clock
from tests.soak.installation import Installation, end_process
from tests.soak.results import Chapter
from tests.waiting import happens

FALLBACK_SECONDS = 4.0
# Longer than every time-out: a connect waits 1 s, an answer 3 s, a bell 15 s, the fallback as set.
FREEZE_SECONDS = 17.0
AWAY_SECONDS = 2.0
LOAD_SECONDS = 0.7
PACE_SECONDS = 0.1
DEADLINE_SECONDS = 90.0
FROZEN = f"SIGSTOP for {FREEZE_SECONDS:g} s"
NAMES = (
    "FLUSHALL",
    "restart without persistence",
    "restore of an older snapshot",
    "out of memory, noeviction",
    FROZEN,
)
SETTINGS: dict[str, Any] = {
    "RQ_FALLBACK_TIMEOUT": FALLBACK_SECONDS,
    "RQ_TICKET_GRACE": 1,
    "LOG_LEVEL": "warning",
}


class RedisFaults:
    """Fault after fault on one installation and its own Redis."""

    def __init__(self, place: Installation, chapter: Chapter, dice: random.Random) -> None:
        self._place = place
        self._chapter = chapter
        self._dice = dice
        self._tasks: list[int] = []
        self._pool = place.start_pool(workers=2, pollers=0)
        acts = (self._flush, self._restart, self._restore, self._fill, self._freeze)
        self._faults: dict[str, Callable[[], None]] = dict(zip(NAMES, acts, strict=True))

    def run(self, name: str) -> None:
        """One fault under load. Healed: when all that was accepted before the repair has ended."""
        place = self._place
        tally = self._chapter.tally(name)
        tally.count(rounds=1)
        self._tasks = []
        self._load(LOAD_SECONDS)
        self._faults[name]()
        repaired_at, before = boot_clock(), list(self._tasks)
        tally.count(hits=bool(place.oracle.open_tasks(before)))
        self._load(LOAD_SECONDS)
        left = place.wait_until_ended(before, deadline_seconds=DEADLINE_SECONDS)
        tally.took("healed", [boot_clock() - repaired_at])
        left += place.wait_until_ended(self._tasks, deadline_seconds=DEADLINE_SECONDS)
        tally.took("all ended", [boot_clock() - repaired_at])
        tally.count(late=len(left))
        verdict = place.judge(self._tasks)
        tally.judge(verdict, tasks=len(self._tasks))
        self._chapter.blame(f"{place.oracle.kind}, {name}", verdict)
        # the next fault is to find Redis in use again
        if not happens(self._back_on_redis, deadline_seconds=DEADLINE_SECONDS):
            self._chapter.problems.append(f"{place.oracle.kind}, {name}: no return to Redis")
        tally.took("back on Redis", [boot_clock() - repaired_at])

    def finish(self) -> None:
        """See what lies about while the workers live, which put back what an outage has left in flight."""
        left = self._place.leftovers(deadline_seconds=60)
        if left:
            self._chapter.problems.append(f"{self._place.oracle.kind}: left behind at the end: {left}")
        end_process(self._pool, signal.SIGTERM)

    # --- faults -----------------------------------------------------------------------------------------

    def _flush(self) -> None:
        self._place.redis.client().flushall()

    def _restart(self) -> None:
        self._place.redis.kill9()
        (self._place.redis.folder / "dump.rdb").unlink(missing_ok=True)
        self._load(AWAY_SECONDS)
        self._place.redis.start()

    def _restore(self) -> None:
        """A server comes back with what it knew a moment ago: old tickets, none of the newer ones."""
        redis = self._place.redis
        redis.client().save()
        snapshot, kept = redis.folder / "dump.rdb", redis.folder / "older.rdb"
        shutil.copy(snapshot, kept)
        self._load(LOAD_SECONDS)
        redis.kill9()
        self._load(AWAY_SECONDS / 2)
        kept.replace(snapshot)
        redis.start()
        snapshot.unlink()

    def _fill(self) -> None:
        client = self._place.redis.client()
        client.config_set("maxmemory", "1mb")  # less than is in use: every write is refused
        self._load(AWAY_SECONDS)
        client.config_set("maxmemory", 0)

    def _freeze(self) -> None:
        self._place.redis.freeze()
        self._load(FREEZE_SECONDS)
        self._place.redis.thaw()

    # --- load -------------------------------------------------------------------------------------------

    def _load(self, seconds: float) -> None:
        """Submit a small batch every `PACE_SECONDS`, for so long."""
        end, due = boot_clock() + seconds, 0.0

        def over() -> bool:
            nonlocal due
            if due <= boot_clock() < end:
                self._tasks += self._place.submit(self._place.requests(self._dice, count=4))
                due = boot_clock() + PACE_SECONDS
            return boot_clock() >= end

        happens(over, deadline_seconds=seconds + DEADLINE_SECONDS)

    def _back_on_redis(self) -> bool:
        routing = self._place.oracle.select("SELECT fallback FROM routing")
        return not any(row.fallback for row in routing)
