"""The only place where tests sleep: polling for a condition until a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

POLL_SECONDS = 0.01


def happens(condition: Callable[[], object], *, deadline_seconds: float, poll_seconds: float = 0.02) -> bool:
    """True as soon as the condition is; false after the deadline."""
    deadline = time.monotonic() + deadline_seconds
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(poll_seconds)
    return True


def wait_until(condition: Callable[[], T], *, deadline_seconds: float, what: str) -> T:
    """Return the condition's first truthy value; raise AssertionError naming `what` after the deadline."""
    deadline = time.monotonic() + deadline_seconds
    while not (value := condition()):
        if time.monotonic() >= deadline:
            raise AssertionError(f"Not within {deadline_seconds:g} s: {what}")
        time.sleep(POLL_SECONDS)
    return value
