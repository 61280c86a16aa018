"""Rows held against the baseline: none lost, none changed in what must not change, no end undone."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from app.transfer.baseline import Kept, Stretch
from app.transfer.digests import row_digest
from app.transfer.verification.faults import Fault, Finding
from app.transfer.verification.rows import RowReader, Totals


@dataclass(slots=True)
class Conservation:
    """Counts over the baseline's rows."""

    recorded: int = 0
    present: int = 0
    new: int = 0
    reprioritised: int = 0
    findings: list[Finding] = field(default_factory=list)


class BaselineCheck:
    """Meets the baseline's stretches one by one."""

    def __init__(self, rows: RowReader, wanted: Iterable[int] = ()) -> None:
        """`wanted`: ids of which `kept` shall say what was recorded."""
        self._rows = rows
        self._wanted = sorted(wanted)
        self.kept: dict[int, Kept] = {}
        self.counted = Conservation()

    def meet(self, stretch: Stretch, totals: Totals, after: int) -> None:
        """Hold one stretch against the same ids of the table."""
        self.counted.recorded += stretch.count
        first, end = (bisect_right(self._wanted, bound) for bound in (after, stretch.last))
        if wanted := self._wanted[first:end]:
            recorded = stretch.rows()
            self.kept |= {task_id: recorded[task_id] for task_id in wanted if task_id in recorded}
        if (totals.rows, totals.row_sum) == (stretch.count, stretch.row_sum) and not totals.unreadable:
            self.counted.present += stretch.count
            self._ends(stretch, totals, after)
            return
        self._open(stretch, after)

    def new(self, count: int) -> None:
        """Rows behind the baseline's last one."""
        self.counted.new += count

    def _ends(self, stretch: Stretch, totals: Totals, after: int) -> None:
        """The rows are there and unchanged; ends that were recorded must still be ends."""
        recorded = sum(" COMPLETED " in line for line in stretch.lines)
        if recorded > sum(count for (status, _), count in totals.statuses.items() if status == "COMPLETED"):
            found = self._rows.kept(after, stretch.last)
            self._find_undone(stretch.rows().values(), found)

    def _open(self, stretch: Stretch, after: int) -> None:
        """Look at each row. What seems lost or changed is read again: a row is never gone for a moment, so
        a second reading that agrees is enough."""
        recorded = stretch.rows()
        found = self._rows.kept(after, stretch.last)
        again = self._rows.kept(after, stretch.last) if found.keys() != recorded.keys() else found
        present = recorded.keys() & again.keys()
        self.counted.present += len(present)
        self.counted.new += len(again.keys() - recorded.keys())
        for task_id in sorted(recorded.keys() - again.keys()):
            self._tell(Fault.VANISHED_ROW, recorded[task_id], "it was there")
        self._find_changed([recorded[i] for i in present if again[i]["digest"] != recorded[i].digest])
        self._find_undone((recorded[task_id] for task_id in present), again)

    def _find_changed(self, kept: list[Kept]) -> None:
        moved = self._rows.priority_was_changed([row.task_id for row in kept])
        for row in sorted(kept):
            whole = self._rows.whole(row.task_id)
            if whole is None:
                self._tell(Fault.VANISHED_ROW, row, "it was there")
            elif row_digest(whole) == row.digest:
                continue
            elif row.task_id in moved and row_digest(whole | {"priority": row.rank}) == row.digest:
                self.counted.reprioritised += 1
            else:
                self._tell(Fault.CHANGED_ROW, row, "name, payload, user, limits, key or creation time")

    def _find_undone(self, kept: Iterable[Kept], found: Mapping[int, Mapping[str, Any]]) -> None:
        for row in kept:
            now = found.get(row.task_id)
            if now is not None and row.status == "COMPLETED" != now["status"]:
                self._tell(Fault.UNDONE_END, row, f"it is {now['status']} now")

    def _tell(self, fault: Fault, row: Kept, detail: str) -> None:
        text = f"{row.status}, epoch {row.epoch}, attempt {row.attempt} in the baseline; {detail}"
        self.counted.findings.append(Finding(fault, str(row.task_id), text))
