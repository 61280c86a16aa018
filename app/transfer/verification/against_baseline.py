"""Rows held against the baseline: none lost, none changed in what must not change, no end undone."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from app.transfer.baseline import Baseline, Kept, Stretch
from app.transfer.digests import row_digest
from app.transfer.verification.faults import Fault, Finding
from app.transfer.verification.rows import IDS_AT_ONCE, RowReader, Totals


@dataclass(slots=True)
class Conservation:
    """Counts over the baseline's rows."""

    recorded: int = 0
    present: int = 0
    new: int = 0
    reprioritised: int = 0
    findings: list[Finding] = field(default_factory=list)


class BaselineCheck:
    """Meets the heads of the baseline's stretches one by one; opens those that do not add up, at the end.

    `wanted` are ids of which `kept` says afterwards what was recorded."""

    def __init__(self, rows: RowReader, wanted: Iterable[int] = ()) -> None:
        self._rows = rows
        self._wanted = sorted(wanted)
        self._differ: dict[int, int] = {}  # where stretches begin, by their last ids
        self._ended: dict[int, int] = {}  # those in which others are COMPLETED than were
        self._asked: dict[int, int] = {}
        self.kept: dict[int, Kept] = {}
        self.counted = Conservation()

    def meet(self, head: Stretch, totals: Totals, after: int) -> None:
        """Hold one stretch against the same ids of the table."""
        self.counted.recorded += head.count
        if bisect_right(self._wanted, after) < bisect_right(self._wanted, head.last):
            self._asked[head.last] = after
        if (totals.rows, totals.row_sum) != (head.count, head.row_sum):
            self._differ[head.last] = after
            return
        self.counted.present += head.count
        ends = (totals.completed, totals.completed_sum)
        if head.completed and ends != (head.completed, head.completed_sum):
            self._ended[head.last] = after

    def new(self, count: int) -> None:
        """Rows behind the baseline's last one."""
        self.counted.new += count

    def open(self, baseline: Baseline) -> None:
        """Look at each row of what did not add up. What seems lost or changed is read again: a row is never
        gone for a moment, so a second reading that agrees is enough."""
        for stretch in baseline.stretches(self._differ.keys() | self._ended.keys() | self._asked.keys()):
            recorded = stretch.rows()
            if stretch.last in self._asked:
                wanted = recorded.keys() & set(self._wanted)
                self.kept |= {task_id: recorded[task_id] for task_id in wanted}
            if stretch.last in self._differ:
                self._open(recorded, self._differ[stretch.last], stretch.last)
            if stretch.last in self._ended:
                now = self._rows.not_completed(self._ended[stretch.last], stretch.last)
                self._find_undone(recorded, now)

    def _open(self, recorded: Mapping[int, Kept], after: int, last: int) -> None:
        found = self._rows.kept(after, last)
        again = self._rows.kept(after, last) if found.keys() != recorded.keys() else found
        present = recorded.keys() & again.keys()
        self.counted.present += len(present)
        self.counted.new += len(again.keys() - recorded.keys())
        for task_id in sorted(recorded.keys() - again.keys()):
            self._tell(Fault.VANISHED_ROW, recorded[task_id], "it was there")
        changed = sorted(recorded[i] for i in present if again[i]["digest"] != recorded[i].digest)
        for start in range(0, len(changed), IDS_AT_ONCE):
            self._find_changed(changed[start : start + IDS_AT_ONCE])
        self._find_undone(
            recorded, {i: again[i]["status"] for i in again if again[i]["status"] != "COMPLETED"}
        )

    def _find_changed(self, kept: list[Kept]) -> None:
        ids = [row.task_id for row in kept]
        moved, wholes = self._rows.priority_was_changed(ids), self._rows.wholes(ids)
        for row in kept:
            whole = wholes.get(row.task_id)
            if whole is None:
                self._tell(Fault.VANISHED_ROW, row, "it was there")
            elif row_digest(whole) == row.digest:
                continue
            elif row.task_id in moved and row_digest(whole | {"priority": row.rank}) == row.digest:
                self.counted.reprioritised += 1
            else:
                self._tell(Fault.CHANGED_ROW, row, "name, payload, user, limits, key or creation time")

    def _find_undone(self, recorded: Mapping[int, Kept], not_completed: Mapping[int, str]) -> None:
        for task_id in sorted(recorded.keys() & not_completed.keys()):
            if recorded[task_id].status == "COMPLETED":
                self._tell(Fault.UNDONE_END, recorded[task_id], f"it is {not_completed[task_id]} now")

    def _tell(self, fault: Fault, row: Kept, detail: str) -> None:
        text = f"{row.status}, epoch {row.epoch}, attempt {row.attempt} in the baseline; {detail}"
        self.counted.findings.append(Finding(fault, str(row.task_id), text))
