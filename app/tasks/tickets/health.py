"""Is Redis there? Counted from the first failed call, by everyone's calls in this process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import redis

from app.tasks.errors import RedisUnavailable

# Answers that mean "not usable now", beside the connection errors.
_AWAY = (
    redis.ConnectionError,
    redis.TimeoutError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.ClusterDownError,
)
# The server lives, but refuses every write: to us that is the same.
_WRITES_REFUSED = ("MISCONF", "NOREPLICAS")


class RedisHealth:
    """A breaker: while Redis is away, at most one caller per `retry_seconds` pays for a try."""

    def __init__(self, *, retry_seconds: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._retry_seconds = retry_seconds
        self._lock = threading.Lock()
        self._first_failure: float | None = None
        self._last_failure = 0.0
        self._up_since = clock()
        self.outages = 0
        """How many have begun."""

    @property
    def away_seconds(self) -> float:
        """Seconds since the first failed call of the present outage; 0 while Redis answers."""
        first = self._first_failure
        return 0.0 if first is None else self._clock() - first

    @property
    def up_seconds(self) -> float:
        """Seconds for which Redis has answered without a failure; 0 while it is away."""
        return 0.0 if self._first_failure is not None else self._clock() - self._up_since

    @property
    def worth_a_try(self) -> bool:
        """False right after a failure: the next try is for later."""
        return self._first_failure is None or self._clock() - self._last_failure >= self._retry_seconds

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Count the outcome of the calls inside. Raises `RedisUnavailable`, and nothing of the driver: for an
        unreachable server, and for one that refuses a call, which is no outage."""
        try:
            yield
        except redis.AuthenticationError as error:
            self.failed()
            raise RedisUnavailable(f"Redis refused the login: {str(error)[:200]}") from error
        except _AWAY as error:
            self.failed()
            raise RedisUnavailable(f"Redis did not answer: {type(error).__name__}") from error
        except redis.exceptions.OutOfMemoryError as error:
            self.answered()
            raise RedisUnavailable("Redis is out of memory") from error
        except redis.RedisError as error:
            self.failed() if str(error).startswith(_WRITES_REFUSED) else self.answered()
            raise RedisUnavailable(f"Redis refused: {str(error)[:200]}") from error
        else:
            self.answered()

    def failed(self) -> None:
        with self._lock:
            now = self._clock()
            if self._first_failure is None:
                self._first_failure = now
                self.outages += 1
            self._last_failure = now

    def answered(self) -> None:
        if self._first_failure is not None:
            with self._lock:
                self._first_failure = None
                self._up_since = self._clock()
