"""How often the sweeper looks: every second while anything waits or runs, rarely while nothing does.

What may become late by a long sleep says so: due times and planned runs by the glance that saw them, what
comes later by a ring (`Waking.due`). What nobody rings for has a grace that is longer than the sleep.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from app.tasks.routing import Intake, Routing
from app.tasks.settings import CoreSettings
from app.tasks.store.looks import Glance

ACTIVE_SECONDS = 1.0
LONGEST_SECONDS = 20.0
HURRIED_SECONDS = 0.1
SHORTEST_SECONDS = 0.02
LOCK_SECONDS = 15.0
LOCK_SPARE_SECONDS = 5.0
PULSE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Pace:
    """Of one installation. All in seconds."""

    idle_seconds: float
    pulse_seconds: float

    @classmethod
    def of(cls, settings: CoreSettings) -> Pace:
        """A sleep ends before the grace of tickets, a lease or the patience with Redis does; a pulse, which
        tells whether Redis still answers, much before."""
        patience = settings.fallback_after_seconds
        limits = (settings.ticket_grace_seconds, settings.lease_seconds, patience)
        idle = max(ACTIVE_SECONDS, min(LONGEST_SECONDS, *(limit * 2 / 3 for limit in limits)))
        return cls(idle, max(0.5, min(PULSE_SECONDS, patience / 6)))

    def pause(self, glance: Glance, rules: Routing, now: datetime, *, live: bool) -> float:
        """How long to sleep after a step. `live`: something waits, runs or has just happened."""
        pause = ACTIVE_SECONDS if live else self.idle_seconds
        for seconds in (glance.next_due_seconds, glance.next_run_seconds, *_ends_of_pauses(rules, now)):
            if seconds is not None:
                pause = min(pause, seconds if seconds > 0 else ACTIVE_SECONDS)
        return max(SHORTEST_SECONDS, pause)


def _ends_of_pauses(rules: Routing, now: datetime) -> Iterable[float]:
    for route in rules.values():
        if route.intake is not Intake.OPEN and route.intake_until is not None:
            yield (route.intake_until - now).total_seconds()
