"""Looking again: the system is alive, so a first look proves nothing against a task.

A fault counts when the same task was seen in the same state, with the same faults, several times over a
while. What is explained meanwhile is forgotten; what never holds still, or waits for something, is pending
at the end, and pending is no pass.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from app.transfer.verification.faults import HEALING, Fault, Finding
from app.transfer.verification.judging import Circumstances, Verdict, judge
from app.transfer.verification.rows import RowReader
from app.transfer.verification.tickets import QUEUES, TicketReader

LOOKS = 3
MOST_SUSPECTS = 200_000


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to look at what is suspect. Seconds; `pause` sleeps."""

    settle_seconds: float = 3.0
    heal_seconds: float = 45.0  # for what heals by itself, if somebody is there who heals
    limit_seconds: float = 90.0
    clock: Callable[[], float] = time.monotonic
    pause: Callable[[float], None] = time.sleep

    @classmethod
    def of(cls, limit_seconds: float) -> Patience:
        """In the usual proportions; 90 seconds or more give the usual lengths."""
        usual = cls()
        share = min(1.0, limit_seconds / usual.limit_seconds)
        return cls(usual.settle_seconds * share, usual.heal_seconds * share, limit_seconds)

    def seconds_for(self, verdict: Verdict, now: Circumstances) -> float:
        """How long this must have been seen to count."""
        heals = now.somebody_heals and HEALING.issuperset(verdict.faults)
        return self.heal_seconds if heals else self.settle_seconds


@dataclass(slots=True)
class Settled:
    """What became of the suspects."""

    findings: list[Finding] = field(default_factory=list)
    pending: dict[str, str] = field(default_factory=dict)  # key and reason


@dataclass(slots=True)
class _Watched:
    verdict: Verdict
    since: float
    looks: int = 1


class Suspects:
    """Tasks that a walk found odd, and entries of queues that are no tickets."""

    def __init__(
        self, rows: RowReader, tickets: TicketReader | None, now: Callable[[], Circumstances]
    ) -> None:
        self._rows = rows
        self._tickets = tickets
        self._now = now
        self.ids: set[int] = set()
        self.foreign: set[bytes] = set()
        self.dropped = 0  # more than could be looked at
        self.foreign_dropped = 0

    def add(self, ids: Iterable[int]) -> None:
        for task_id in ids:
            if len(self.ids) < MOST_SUSPECTS:
                self.ids.add(task_id)
            elif task_id not in self.ids:
                self.dropped += 1

    def add_foreign(self, entry: bytes) -> None:
        if len(self.foreign) < MOST_SUSPECTS:
            self.foreign.add(entry)
        elif entry not in self.foreign:
            self.foreign_dropped += 1

    def forget_foreign(self) -> None:
        """Entries that are no tickets of ours may be there."""
        self.foreign.clear()
        self.foreign_dropped = 0

    def forget_tickets(self) -> None:
        """Redis cannot be read: what is suspect by its tickets cannot be judged."""
        self._tickets = None
        self.forget_foreign()

    def settle(self, patience: Patience) -> Settled:
        """Look until each has been cleared, has kept its fault, or patience ends.

        Raises `Unread`, `DatabaseUnavailable`.
        """
        settled = Settled()
        watched: dict[int, _Watched] = {}
        foreign, left = self.foreign, self.ids
        began, looks = patience.clock(), 0
        while foreign or left:
            looks += 1
            standing = self._standing(foreign)
            foreign = set(standing)
            left = self._look(left, watched, settled, patience)
            waited = patience.clock() - began
            if looks >= LOOKS and waited >= patience.settle_seconds:
                settled.findings += _foreign_findings(standing)
                foreign = set()
            if waited >= patience.limit_seconds:
                break
            if foreign or left:
                patience.pause(patience.settle_seconds / (LOOKS - 1))
        settled.pending |= {str(task_id): _reason(watched[task_id].verdict) for task_id in left}
        settled.pending |= {_shown(entry): "seen, and not for long enough" for entry in foreign}
        return settled

    def _look(
        self, ids: Collection[int], watched: dict[int, _Watched], settled: Settled, patience: Patience
    ) -> set[int]:
        """One look at all. Returns those that need another."""
        left: set[int] = set()
        if not ids:
            return left
        now = self._now()
        for task_id, verdict in self._verdicts(ids, now).items():
            if verdict.clean:
                continue
            last = watched.get(task_id)
            if last is None or last.verdict != verdict:
                last = watched[task_id] = _Watched(verdict, patience.clock())
            else:
                last.looks += 1
            long = patience.seconds_for(verdict, now)
            still = last.looks >= LOOKS and patience.clock() - last.since >= long
            if still and verdict.faults:
                detail = _detail(verdict)
                settled.findings += [Finding(fault, str(task_id), detail) for fault in verdict.faults]
            else:
                left.add(task_id)
        return left

    def _verdicts(self, ids: Collection[int], now: Circumstances) -> dict[int, Verdict]:
        tickets = self._tickets.tickets_of(ids) if self._tickets else {}
        rows = self._rows.states(ids)
        return {task_id: judge(rows.get(task_id), tickets.get(task_id, []), now) for task_id in ids}

    def _standing(self, entries: Collection[bytes]) -> dict[bytes, list[int]]:
        return self._tickets.standing(entries) if self._tickets and entries else {}


def _foreign_findings(standing: Mapping[bytes, list[int]]) -> list[Finding]:
    places = ((entry, QUEUES[ranks[0]]) for entry, ranks in standing.items())
    return [Finding(Fault.FOREIGN_TICKET, _shown(entry), f"in {queue}") for entry, queue in places]


def _reason(verdict: Verdict) -> str:
    return verdict.pending or "seen, and not for long enough: " + ", ".join(verdict.faults)


def _detail(verdict: Verdict) -> str:
    row, tickets = verdict.seen
    of_row = "no row" if row is None else f"row {row[0]}, epoch {row[1]}, {QUEUES[row[2]]}"  # type: ignore[index]
    places = [f"e{ticket.epoch} in {QUEUES[ticket.rank]}" for ticket in tickets]  # type: ignore[attr-defined]
    return f"{of_row}; tickets: {', '.join(places) or 'none'}"


def _shown(entry: bytes) -> str:
    return entry.decode("utf-8", "backslashreplace")[:100]
