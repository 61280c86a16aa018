"""Clocks that move when the test says so."""

from __future__ import annotations

from datetime import UTC, datetime


class Clock:
    """Seconds, from anywhere."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class WallClock:
    """Aware UTC, from the present moment."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now
