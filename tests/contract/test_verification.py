"""The verifier on three databases: it names what was planted, each by its class, and nothing else."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import redis

from app.tasks.model import PRIORITIES, Priority, Ticket
from app.tasks.store import Store
from app.tasks.tickets import RQQueueManager
from app.transfer.baseline import Baseline, record
from app.transfer.progress import Progress
from app.transfer.verification.faults import Fault
from app.transfer.verification.suspects import Patience
from app.transfer.verification.tickets import TicketReader, Unread
from app.transfer.verification.verifier import Verifier, Wanted
from tests.contract.rows import Rows
from tests.proof.planting import LIMITS, Field, Planted, time_limit
from tests.servers import RedisServer

ROWS = 1_000
FAULTS = 48  # three of each of sixteen classes


class Steps:
    """A clock that only pauses move: what a look takes on a busy machine costs no patience."""

    def __init__(self) -> None:
        self._now = 0.0

    def now(self) -> float:
        return self._now

    def pause(self, seconds: float) -> None:
        self._now += seconds


STEPS = Steps()
AT_ONCE = Patience(settle_seconds=2, limit_seconds=10, clock=STEPS.now, pause=STEPS.pause)


class Site:
    """Rows that were recorded, moved to Redis, and can be verified."""

    def __init__(self, rows: Rows, raw: redis.Redis, folder: Path) -> None:
        self.rows, self.folder = rows, folder / "baseline"
        self.tickets = RQQueueManager(raw, time_limit=time_limit)
        self.raw = raw
        self.field = Field(rows.engine, raw)

    def grow(self, count: int = ROWS) -> None:
        self.field.sow(count)
        record(self.rows.database, self.folder)
        self.field.move(self.tickets)

    def verify(self, **wanted: Any) -> Any:
        options = Wanted(**({"patience": AT_ONCE} | wanted))
        reader = TicketReader(self.raw)
        baseline = Baseline(self.folder)
        return Verifier(self.rows.database, reader, LIMITS, baseline=baseline, wanted=options).run()


@pytest.fixture
def bytes_client(redis_url: str) -> Any:
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def site(rows: Rows, bytes_client: Any, tmp_path: Path) -> Site:
    return Site(rows, bytes_client, tmp_path)


def found_by(report: Any) -> set[Planted]:
    return {Planted(finding.fault.value, finding.key) for finding in report.findings}


@pytest.mark.parametrize("in_database", [True, False])
def test_what_was_moved_rightly_is_clean(site: Site, in_database: bool) -> None:
    site.grow(300)

    report = site.verify(digests_in_database=in_database)

    assert (report.findings, report.pending, report.unread) == ([], {}, [])
    assert report.exit_code == 0
    assert report.rows == report.baseline["present"] == 300
    assert sum(report.tickets.values()) == len(site.field.waiting)


def test_each_planted_fault_is_named_by_its_class_and_nothing_else_is(site: Site) -> None:
    site.grow()
    planted = set(site.field.plant(FAULTS))

    report = site.verify()

    assert found_by(report) == planted
    assert len(report.findings) == FAULTS
    assert (report.exit_code, report.pending) == (1, {})


# --- what is no fault, and what nobody can say yet ---------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Few:
    """A handful of rows on SQLite whose tickets are pushed one by one."""

    def __init__(self, rows: Rows, raw: redis.Redis) -> None:
        self.rows, self.raw = rows, raw
        self.tickets = RQQueueManager(raw, time_limit=time_limit)

    def put(self, status: str = "DISPATCHED", *, pushed: bool = True, **columns: Any) -> int:
        """A row that has waited for long, at epoch 1 unless said otherwise, and its ticket."""
        usual: dict[str, Any] = {"epoch": 1, "waiting_since": self.rows.at(-600)}
        task_id = self.rows.put(status, **(usual | columns))
        if pushed:
            self.push(task_id)
        return task_id

    def push(self, *ids: int, **options: Any) -> None:
        rows = [self.rows.row(task_id) for task_id in ids]
        made = [Ticket(row["id"], row["epoch"], PRIORITIES[row["priority"]], row["name"]) for row in rows]
        self.tickets.push(made, **options)

    def verify(self, *, slice_ids: int = 100, **wanted: Any) -> Any:
        options = Wanted(**({"patience": AT_ONCE} | wanted))
        reader = TicketReader(self.raw, slice_ids=slice_ids)
        return Verifier(self.rows.database, reader, LIMITS, wanted=options).run()


@pytest.fixture
def few(sqlite_rows: Rows, sqlite_store: Store, bytes_client: Any) -> Few:
    return Few(sqlite_rows, bytes_client)


def test_a_ticket_that_may_be_on_its_way_is_pending_and_no_pass(few: Few) -> None:
    young = few.put(pushed=False, waiting_since=few.rows.at(0))

    report = few.verify()

    assert (report.findings, list(report.pending), report.exit_code) == ([], [str(young)], 2)


def test_a_ticket_that_arrives_while_it_is_looked_for_is_clean(few: Few) -> None:
    young = few.put(pushed=False, waiting_since=few.rows.at(0))
    patience = Patience(settle_seconds=0.02, limit_seconds=30, pause=lambda _: few.push(young))

    assert few.verify(patience=patience).exit_code == 0


def test_a_task_that_is_claimed_while_it_is_suspect_is_clean(few: Few) -> None:
    task_id = few.put(pushed=False)

    def claim(_: float) -> None:
        few.rows.change(task_id, status="PROCESSING", token=1)

    assert few.verify(patience=Patience(settle_seconds=0.02, pause=claim)).exit_code == 0


def test_a_fault_that_changes_at_every_look_is_pending(few: Few) -> None:
    task_id = few.put(pushed=False)

    def change(_: float) -> None:
        few.rows.execute("UPDATE tasks SET epoch = epoch + 1 WHERE id = :id", id=task_id)

    report = few.verify(patience=Patience(settle_seconds=0.02, limit_seconds=0.2, pause=change))

    assert (report.findings, list(report.pending), report.exit_code) == ([], [str(task_id)], 2)


@pytest.mark.parametrize("closed", ["paused = true", "fenced_track = 'redis'", "fallback = true"])
def test_rows_of_a_closed_queue_are_pending(few: Few, closed: str) -> None:
    few.put(pushed=False)
    few.rows.execute(f"UPDATE routing SET {closed}")

    report = few.verify()

    assert (report.findings, len(report.pending), report.exit_code) == ([], 1, 2)


def test_a_ticket_in_a_workers_hands_is_pending(few: Few) -> None:
    few.put()
    few.rows.execute(
        "INSERT INTO workers (id, host, pid, track, queues, state, started_at, seen_at)"
        " VALUES ('w', 'h', 1, 'redis', '', 'busy', :at, :at)",
        at=few.rows.at(0),
    )
    few.tickets.take("w", [Priority.NORMAL], 1)

    report = few.verify()

    assert (report.findings, len(report.pending), report.exit_code) == ([], 1, 2)


def test_rows_beyond_the_window_need_no_ticket_and_those_before_it_do(few: Few) -> None:
    few.tickets.window = 3
    ids = [few.put(pushed=False) for _ in range(8)]
    few.push(*ids)
    assert few.raw.llen("rq:queue:normal") == 3

    report = few.verify()
    assert (report.exit_code, report.beyond_window) == (0, 5)

    few.raw.lpop("rq:queue:normal")
    assert found_by(few.verify()) == {Planted("missing ticket", str(ids[0]))}


def test_a_wrong_ticket_beyond_the_window_is_found_too(few: Few) -> None:
    few.tickets.window = 3
    ids = [few.put(pushed=False) for _ in range(6)]
    few.push(*ids)
    few.push(ids[5], front=True)
    few.raw.rpush("rq:queue:low", f"t{ids[4]}-e9")

    assert found_by(few.verify()) == {Planted("stale ticket", str(ids[4]))}


def test_a_queue_that_is_longer_than_a_slice_is_read_once_whatever_is_taken_meanwhile(few: Few) -> None:
    ids = [few.put() for _ in range(23)]
    reader = TicketReader(few.raw, slice_ids=5)
    seen: list[bytes] = []

    for entries in reader.entries(2):
        seen += entries
        few.raw.lpop("rq:queue:normal", 2)  # a worker takes from the head

    assert seen == [f"t{task_id}-e1".encode() for task_id in ids]
    assert few.verify(slice_ids=7).exit_code == 1  # those taken are missing now


def test_a_queue_at_whose_head_tickets_are_put_back_meanwhile_is_read_to_its_end(few: Few) -> None:
    ids = [few.put() for _ in range(23)]
    seen: list[bytes] = []

    for entries in TicketReader(few.raw, slice_ids=5).entries(2):
        seen += entries
        few.raw.lpush("rq:queue:normal", *[f"t{9 + number}-e1" for number in range(4)])

    assert seen == [f"t{task_id}-e1".encode() for task_id in ids]


def test_a_queue_that_runs_away_is_unread_and_no_pass(few: Few) -> None:
    for _ in range(20):
        few.put()
    reader = TicketReader(few.raw, slice_ids=5)
    entries = reader.entries(2)
    next(entries)
    few.raw.delete("rq:queue:normal")
    few.raw.rpush("rq:queue:normal", *[f"x{n}" for n in range(20)])

    with pytest.raises(Unread):
        next(entries)


def test_a_redis_that_goes_away_leaves_the_rows_verified_and_the_report_incomplete(
    few: Few, private_redis: RedisServer
) -> None:
    few.put()
    private_redis.stop()
    reader = TicketReader(private_redis.client())

    report = Verifier(few.rows.database, reader, LIMITS).run()

    assert (report.rows, report.tickets, report.exit_code) == (1, None, 2)


def test_the_line_of_the_progress_is_clean_before_the_report_is_shown(few: Few) -> None:
    terminal = Terminal()

    Verifier(few.rows.database, None, LIMITS, progress=Progress("rows", stream=terminal)).run()

    assert "rows" in terminal.getvalue()
    assert terminal.getvalue().endswith("\r\x1b[K")


def test_retried_and_due_tasks_may_stand_behind_younger_ones(few: Few) -> None:
    retried, due, young = few.put(pushed=False, epoch=2, attempt=1), few.put(pushed=False, epoch=2), few.put()
    few.push(retried)
    few.push(due)

    assert few.verify().exit_code == 0, young


def test_a_task_that_was_pushed_again_after_its_loss_may_stand_behind_younger_ones(few: Few) -> None:
    lost = few.put()
    few.put()
    few.raw.lrem("rq:queue:normal", 1, f"t{lost}-e1")
    few.push(lost)

    assert few.verify().exit_code == 0


def test_two_processes_that_submit_at_once_may_push_in_either_order(few: Few) -> None:
    first = few.put(pushed=False, waiting_since=few.rows.at(-1))
    few.put(waiting_since=few.rows.at(-1))
    few.push(first)

    assert few.verify().exit_code == 0


def test_another_priority_that_an_operator_gave_is_no_change_of_the_row(few: Few, tmp_path: Path) -> None:
    given, spoilt = few.put(), few.put()
    record(few.rows.database, tmp_path / "baseline")
    few.rows.execute("UPDATE tasks SET priority = 1, epoch = 2, waiting_since = :now", now=few.rows.at(0))
    few.rows.execute(
        "INSERT INTO task_events (task_id, at, kind, detail) VALUES (:id, :at, 'reprioritised', '{}')",
        id=given,
        at=few.rows.at(0),
    )

    baseline = Baseline(tmp_path / "baseline")
    report = Verifier(few.rows.database, None, LIMITS, baseline=baseline).run()

    assert found_by(report) == {Planted("changed row", str(spoilt))}
    assert report.baseline is not None
    assert report.baseline["reprioritised"] == 1


def test_an_end_that_is_undone_is_named(few: Few, tmp_path: Path) -> None:
    ended = few.put("COMPLETED", pushed=False)
    record(few.rows.database, tmp_path / "baseline")
    few.rows.change(ended, status="QUEUED")

    report = Verifier(few.rows.database, None, LIMITS, baseline=Baseline(tmp_path / "baseline")).run()

    assert found_by(report) == {Planted("end undone", str(ended))}


def test_an_end_that_is_undone_is_named_while_other_tasks_end(few: Few, tmp_path: Path) -> None:
    ended, waiting = few.put("COMPLETED", pushed=False), few.put("QUEUED", pushed=False)
    record(few.rows.database, tmp_path / "baseline")
    few.rows.change(ended, status="QUEUED")
    few.rows.change(waiting, status="COMPLETED")

    report = Verifier(few.rows.database, None, LIMITS, baseline=Baseline(tmp_path / "baseline")).run()

    assert found_by(report) == {Planted("end undone", str(ended))}


@pytest.mark.parametrize(("left", "named"), [("QUEUED", 1), ("DISPATCHED", 2)])
def test_who_was_left_on_the_track_that_was_to_be_left_is_named(few: Few, left: str, named: int) -> None:
    few.put("QUEUED", pushed=False)
    few.put()
    few.put()
    few.put("QUEUED", pushed=False, priority="low")
    only_normal = frozenset({2})

    report = few.verify(left_status=left, left_ranks=only_normal)

    assert [finding.fault for finding in report.findings] == [Fault.LEFT_BEHIND] * named
    assert few.verify().exit_code == 0


def test_jobs_of_other_programs_are_named_unless_they_are_allowed(few: Few) -> None:
    few.raw.rpush("rq:queue:low", "0e6bb2a1-7d2c-4b57-9a55")

    assert found_by(few.verify()) == {Planted("foreign key", "0e6bb2a1-7d2c-4b57-9a55")}
    assert few.verify(foreign_allowed=True).exit_code == 0


def test_more_foreign_entries_than_can_be_looked_at_are_counted_and_no_pass(
    few: Few, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.transfer.verification.suspects.MOST_SUSPECTS", 2)
    few.raw.rpush("rq:queue:low", *[f"0e6bb2a1-{number}" for number in range(5)])

    report = few.verify()

    assert len(report.findings) == 2
    assert report.unread == ["3 more entries of the queues are no tickets and were not looked at"]
    assert few.verify(foreign_allowed=True).exit_code == 0


def test_a_mark_of_the_window_that_is_no_number_is_unread_and_no_pass(few: Few) -> None:
    few.raw.hset("twintrack:overflow:low", "from", "seventeen")

    report = few.verify()

    assert report.unread == ["the mark of the window of low is no number"]
    assert report.exit_code == 2


def test_payloads_are_read_a_few_at_a_time_and_add_up_the_same(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.transfer.verification.rows.PAYLOADS_AT_ONCE", 7)
    site.grow(40)

    report = site.verify(digests_in_database=False)

    assert (report.findings, report.pending, report.unread, report.rows) == ([], {}, [], 40)


def test_many_stretches_are_added_up_like_one(
    few: Few, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.transfer.baseline.STRETCH_ROWS", 3)
    monkeypatch.setattr("app.transfer.verification.verifier.STRETCH_ROWS", 4)
    ids = [few.put() for _ in range(10)]
    record(few.rows.database, tmp_path / "baseline")
    for _ in range(9):
        few.put()
    baseline = Baseline(tmp_path / "baseline")

    def verify() -> Any:
        reader = TicketReader(few.raw)
        wanted = Wanted(patience=AT_ONCE)
        return Verifier(few.rows.database, reader, LIMITS, baseline=baseline, wanted=wanted).run()

    report = verify()
    assert (report.exit_code, report.rows) == (0, 19)
    assert (report.baseline["present"], report.baseline["new since"]) == (10, 9)

    few.rows.change(ids[4], payload="[]")
    few.rows.execute("DELETE FROM tasks WHERE id = :id", id=ids[8])
    expected = {Planted("changed row", str(ids[4])), Planted("vanished row", str(ids[8]))}
    assert found_by(verify()) == expected | {Planted("orphan ticket", str(ids[8]))}


def test_what_a_living_system_heals_is_named_only_if_it_stays(few: Few) -> None:
    ended = few.put()
    few.rows.change(ended, status="COMPLETED")
    at = few.rows.at(30)
    few.rows.execute("INSERT INTO locks (name, holder, until_at) VALUES ('sweeper', 'w', :at)", at=at)

    def serve(_: float) -> None:
        few.tickets.take("w", [Priority.NORMAL], 1)

    healed = few.verify(patience=Patience(settle_seconds=0.02, heal_seconds=60, pause=serve))
    assert healed.exit_code == 0

    few.push(ended)
    report = few.verify(patience=Patience(settle_seconds=0.02, heal_seconds=0.1, limit_seconds=30))
    assert found_by(report) == {Planted("ticket for an ended row", str(ended))}
