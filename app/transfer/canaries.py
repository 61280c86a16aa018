"""Canaries: the few rows that a transfer moves first, each step looked at before the next and larger one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence


def _unseen(moved: int) -> None:
    """Nobody looks."""


class Canaries:
    """The steps that are left. `inspect` is told how many rows a step moved; what it raises ends the run,
    with the routing as it was."""

    def __init__(self, rows: Sequence[int] = (), inspect: Callable[[int], None] = _unseen) -> None:
        self._rows = deque(rows)
        self._inspect = inspect

    @property
    def next_rows(self) -> int:
        """How many rows the next step moves; 0 after the last."""
        return self._rows[0] if self._rows else 0

    def moved(self, rows: int) -> None:
        """A step is done, by as many rows as there were."""
        self._inspect(rows)
        self._rows.popleft()
