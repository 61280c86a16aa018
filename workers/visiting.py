"""Which queues a worker serves, and in which order it visits them: strictly, or by weights.

Values and a small round-robin; it reads neither rows nor tickets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from app.tasks.model import PRIORITIES, Priority

WEIGHT_LIMIT = 1000


@dataclass(frozen=True, slots=True)
class Visits:
    """The queues, in their order of service; with `weights` each comes first so many times in a round."""

    priorities: Sequence[Priority] = PRIORITIES
    weights: Mapping[Priority, int] | None = None

    @classmethod
    def parse(cls, queues: str | None, weights: str | None) -> Visits:
        """From `urgent,high` and `urgent=8,low=1`; None: all queues, strictly. Raises `ValueError` with a
        sentence that names the wrong word."""
        named = None if queues is None else [_priority(word) for word in _words(queues)]
        if named is not None and len(set(named)) < len(named):
            raise ValueError(f"queues names one twice: {queues}")
        if weights is None:
            return cls() if named is None else cls(tuple(named))
        weighed = dict(_weight(word) for word in _words(weights))
        if named is None:
            named = sorted(weighed, key=lambda priority: priority.rank)
        elif set(named) != set(weighed):
            odd = sorted(set(named) ^ set(weighed), key=lambda priority: priority.rank)
            raise ValueError(f"queues and weights name different ones: {', '.join(odd)}")
        return cls(tuple(named), weighed)

    def rounds(self) -> Rounds:
        """An order of visits of one's own."""
        return Rounds(self)


STRICT = Visits()


class Rounds:
    """One consumer's visits. By weights, a round of as many visits as the weights' sum begins with each queue
    as often as its weight says, evenly spread; the other queues follow in their order of service, so that
    none waits for a visit while the first is empty."""

    def __init__(self, visits: Visits) -> None:
        self._visits = visits
        self._credit: dict[Priority, int] = dict.fromkeys(visits.priorities, 0)

    def next(self) -> list[Priority]:
        """The queues in the order of the next visit."""
        weights = self._visits.weights
        order = list(self._visits.priorities)
        if weights is None:
            return order
        for priority in order:
            self._credit[priority] += weights[priority]
        first = max(order, key=lambda priority: self._credit[priority])
        self._credit[first] -= sum(weights.values())
        order.remove(first)
        return [first, *order]


def _words(text: str) -> list[str]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        raise ValueError("names no queue")
    return words


def _priority(word: str) -> Priority:
    try:
        return Priority.of_queue(word.lower())
    except ValueError:
        raise ValueError(f"{word[:40]!r} is no queue: {', '.join(PRIORITIES)}") from None


def _weight(word: str) -> tuple[Priority, int]:
    name, _, number = word.partition("=")
    priority = _priority(name.strip())
    if not number.strip().isdecimal() or not 1 <= int(number) <= WEIGHT_LIMIT:
        raise ValueError(f"the weight of {priority} must be a whole number from 1 to {WEIGHT_LIMIT}")
    return priority, int(number)
