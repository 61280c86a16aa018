"""Order: a ticket that stands behind a younger one needs an explanation.

Ids ascend with time, and tasks that were submitted to Redis, or moved there from the database's queue,
stand in the order of their ids. Other waits (retries, due and released tasks, another priority) have orders
of their own, so a pair counts only if both came in one of those two ways; of moved ones the baseline tells.
A pair is explained if the older task began to wait when the younger one was there already, if its lost
ticket was pushed again, or if two processes pushed at about the same time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from app.tasks.ids import EPOCH_MS, NODE_BITS, SEQUENCE_BITS
from app.transfer.baseline import Kept
from app.transfer.verification.faults import Fault, Finding
from app.transfer.verification.rows import DISPATCHED, RowState
from app.transfer.verification.tickets import QUEUES, Reference

# Two processes that submit at the same time push in either order, and their clocks differ a little.
TOLERANCE_SECONDS = 5.0
MOST_PAIRS = 50_000


class Standing(NamedTuple):
    """A ticket in a queue, and the database's time of its push."""

    reference: Reference
    pushed_at: float


@dataclass(frozen=True, slots=True)
class Pair:
    """Two neighbours in a queue, the younger one ahead."""

    rank: int
    ahead: Standing
    behind: Standing

    @property
    def ids(self) -> tuple[int, int]:
        return self.ahead.reference.task_id, self.behind.reference.task_id


class OrderWatch:
    """Walks along queues, one after the other, and keeps the pairs that stand the wrong way round."""

    def __init__(self) -> None:
        self._last: dict[int, Standing] = {}
        self.pairs: list[Pair] = []
        self.more = 0

    def next(self, rank: int, reference: Reference, pushed_at: float) -> None:
        here, last = Standing(reference, pushed_at), self._last.get(rank)
        self._last[rank] = here
        if last is None or last.reference.task_id <= reference.task_id:
            return
        if _submitted_side_by_side(last, here):
            return
        if len(self.pairs) < MOST_PAIRS:
            self.pairs.append(Pair(rank, last, here))
        else:
            self.more += 1


def _submitted_side_by_side(ahead: Standing, behind: Standing) -> bool:
    """Told without rows, for there can be many: two that were submitted to Redis, the older one not before
    the younger one was pushed. Its id says when that was."""
    if ahead.reference.epoch > 1 or behind.reference.epoch > 1 or ahead.pushed_at == behind.pushed_at:
        return False
    submitted_at = (behind.reference.task_id >> (NODE_BITS + SEQUENCE_BITS)) + EPOCH_MS
    near = ahead.pushed_at - submitted_at / 1000 < TOLERANCE_SECONDS
    return near and ahead.pushed_at - behind.pushed_at <= TOLERANCE_SECONDS


@dataclass(frozen=True, slots=True)
class OrderJudge:
    """Tells faults from what has an explanation. `kept` is what the baseline says of the pairs' tasks."""

    rows: Mapping[int, RowState]
    kept: Mapping[int, Kept]
    grace_seconds: float

    def inversions(self, pairs: list[Pair]) -> Iterator[Finding]:
        for pair in pairs:
            if self._unexplained(pair):
                ahead, behind = pair.ids
                yield Finding(Fault.ORDER_INVERSION, str(behind), f"behind {ahead} in {QUEUES[pair.rank]}")

    def _unexplained(self, pair: Pair) -> bool:
        ahead, behind = self._in_order(pair.ahead), self._in_order(pair.behind)
        if ahead is None or behind is None:
            return False
        earlier = pair.ahead.pushed_at - pair.behind.pushed_at
        if earlier == 0 or earlier > TOLERANCE_SECONDS:
            return True  # one push, or the list contradicts the times of its pushes
        pushed_again = pair.behind.pushed_at - behind.waiting_at >= self.grace_seconds
        return not pushed_again and behind.waiting_at < pair.ahead.pushed_at - TOLERANCE_SECONDS

    def _in_order(self, ticket: Standing) -> RowState | None:
        """The ticket's row, if it still waits as the ticket says, and came in a way that keeps the order."""
        row, kept = self.rows.get(ticket.reference.task_id), self.kept.get(ticket.reference.task_id)
        if row is None or row.status != DISPATCHED or row.epoch != ticket.reference.epoch:
            return None
        submitted = row.epoch == 1 and row.attempt == 0
        moved = kept is not None and (kept.status, kept.epoch + 1, kept.attempt) == (
            "QUEUED",
            row.epoch,
            row.attempt,
        )
        return row if submitted or moved else None
