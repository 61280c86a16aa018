"""One verification: the tickets, one walk over the rows, then another look at whatever is suspect."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from app.tasks.database import Database
from app.tasks.errors import TaskError
from app.transfer.baseline import Baseline, Stretch
from app.transfer.digests import TimeLimits
from app.transfer.progress import Progress
from app.transfer.verification.against_baseline import BaselineCheck
from app.transfer.verification.faults import Finding
from app.transfer.verification.judging import Circumstances
from app.transfer.verification.meeting import Meeting, read_queues
from app.transfer.verification.order import OrderJudge, OrderWatch
from app.transfer.verification.report import Report
from app.transfer.verification.rows import RowReader, Totals
from app.transfer.verification.suspects import Patience, Suspects
from app.transfer.verification.tickets import QUEUES, TicketReader, Unread

STRETCH_ROWS = 10_000
LAST_ID = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to verify. `left_status`, QUEUED or DISPATCHED, is the track that `left_ranks` were to leave."""

    subject: str = "tasks"
    left_status: str | None = None
    left_ranks: frozenset[int] = frozenset(range(len(QUEUES)))
    grace_seconds: float = 30.0
    foreign_allowed: bool = False
    digests_in_database: bool = True
    patience: Patience = field(default_factory=Patience)


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Ids behind `after` up to `last`, and what the baseline says of them."""

    after: int
    last: int
    recorded: Stretch | None = None


class Verifier:
    """Verifies one installation. Without `tickets` only rows are verified: against the baseline, and that
    nobody was left behind."""

    def __init__(
        self,
        database: Database,
        tickets: TicketReader | None,
        limits: TimeLimits,
        *,
        baseline: Baseline | None = None,
        wanted: Wanted | None = None,
        progress: Progress | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._tickets = tickets
        self._baseline = baseline
        self._wanted = wanted or Wanted()
        self._rows = RowReader(database, limits, in_database=self._wanted.digests_in_database)
        self._progress = progress
        self._clock = clock
        self._order = OrderWatch()

    def run(self) -> Report:
        """Verify. What could not be read is in the report, and keeps it from being a pass; raises nothing of
        the database or Redis."""
        report = Report(self._wanted.subject)
        began = self._clock()
        try:
            report.at = self._database.now().isoformat(timespec="seconds")
            self._verify(report)
        except (Unread, TaskError) as error:
            report.unread.append(str(error))
        report.seconds = self._clock() - began
        return report

    def _verify(self, report: Report) -> None:
        starts = self._tickets.window_starts() if self._tickets else {}
        suspects = Suspects(self._rows, self._tickets, self._circumstances)
        meeting = Meeting(self._rows, suspects, starts)
        if self._tickets:
            self._stage("tickets")
            meeting.tables = read_queues(self._tickets, suspects, self._order, starts, self._step)
            report.tickets = {QUEUES[rank]: n for rank, n in meeting.counts.items()}
        if self._wanted.foreign_allowed:
            suspects.foreign.clear()
        check = BaselineCheck(self._rows, {i for pair in self._order.pairs for i in pair.ids})
        self._walk(report, meeting, check, suspects)
        self._settle(report, suspects)
        report.findings += self._inversions(check, {finding.key for finding in report.findings})
        self._tell_baseline(report, check)

    # --- the walk over the rows ---------------------------------------------------------------------

    def _walk(self, report: Report, meeting: Meeting, check: BaselineCheck, suspects: Suspects) -> None:
        self._stage("rows", total=self._rows.count())
        unreadable = 0
        for stretch in self._stretches():
            totals = self._rows.totals(
                stretch.after, stretch.last, meeting.starts, digests=stretch.recorded is not None
            )
            if stretch.recorded is not None:
                check.meet(stretch.recorded, totals, stretch.after)
            else:
                check.new(totals.rows)
            if self._tickets:
                meeting.meet(stretch.after, stretch.last, totals)
            self._left_behind(stretch, totals, suspects)
            self._count(report, totals)
            unreadable += totals.unreadable
            self._step(totals.rows)
        if unreadable:
            report.unread.append(f"the database could make no digest of {unreadable} rows")

    def _stretches(self) -> Iterator[_Stretch]:
        after = 0
        if self._baseline is not None:
            for recorded in self._baseline.stretches():
                yield _Stretch(after, recorded.last, recorded)
                after = recorded.last
        while (last := self._rows.stretch_end(after, STRETCH_ROWS)) is not None:
            yield _Stretch(after, last)
            after = last
        yield _Stretch(after, LAST_ID)

    def _left_behind(self, stretch: _Stretch, totals: Totals, suspects: Suspects) -> None:
        status, ranks = self._wanted.left_status, self._wanted.left_ranks
        if status and any(totals.statuses.get((status, rank)) for rank in ranks):
            suspects.add(self._rows.left_behind(stretch.after, stretch.last, status, ranks))

    @staticmethod
    def _count(report: Report, totals: Totals) -> None:
        report.rows += totals.rows
        for (status, _), count in sorted(totals.statuses.items()):
            report.statuses[status] = report.statuses.get(status, 0) + count
        waiting = sum(n for (status, _), n in totals.statuses.items() if status == "DISPATCHED")
        report.beyond_window += waiting - sum(count for count, _ in totals.tickets.values())

    # --- suspects -----------------------------------------------------------------------------------

    def _circumstances(self) -> Circumstances:
        tickets = self._tickets
        return Circumstances(
            window_starts=tickets.window_starts() if tickets else {},
            closed_ranks=frozenset(self._rows.closed_ranks()),
            in_hand=frozenset(tickets.in_hand(self._rows.worker_ids())) if tickets else frozenset(),
            grace_seconds=self._wanted.grace_seconds,
            tickets_asked=tickets is not None,
            left_status=self._wanted.left_status,
            left_ranks=self._wanted.left_ranks,
        )

    def _settle(self, report: Report, suspects: Suspects) -> None:
        self._stage("suspects", total=len(suspects.ids) + len(suspects.foreign))
        settled = suspects.settle(self._wanted.patience)
        report.findings += settled.findings
        report.pending |= settled.pending
        if suspects.dropped:
            report.unread.append(f"{suspects.dropped:,} more tasks are suspect and were not looked at")

    def _inversions(self, check: BaselineCheck, explained: set[str]) -> list[Finding]:
        """Pairs that stand the wrong way round: judged by the rows as they are now, so that whoever has
        moved on meanwhile is left alone. `explained`: who has a fault that explains where it stands."""
        pairs = [pair for pair in self._order.pairs if not any(str(i) in explained for i in pair.ids)]
        rows = self._rows.states({task_id for pair in pairs for task_id in pair.ids})
        judge = OrderJudge(rows, check.kept, self._wanted.grace_seconds)
        return list(judge.inversions(pairs))

    def _tell_baseline(self, report: Report, check: BaselineCheck) -> None:
        report.findings += check.counted.findings
        if self._order.more:
            report.unread.append(f"{self._order.more:,} more pairs of tickets stand the wrong way round")
        if self._baseline is not None:
            counted = check.counted
            report.baseline = {
                "taken": self._baseline.taken_at,
                "recorded": counted.recorded,
                "present": counted.present,
                "new since": counted.new,
                "reprioritised": counted.reprioritised,
            }

    # --- progress -----------------------------------------------------------------------------------

    def _stage(self, what: str, *, total: int | None = None) -> None:
        if self._progress:
            self._progress.stage(what, total=total)

    def _step(self, count: int) -> None:
        if self._progress:
            self._progress.step(count)
