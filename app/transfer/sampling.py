"""Figures of the running system as a series: what waits on which track, how old it is, how fast it ends."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from app.system import System
from app.tasks.errors import RedisUnavailable
from app.tasks.model import PRIORITIES, Status
from app.tasks.store.queries import Filter
from app.transfer.performance import ages_at_end, percentile

OF_LATE = 500  # the newest completed tasks, for the times that they took
WAITS = (Status.QUEUED, Status.DISPATCHED)
ENDS = (Status.COMPLETED, Status.FAILED, Status.CANCELLED)


@dataclass(frozen=True, slots=True)
class Depth:
    """What waits of one priority. `tickets` is None while Redis is away or left out."""

    database: int
    redis: int
    tickets: int | None
    running: int


@dataclass(frozen=True, slots=True)
class Sample:
    """One look. Rates are since the look before, and None at the first; ages are in seconds."""

    at: datetime
    depths: dict[str, Depth]
    lag_seconds: float | None
    ended: int
    failed: int
    ended_per_second: float | None
    p50_seconds: float | None
    p95_seconds: float | None
    fallback: bool
    workers: dict[str, int]

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"at": self.at.isoformat()}


class Sampler:
    """Takes samples of one system. Each costs a handful of statements and one round trip to Redis."""

    def __init__(self, system: System, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._system = system
        self._clock = clock
        self._before: tuple[float, int] | None = None

    def take(self) -> Sample:
        """Raises `DatabaseUnavailable`. Without Redis it tells what the rows say."""
        queries = self._system.store.queries
        counts = queries.counts([*WAITS, *ENDS, Status.PROCESSING])
        tickets = self._tickets()
        newest = queries.page(Filter(status=Status.COMPLETED), limit=OF_LATE)
        ages = ages_at_end(newest)
        ended = sum(sum(counts[status].values()) for status in ENDS)
        alive = self._system.workers()
        return Sample(
            at=self._system.store.database.now(),
            depths={
                priority.value: Depth(
                    database=counts[Status.QUEUED][priority],
                    redis=counts[Status.DISPATCHED][priority],
                    tickets=tickets.get(priority.value) if tickets is not None else None,
                    running=counts[Status.PROCESSING][priority],
                )
                for priority in PRIORITIES
            },
            lag_seconds=queries.oldest_waiting_seconds(WAITS),
            ended=ended,
            failed=sum(counts[Status.FAILED].values()),
            ended_per_second=self._rate(ended),
            p50_seconds=percentile(ages, 50),
            p95_seconds=percentile(ages, 95),
            fallback=any(route.fallback for route in self._system.store.routing.refresh().values()),
            workers={track: sum(row.track == track for row in alive) for track in ("redis", "database")},
        )

    def _rate(self, ended: int) -> float | None:
        before, now = self._before, self._clock()
        self._before = (now, ended)
        if before is None or now <= before[0]:
            return None
        return max(0, ended - before[1]) / (now - before[0])  # a purge makes the number smaller

    def _tickets(self) -> dict[str, int] | None:
        tickets = self._system.tickets
        if tickets is None or not tickets.health.worth_a_try:
            return None
        try:
            return {priority.value: number for priority, number in tickets.lengths().items()}
        except RedisUnavailable:
            return None
