"""The figures that admin endpoints, metrics and pages share: rows by status, tickets, workers."""

from __future__ import annotations

from dataclasses import dataclass

from app.system import System
from app.tasks.errors import RedisUnavailable
from app.tasks.model import Priority, Status
from app.tasks.routing import Routing
from app.tasks.store.registry import WorkerRow

# What waits for a worker, as against for its time.
READY = (Status.QUEUED, Status.DISPATCHED)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """`tickets` is None while Redis is away or left out."""

    counts: dict[Status, dict[Priority, int]]
    routing: Routing
    workers: list[WorkerRow]
    tickets: dict[Priority, int] | None
    oldest_waiting_seconds: float | None
    redis_away_seconds: float

    @classmethod
    def take(cls, system: System) -> Snapshot:
        """Read everything once: four statements and one round trip. Raises `DatabaseUnavailable`."""
        return cls(
            counts=system.store.queries.counts(),
            routing=system.store.routing.refresh(),
            workers=system.workers(),
            tickets=ticket_counts(system),
            oldest_waiting_seconds=system.store.queries.oldest_waiting_seconds(READY),
            redis_away_seconds=system.tickets.health.away_seconds if system.tickets else 0.0,
        )

    @property
    def fallback_active(self) -> bool:
        return any(route.fallback for route in self.routing.values())

    def total(self, status: Status) -> int:
        return sum(self.counts[status].values())


def ticket_counts(system: System) -> dict[Priority, int] | None:
    """Tickets per queue; None while Redis does not answer or in database mode."""
    if system.tickets is None or not system.tickets.health.worth_a_try:
        return None
    try:
        return system.tickets.lengths()
    except RedisUnavailable:
        return None


def redis_key(system: System, priority: Priority) -> str | None:
    """The list that `redis-cli llen` takes; None in database mode."""
    return system.tickets.queue_key(priority) if system.tickets else None
