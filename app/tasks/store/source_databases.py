"""The databases of legacy tables that are in another one than ours: found by name, and known to be away.

One that did not answer is not asked again for a while: a batch with tasks of other tables must not wait for
it each time. The longer it is away, the longer what needs it is put off.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

import structlog
from sqlalchemy.engine import URL, Connection

from app.tasks.database import Database
from app.tasks.errors import SourceUnavailable, StatementRefused, TaskError
from config_mistakes import ConfigError

T = TypeVar("T")

ANSWER_SECONDS = 10
ASK_AGAIN_SECONDS = (5.0, 60.0)
PUT_OFF_SECONDS = (10.0, 300.0)

log = structlog.get_logger(__name__)


def _nowhere(name: str) -> URL:
    raise ValueError(f"the database {name} is not named in this process")


class SourceDatabases:
    """Connects with the first statement; safe for threads."""

    def __init__(
        self, url_of: Callable[[str], URL] = _nowhere, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`url_of` raises for a name that it does not know."""
        self._url_of = url_of
        self._clock = clock
        self._lock = threading.Lock()
        self._patient: dict[str, Database] = {}
        self._hasty: dict[str, Database] = {}
        self._away_since: dict[str, float] = {}
        self._ask_again: dict[str, float] = {}

    def database(self, name: str) -> Database:
        """For an import or a proof, whose statements may take their time. Raises `SourceUnavailable` for a
        name that nothing resolves."""
        return self._made(self._patient, name)

    def known(self, name: str) -> Database:
        """As `database`, for what a worker waits for: it gives up after `ANSWER_SECONDS`."""
        return self._made(self._hasty, name, answer_seconds=ANSWER_SECONDS)

    def _made(self, among: dict[str, Database], name: str, **options: int) -> Database:
        with self._lock:
            if name not in among:
                try:
                    among[name] = Database(self._url_of(name), pool_size=2, own=False, **options)
                except (ValueError, ConfigError) as error:
                    self._is_away(name, error)
                    raise SourceUnavailable(f"the database {name} cannot be used: {error}") from error
            return among[name]

    def read(self, name: str, work: Callable[[Connection], T]) -> T:
        """As `Database.read`. Raises `SourceUnavailable`, at once while it is known to be away."""
        return self._asked(name, lambda: self.known(name).read(work))

    def run(self, name: str, work: Callable[[Connection], T]) -> T:
        """As `Database.run`, likewise. The work may have been committed although it raises: it is to be
        repeatable."""
        return self._asked(name, lambda: self.known(name).run(work))

    def _asked(self, name: str, ask: Callable[[], T]) -> T:
        if self._clock() < self._ask_again.get(name, 0.0):
            raise SourceUnavailable(f"the database {name} was away a moment ago")
        try:
            answer = ask()
        except StatementRefused:
            raise  # it answered
        except SourceUnavailable:
            raise
        except TaskError as error:
            self._is_away(name, error)
            raise SourceUnavailable(f"the database {name} is away: {error}") from error
        if self._away_since.pop(name, None) is not None:
            log.info("source.back", database=name)
        return answer

    def _is_away(self, name: str, error: Exception) -> None:
        now = self._clock()
        if name not in self._away_since:
            log.warning("source.away", database=name, reason=str(error))
        shortest, longest = ASK_AGAIN_SECONDS
        away = now - self._away_since.setdefault(name, now)
        self._ask_again[name] = now + max(shortest, min(longest, away / 4))

    def put_off_seconds(self, name: str) -> float:
        """How long to put off what needs this database: about as long as it has been away."""
        shortest, longest = PUT_OFF_SECONDS
        away = self._clock() - self._away_since.get(name, self._clock())
        return max(shortest, min(longest, away))

    def dispose(self) -> None:
        """Close the pooled connections; the object stays usable."""
        with self._lock:
            made = [*self._patient.values(), *self._hasty.values()]
        for database in made:
            database.dispose()
