"""When a transfer will be over: by how its rows have moved of late, with a band of error. Arithmetic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

OF_LATE_SECONDS = 20.0
PARTS = 5  # the time of late is cut into so many, and their spread gives the band


@dataclass(frozen=True, slots=True)
class Step:
    """So many rows had been moved in all at this moment."""

    at: datetime
    rows: int


@dataclass(frozen=True, slots=True)
class Forecast:
    """Seconds until nothing is left: likely, at least and at most. None where rows do not move, or hardly."""

    rows_per_second: float
    seconds: float | None = None
    least_seconds: float | None = None
    most_seconds: float | None = None


def forecast(steps: Sequence[Step], *, left: int, now: datetime) -> Forecast:
    """From the steps, in their order, what is left and the present moment, all by one clock.

    The band is the rate more and less twice its standard error over the time of late; `most_seconds` is None
    where the rate may as well be zero.
    """
    if not steps:
        return Forecast(0.0)
    since = max(steps[0].at.timestamp(), now.timestamp() - OF_LATE_SECONDS)
    length = now.timestamp() - since
    if length <= 0:
        return Forecast(0.0)
    marks = [since + length * part / PARTS for part in range(PARTS + 1)]
    heights = [_rows_at(steps, mark) for mark in marks]
    rates = [(after - before) * PARTS / length for before, after in pairwise(heights)]
    mean = sum(rates) / PARTS
    if mean <= 0:
        return Forecast(0.0)
    error = 2 * math.sqrt(sum((rate - mean) ** 2 for rate in rates) / (PARTS - 1) / PARTS)
    slowest = mean - error
    most = left / slowest if slowest > 0 else None
    return Forecast(mean, left / mean, left / (mean + error), most)


def _rows_at(steps: Sequence[Step], mark: float) -> float:
    """How many had been moved by then: between two steps, its share of the way."""
    before = Step(steps[0].at, 0)
    for step in steps:
        at = step.at.timestamp()
        if at > mark:
            span = at - before.at.timestamp()
            share = (mark - before.at.timestamp()) / span if span > 0 else 1.0
            return before.rows + max(0.0, share) * (step.rows - before.rows)
        before = step
    return float(before.rows)
