"""How an idle worker waits: asleep on a bell or a notice where there is one, else asking now and then.

Asleep it costs nothing but one look in `SLEEP_SECONDS`, which finds what nobody rang for. It never sleeps
deeply while Redis is away or the fallback is on: then rows come from processes that cannot ring.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

import structlog

from app.system import System
from app.tasks.errors import RedisUnavailable
from app.tasks.store.notices import Listener, NotListening, Topic
from app.tasks.tickets.bells import Bell, Bells, Rung

SLEEP_SECONDS = 24.0
PAUSE_SECONDS = (0.01, 0.5)  # of who must ask: doubles while nothing comes
LISTEN_AGAIN_SECONDS = (1.0, 60.0)

log = structlog.get_logger(__name__)


class Stop(Protocol):
    def wait(self, seconds: float, /) -> object:
        """Until it is set, at most so long."""


class Waiting:
    """One per waiting thread. `wait` may be left by an exception of a signal handler; `prepare` may not."""

    def __init__(
        self,
        system: System,
        *,
        topic: Topic,
        bells: Callable[[Bells], Sequence[Bell]],
        stop: Stop,
        longest_seconds: float = SLEEP_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Waits for these bells if Redis is in use, else for notices of the topic."""
        self._tickets = system.tickets
        self._routing = system.store.routing
        self._notices = system.store.notices
        self._topic = topic
        self._bells = list(bells(system.tickets.bells)) if system.tickets is not None else []
        self._stop = stop
        self._clock = clock
        self._pause_seconds = PAUSE_SECONDS[0]
        # pollers are to run within this time of a failed call, and a frozen Redis must be found out first
        self._longest = min(longest_seconds, system.settings.fallback_after_seconds * 0.8)
        self._listener: Listener | None = None
        self._has_begun = False
        self._listen_at = 0.0
        self._listen_again = LISTEN_AGAIN_SECONDS[0]
        self._settled_at = 0.0
        self._looked_at = 0.0

    def worked(self) -> None:
        """There was work: more of it is likely."""
        self._pause_seconds = PAUSE_SECONDS[0]

    def prepare(self) -> None:
        """Before each wait: listen, where there are notices to hear. Statements, if any."""
        if self._tickets is None and self._listener is None and self._begins_to_listen():
            self._has_begun = True

    def wait(self, seconds: float | None = None, *, briefly: bool = False) -> Rung | None:
        """Until there may be something to do, at most `seconds`; `briefly`, as long as who must ask would.
        What rang; None: nothing did, look by yourself."""
        limit = self._longest if seconds is None else min(seconds, self._longest)
        if briefly:
            limit = min(limit, self._next_pause())
        if self._tickets is None:
            return self._for_notice(limit)
        if self._tickets.health.away_seconds == 0 and self._bells:
            return self._for_bell(self._tickets.bells, limit)
        self._pause(limit)
        return None

    @property
    def is_blind(self) -> bool:
        """True while nobody could wake this process."""
        if self._tickets is not None:
            return self._tickets.health.away_seconds > 0
        return self._listener is None

    def close(self) -> None:
        if self._listener is not None:
            self._listener.close()

    def _pause(self, limit: float) -> None:
        self._stop.wait(min(self._next_pause(), limit))

    def _next_pause(self) -> float:
        pause = self._pause_seconds
        self._pause_seconds = min(PAUSE_SECONDS[1], pause * 2)
        return pause

    # --- Redis ----------------------------------------------------------------------------------------

    def _for_bell(self, bells: Bells, limit: float) -> Rung | None:
        if any(route.fallback for route in self._routing.known().values()):
            limit = min(limit, self._next_pause())
        try:
            rung = bells.wait(self._bells, seconds=limit)
        except RedisUnavailable:
            self._pause(limit)
            return None
        if rung is not None:
            self.worked()
        return rung

    # --- notices --------------------------------------------------------------------------------------

    def _for_notice(self, limit: float) -> Rung | None:
        listener = self._listener
        if self._has_begun:
            self._has_begun = False
            return Rung.ROWS  # what came before was announced to nobody
        if listener is None:
            self._pause(limit)
            return None
        # one look must have begun after the settling time: until then others may have kept quiet
        if self._looked_at < self._settled_at:
            limit = min(limit, listener.settling_seconds / 2)
        try:
            heard = listener.wait(limit)
        except NotListening as error:
            log.info("notices.lost", topic=self._topic.value, reason=str(error))
            self._listener = None
            self._pause_seconds = PAUSE_SECONDS[0]
            return Rung.ROWS
        self._looked_at = self._clock()
        if not heard:
            return None
        self._settled_at = self._looked_at + listener.settling_seconds
        return Rung.ROWS

    def _begins_to_listen(self) -> bool:
        if not self._notices.possible or self._clock() < self._listen_at:
            return False
        try:
            self._listener = self._notices.listen(self._topic)
        except NotListening as error:
            log.info("notices.not_heard", topic=self._topic.value, reason=str(error))
            self._listen_at = self._clock() + self._listen_again
            self._listen_again = min(LISTEN_AGAIN_SECONDS[1], self._listen_again * 2)
            return False
        self._listen_again = LISTEN_AGAIN_SECONDS[0]
        self._settled_at = self._looked_at = self._clock()
        return True
