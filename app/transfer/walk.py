"""One way along the rows that are to move: where it stands, whose turn it is to pick, what is left of it."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from app.tasks.store.transfers import Aim


class Walk:
    """One way along the rows of an aim, ascending. The markers pick in turns, so that what is delivered in
    the order of their turns is in the order of service."""

    def __init__(self, aim: Aim, stretch: Any, *, most: int) -> None:
        """`stretch` and `cursor` are the cargo's. `most`: how many rows at most."""
        self.aim = aim
        self.stretch = stretch
        self.cursor: Any = None
        self.over = most < 1
        self._left = most
        self._turns = itertools.count()
        self._turn = 0
        self._changed = threading.Condition()

    def allot(self, rows: int) -> int:
        """How many rows the next batch may have, of so many that it could. After the last it is over."""
        allotted = min(rows, self._left)
        self._left -= allotted
        self.over = self.over or not self._left
        return allotted

    def next_turn(self) -> int:
        return next(self._turns)

    @contextmanager
    def in_turn(self, turn: int) -> Iterator[None]:
        """Alone, after all turns before. A repeated transaction comes again after its turn."""
        with self._changed:
            self._changed.wait_for(lambda: self._turn >= turn)
            yield
        self.end_turn(turn)

    def end_turn(self, turn: int) -> None:
        """Also of one that never came to pick: the next ones wait for it."""
        with self._changed:
            self._turn = max(self._turn, turn + 1)
            self._changed.notify_all()
