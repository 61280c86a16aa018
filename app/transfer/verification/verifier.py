"""One verification: the tickets, one walk over the rows, then another look at whatever is suspect."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

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


class _Added(NamedTuple):
    """Ids behind `after` up to `last`, added up, and what the baseline says of them."""

    after: int
    last: int
    recorded: Stretch | None
    totals: Totals


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
        finally:
            if self._progress:
                self._progress.end()
        report.seconds = self._clock() - began
        return report

    def _verify(self, report: Report) -> None:
        starts = self._window_starts(report)
        suspects = Suspects(self._rows, self._tickets, self._circumstances)
        meeting = Meeting(self._rows, suspects, starts)
        # the database adds up rows while this process reads tickets
        with ThreadPoolExecutor(1) as beside:
            added = beside.submit(lambda: list(self._add_up(starts)))
            self._read_tickets(report, meeting, suspects)
            stretches = added.result()
        check = BaselineCheck(self._rows, {i for pair in self._order.pairs for i in pair.ids})
        for stretch in stretches:
            self._meet(report, stretch, meeting, check, suspects)
        self._open_baseline(report, check)
        self._settle(report, suspects)
        report.findings += self._inversions(check, {finding.key for finding in report.findings})
        if self._order.more:
            report.unread.append(f"{self._order.more:,} more pairs of tickets stand the wrong way round")

    # --- Redis, which may be away: then the rows are verified all the same ---------------------------

    def _window_starts(self, report: Report) -> dict[int, int]:
        try:
            return self._tickets.window_starts() if self._tickets else {}
        except Unread as error:
            self._give_up(report, error)
            return {}

    def _read_tickets(self, report: Report, meeting: Meeting, suspects: Suspects) -> None:
        if self._tickets is None:
            return
        try:
            meeting.tables = read_queues(self._tickets, suspects, self._order, meeting.starts)
        except Unread as error:
            self._give_up(report, error)
            suspects.forget_tickets()
            self._order = OrderWatch()
            return
        report.tickets = {QUEUES[rank]: count for rank, count in meeting.counts.items()}
        if self._wanted.foreign_allowed:
            suspects.forget_foreign()

    def _give_up(self, report: Report, error: Unread) -> None:
        report.unread.append(str(error))
        self._tickets = None

    # --- the walk over the rows ---------------------------------------------------------------------

    def _add_up(self, starts: Mapping[int, int]) -> Iterator[_Added]:
        """All rows, stretch by stretch: those of the baseline, then those behind its last row."""
        if self._progress:
            self._progress.stage("rows", total=self._rows.count())
        after = 0
        for head in self._baseline.heads() if self._baseline else ():
            yield self._added(after, head.last, head, starts)
            after = head.last
        while (last := self._rows.stretch_end(after, STRETCH_ROWS)) is not None:
            yield self._added(after, last, None, starts)
            after = last
        yield self._added(after, LAST_ID, None, starts)

    def _added(self, after: int, last: int, head: Stretch | None, starts: Mapping[int, int]) -> _Added:
        totals = self._rows.totals(after, last, starts, digests=head is not None)
        if self._progress:
            self._progress.step(totals.rows)
        return _Added(after, last, head, totals)

    def _meet(
        self, report: Report, stretch: _Added, meeting: Meeting, check: BaselineCheck, suspects: Suspects
    ) -> None:
        after, last, recorded, totals = stretch
        if recorded is not None:
            check.meet(recorded, totals, after)
        else:
            check.new(totals.rows)
        if self._tickets:
            meeting.meet(after, last, totals)
        self._left_behind(stretch, suspects)
        self._count(report, totals)

    def _left_behind(self, stretch: _Added, suspects: Suspects) -> None:
        status, ranks = self._wanted.left_status, self._wanted.left_ranks
        if status and any(stretch.totals.statuses.get((status, rank)) for rank in ranks):
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
            somebody_heals=self._rows.somebody_heals(),
            left_status=self._wanted.left_status,
            left_ranks=self._wanted.left_ranks,
        )

    def _settle(self, report: Report, suspects: Suspects) -> None:
        if self._progress:
            self._progress.stage("suspects", total=len(suspects.ids) + len(suspects.foreign))
        settled = suspects.settle(self._wanted.patience)
        report.findings += settled.findings
        report.pending |= settled.pending
        if suspects.dropped:
            report.unread.append(f"{suspects.dropped:,} more tasks are suspect and were not looked at")
        if suspects.foreign_dropped:
            more = f"{suspects.foreign_dropped:,} more entries of the queues"
            report.unread.append(f"{more} are no tickets and were not looked at")

    def _inversions(self, check: BaselineCheck, explained: set[str]) -> list[Finding]:
        """Pairs that stand the wrong way round: judged by the rows as they are now, so that whoever has
        moved on meanwhile is left alone. `explained`: who has a fault that explains where it stands."""
        pairs = [pair for pair in self._order.pairs if not any(str(i) in explained for i in pair.ids)]
        rows = self._rows.states({task_id for pair in pairs for task_id in pair.ids})
        judge = OrderJudge(rows, check.kept, self._wanted.grace_seconds)
        return list(judge.inversions(pairs))

    # --- the baseline -------------------------------------------------------------------------------

    def _open_baseline(self, report: Report, check: BaselineCheck) -> None:
        if self._baseline is None:
            return
        check.open(self._baseline)
        report.findings += check.counted.findings
        report.baseline = {
            "taken": self._baseline.taken_at,
            "recorded": check.counted.recorded,
            "present": check.counted.present,
            "new since": check.counted.new,
            "reprioritised": check.counted.reprioritised,
        }
