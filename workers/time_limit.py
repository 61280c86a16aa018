"""The time limit inside a worker: an exception in the handler, sent by the heartbeat when the time is over.

A task pays two assignments for it. A handler that does not let go, or whose C code never returns to Python,
is ended from outside by the pool's parent (`workers/enforcement.py`).
"""

from __future__ import annotations

import math
import signal
import threading
from typing import Any

from app.tasks.handlers import TimeLimitExceeded
from app.tasks.runner import boot_clock


class TimeLimit:
    """Called with the seconds of one task, then entered around its handler. Make it in the main thread."""

    def __init__(self) -> None:
        self._until = math.inf
        self._main = threading.main_thread().ident
        signal.signal(signal.SIGALRM, self.over)

    def __call__(self, seconds: float) -> TimeLimit:
        self._until = boot_clock() + seconds
        return self

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        self._until = math.inf

    def enforce(self, now: float) -> None:
        """The heartbeat's: raise `TimeLimitExceeded` in the main thread if the time of its task is over."""
        if now >= self._until and self._main is not None:
            signal.pthread_kill(self._main, signal.SIGALRM)

    def over(self, _signal: int, _frame: Any) -> None:
        """The signal's handler."""
        # the signal may arrive when the next task runs already, or none
        if boot_clock() >= self._until:
            self._until = math.inf  # once: what the handler does to clean up is not interrupted again
            raise TimeLimitExceeded
