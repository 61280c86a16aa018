"""Where the tests wait: polling for a condition until a deadline, the only sleep outside of handlers.

A handler under test may sleep: that is the work, or the misbehaviour, that it stands for. So may a process
that stands for a client, between two of its submissions.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

POLL_SECONDS = 0.01


def happens(condition: Callable[[], T], *, deadline_seconds: float, poll_seconds: float = POLL_SECONDS) -> T:
    """The condition's first truthy value, or what it gave last when the deadline was over."""
    deadline = time.monotonic() + deadline_seconds
    while not (value := condition()) and time.monotonic() < deadline:
        time.sleep(poll_seconds)
    return value


def wait_until(
    condition: Callable[[], T],
    *,
    deadline_seconds: float,
    what: str | Callable[[], str],
    poll_seconds: float = POLL_SECONDS,
) -> T:
    """Return the condition's first truthy value; raise AssertionError naming `what` after the deadline.

    `what` is a function where it tells of the state then: a log, a count.
    """
    value = happens(condition, deadline_seconds=deadline_seconds, poll_seconds=poll_seconds)
    if not value:
        told = what if isinstance(what, str) else what()
        raise AssertionError(f"Not within {deadline_seconds:g} s: {told}")
    return value
