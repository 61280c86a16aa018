"""Calls of many threads, made together: while one is on its way, those that come wait, and go as one.

A web process with dozens of threads so pays for one commit and one round trip where it paid for dozens. A
call that meets no other goes by itself, at once. (The idea is flat combining: D. Hendler, I. Incze,
N. Shavit, M. Tzafrir, "Flat Combining and the Synchronization-Parallelism Tradeoff", SPAA 2010.)
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

LANES = 2  # parties on their way at once: while one waits for the disk, the next is read
PARTY = 500


class _Call(Generic[T, R]):
    """One thread's call. `turn` is locked until the call is answered, or is to lead the next party."""

    __slots__ = ("answer", "error", "item", "leads", "turn")

    def __init__(self, item: T) -> None:
        self.item = item
        self.turn = threading.Lock()
        self.turn.acquire()
        self.leads = False
        self.answer: R | None = None
        self.error: BaseException | None = None


class Combiner(Generic[T, R]):
    """Safe for threads. Each caller gets its own answer, or the error of the party that it went with."""

    def __init__(self, alone: Callable[[T], R], together: Callable[[Sequence[T]], Sequence[R]]) -> None:
        """`together` answers in the order of its items; what it raises, every caller of the party gets."""
        self._alone = alone
        self._together = together
        self._lock = threading.Lock()
        self._waiting: deque[_Call[T, R]] = deque()
        self._leaders = 0

    def __call__(self, item: T) -> R:
        call: _Call[T, R] = _Call(item)
        with self._lock:
            call.leads = self._leaders < LANES
            if call.leads:
                self._leaders += 1
            else:
                self._waiting.append(call)
        if not call.leads:
            call.turn.acquire()
        if call.leads:
            self._lead(call)
        if call.error is not None:
            raise call.error
        return call.answer  # type: ignore[return-value]  # answered: every party answers all of its calls

    def _lead(self, own: _Call[T, R]) -> None:
        """Serve this thread's call and all that wait, and hand the lead on."""
        with self._lock:
            party = [own, *(self._waiting.popleft() for _ in range(min(PARTY, len(self._waiting))))]
        try:
            self._serve(party)
        except BaseException as error:  # noqa: BLE001 - whatever it is, nobody may wait for ever
            for call in party:
                call.error = error
        finally:
            self._hand_on()
            for call in party[1:]:
                call.turn.release()

    def _serve(self, party: Sequence[_Call[T, R]]) -> None:
        if len(party) == 1:
            party[0].answer = self._alone(party[0].item)
            return
        answers = self._together([call.item for call in party])
        for call, answer in zip(party, answers, strict=True):
            call.answer = answer

    def _hand_on(self) -> None:
        with self._lock:
            if not self._waiting:
                self._leaders -= 1
                return
            heir = self._waiting.popleft()
            heir.leads = True
        heir.turn.release()
