"""What a worker asks of a turn, and on what terms it gets rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from app.tasks.model import PRIORITIES, Priority


@dataclass(frozen=True, slots=True)
class TakeTickets:
    """Claim the rows that these (id, epoch) pairs name."""

    references: Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class TakeQueued:
    """Claim up to `limit` QUEUED rows, those that have waited for `waiting_for_seconds`. With `one_by_one`
    the order of `priorities` is the order of service, a statement for each; otherwise their own."""

    limit: int
    priorities: Sequence[Priority] = PRIORITIES
    waiting_for_seconds: float = 0
    one_by_one: bool = False

    @property
    def is_plain(self) -> bool:
        """True if the first rows in the priorities' own order are asked for."""
        return not self.one_by_one and self.waiting_for_seconds == 0


@dataclass(frozen=True, slots=True)
class TakeOfPool:
    """Claim up to `limit` rows that wait in the lane of a pool: one, if the pool has a limit with a place."""

    limit: int
    lane: int


Take = TakeTickets | TakeQueued | TakeOfPool


@dataclass(frozen=True, slots=True)
class Terms:
    """On what terms rows are claimed: by whom, for how long, under which token."""

    holder: str
    lease_seconds: float
    token: int
