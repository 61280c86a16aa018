"""Bells: the lists in Redis that idle processes wait on, and what rings them.

An entry wakes one process, and says no more than "look". So a bell may be rung too often, which costs a look,
and may be lost, which costs time: whoever waits looks by itself, too, only seldom. Lists are bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import redis

from app.tasks.model import PRIORITIES, Priority, Track
from app.tasks.tickets.health import RedisHealth

BOUND = 64
ROUTING_CHANGED = b"routing"  # a bell's other word: read the rules anew
ANSWER_SECONDS = 3.0  # beyond what was to be waited: then Redis is away

RunScript = Callable[[str, Sequence[str], Sequence[Any]], Any]


class Rung(StrEnum):
    """Which bell rang."""

    TICKETS = "tickets"
    ROWS = "rows"
    ROUTING = "routing"
    DUE = "due"


@dataclass(frozen=True, slots=True)
class Bell:
    """A list to wait on, and what its ringing says."""

    key: str
    says: Rung


class Bells:
    """The bells of one Redis. `run_script` runs one by its name; `connect(seconds)` makes a client whose
    answers may take that long."""

    def __init__(
        self,
        client: redis.Redis,
        run_script: RunScript,
        *,
        connect: Callable[[float], redis.Redis] | None = None,
        prefix: str = "",
        health: RedisHealth,
    ) -> None:
        self._client = client
        self._run_script = run_script
        self._connect = connect
        self._health = health
        self.due = Bell(f"twintrack:{prefix}bell:due", Rung.DUE)
        """The sweeper's: a task becomes due soon, or the rules have changed."""
        self._of = {
            Track.REDIS: {p: Bell(f"twintrack:{prefix}bell:{p}", Rung.TICKETS) for p in PRIORITIES},
            Track.DATABASE: {p: Bell(f"twintrack:{prefix}bell:rows:{p}", Rung.ROWS) for p in PRIORITIES},
        }
        self._waiting: tuple[float, redis.Redis] | None = None

    def of(self, track: Track, priority: Priority) -> Bell:
        """The bell for new work of this track and priority."""
        return self._of[track][priority]

    # --- ringing --------------------------------------------------------------------------------------

    def ring_rows(self, counts: Mapping[Priority, int]) -> None:
        """So many rows became QUEUED. Raises `RedisUnavailable`."""
        self._ring_by({self.of(Track.DATABASE, priority): count for priority, count in counts.items()})

    def ring_due(self) -> None:
        """Wake the sweeper. Raises `RedisUnavailable`."""
        self._ring_by({self.due: 1}, bound=1)

    def ring_again(self, waiting: Iterable[tuple[Track, Priority]]) -> None:
        """Have one worker of each track and queue look, unless a ring is there unheard. Raises
        `RedisUnavailable`."""
        self._ring_by({self.of(track, priority): 1 for track, priority in waiting}, bound=1)

    def ring_routing(self, priorities: Iterable[Priority] = PRIORITIES) -> None:
        """Wake all idle workers of these queues, to read the rules anew. Raises `RedisUnavailable`."""
        bells = [self.of(track, priority) for priority in priorities for track in Track]
        self._ring_by(dict.fromkeys(bells, BOUND), word=ROUTING_CHANGED)

    def _ring_by(self, counts: Mapping[Bell, int], *, bound: int = BOUND, word: bytes = b"1") -> None:
        self._run_script("ring", [bell.key for bell in counts], [bound, word, *counts.values()])

    # --- waiting --------------------------------------------------------------------------------------

    def wait(self, bells: Sequence[Bell], *, seconds: float) -> Rung | None:
        """Block until one of these rings, at most `seconds`; None if none did. Raises `RedisUnavailable`."""
        with self._health.watch():
            rung: Any = self._client_for(seconds).blpop([bell.key for bell in bells], timeout=seconds)
        if rung is None:
            return None
        if rung[1] == ROUTING_CHANGED:
            return Rung.ROUTING
        key = rung[0].decode()
        return next(bell.says for bell in bells if bell.key == key)

    def close(self) -> None:
        if self._waiting is not None:
            self._waiting[1].close()
            self._waiting = None

    def _client_for(self, seconds: float) -> redis.Redis:
        """A client of its own: its connection waits longer for an answer than any other."""
        if self._connect is None:
            return self._client
        if self._waiting is None or self._waiting[0] < seconds:
            self.close()
            self._waiting = (seconds, self._connect(seconds + ANSWER_SECONDS))
        return self._waiting[1]
