"""Imports from another database: each row becomes one task and has one end, whoever dies in between."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import pytest
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from app.tasks.database import Database
from app.tasks.model import Cancelled, Completed, Failed, Outcome, Priority
from app.tasks.store import Store
from app.tasks.store.source_databases import SourceDatabases
from app.transfer import runs
from app.transfer.errors import NotPossible
from app.transfer.legacy.beginning import checked, plan_import
from app.transfer.legacy.giving_back import give_back
from app.transfer.mover import Mover
from app.transfer.plans import Direction, Scope
from app.transfer.records import State, TransferRecords
from app.transfer.verification.faults import ImportFault
from app.transfer.verification.imports import ImportVerifier
from app.transfer.verification.report import CLEAN, MISMATCH, Report
from config import ConfigError
from tests.contract.legacy.elsewhere import ELSEWHERE, Elsewhere, Killed, killed_at
from tests.contract.legacy.parts import GUARDED, by_key, imported, key_of, queue_over, turn
from tests.contract.moving import FAST
from tests.contract.rows import Rows
from tests.servers import MariaDbServer

pytestmark = pytest.mark.timeout(600)  # hundreds of deaths, each with its own import
LIVE = ("SCHEDULED", "QUEUED", "DISPATCHED", "PROCESSING")


@pytest.fixture(scope="session")
def other_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rows]:
    yield from _bare(f"sqlite:///{tmp_path_factory.mktemp('elsewhere') / 'legacy.db'}")


@pytest.fixture(scope="session")
def other_mariadb(mariadb_server: MariaDbServer) -> Iterator[Rows]:
    with mariadb_server.database() as url:
        yield from _bare(url)


def _bare(url: str) -> Iterator[Rows]:
    database = Database(url)
    rows = Rows(url, database)
    yield rows
    rows.close()
    database.dispose()


@pytest.fixture(
    params=[
        pytest.param("sqlite sqlite", marks=pytest.mark.sqlite),
        pytest.param("mariadb postgresql", marks=[pytest.mark.mariadb, pytest.mark.postgresql]),
    ]
)
def both(request: pytest.FixtureRequest) -> Iterator[Elsewhere]:
    """From the first kind of database to ours, the second."""
    source, ours = request.param.split()
    rows: Rows = request.getfixturevalue(f"prepared_{ours}")
    rows.empty()
    made = Elsewhere(rows, request.getfixturevalue(f"other_{source}"))
    yield made
    made.close()


def test_every_queued_row_becomes_one_task_in_the_order_of_the_table(both: Elsewhere) -> None:
    keys = both.legacy.put(both.legacy.row(number) for number in range(130))
    [broken, no_status] = both.legacy.put(
        [both.legacy.row(500, settings_json="{"), both.legacy.row(501, status=None)]
    )
    before = both.legacy.all()
    moving = imported(both.queue, ELSEWHERE)
    assert (moving.moved, moving.quarantined) == (130, 2)
    tasks = by_key(both.rows)
    assert set(tasks) == {*keys, broken, no_status}
    in_order = sorted(keys, key=lambda key: (before[key]["created_at"], key))
    assert sorted(keys, key=lambda key: tasks[key]["id"]) == in_order
    assert {both.legacy.status(key) for key in (*keys, broken)} == {"MOVED"}
    assert both.legacy.status(no_status) is None
    assert imported(both.queue, ELSEWHERE).moved == 0
    assert (both.count("tasks"), both.count("legacy_stages")) == (132, 0)


def test_rows_that_are_named_already_do_not_hide_new_ones(both: Elsewhere) -> None:
    both.anew([])
    both.legacy.put(both.legacy.row(number, status=None) for number in range(5))
    imported(both.queue, ELSEWHERE)
    new = both.legacy.put(both.legacy.row(1000 + number, status=None) for number in range(2))
    assert imported(both.queue, ELSEWHERE).quarantined == 2
    assert set(new) <= set(by_key(both.rows))


def test_an_import_that_is_killed_at_any_step_is_resumed_without_loss_or_double(both: Elsewhere) -> None:
    for number in _steps(both, every=5):
        keys = both.anew([*range(7)], broken=7)
        mover = _of_normal(both)
        with killed_at(number, *both.databases) as seen, suppress(Killed):
            mover.run()
        waiting = [key for key in keys[:-1] if both.legacy.status(key) == "QUEUED"]
        for key in waiting[:1]:
            both.legacy.set(key, status="RUNNING")  # an old worker
        if TransferRecords(both.rows.database).get(mover.transfer_id).state is not State.COMPLETED:
            runs.resume(both.queue, Direction.IMPORT, transfer_id=mover.transfer_id).run()
        told = f"step {number} of {seen[0]}"
        ours = set(keys) - set(waiting[:1])
        assert set(by_key(both.rows)) == ours, told
        assert both.rows.count("QUARANTINED") == 1, told
        assert both.count("legacy_stages") == 0, told
        assert {both.legacy.status(key) for key in ours} == {"MOVED"}, told
        if seen[0] < number:
            return


def _steps(both: Elsewhere, *, every: int = 2) -> Iterator[int]:
    """The steps at which somebody dies, until a run has fewer: every second, of a long run every fifth; on
    servers a fifth of these."""
    yield from range(1, 2000, every if both.rows.kind == "sqlite" else 5 * every)
    raise AssertionError("no run has ever come to its end")


def _of_normal(both: Elsewhere) -> Mover:
    plan = plan_import(both.queue, checked(both.queue, ELSEWHERE), Scope((Priority.NORMAL,)))
    return runs.start(both.queue, plan, replace(FAST, batch_rows=4))


def test_ends_that_a_worker_dies_over_are_told_once(both: Elsewhere) -> None:
    for number in _steps(both):
        both.anew(range(4))
        imported(both.queue, ELSEWHERE)
        claims = turn(both.store)
        outcomes: list[Outcome] = [Completed(claim, f"[{claim.task_id}]") for claim in claims[:2]]
        outcomes += [Failed(claims[2], "it broke"), Cancelled(claims[3])]
        with killed_at(number, *both.databases) as seen, suppress(Killed):
            turn(both.store, outcomes)
        failed = key_of(claims[2])
        if queued_anew := both.legacy.status(failed) == "FAILED":
            both.legacy.set(failed, status="QUEUED")  # by an administrator of the old application
        another = both.process()
        turn(another, outcomes)  # who buries the worker
        another.write_backs.deliver()
        told = f"step {number} of {seen[0]}"
        assert both.count("legacy_ends") == 0, told
        rows = both.legacy.all()
        found = [(rows[key_of(c)]["status"], rows[key_of(c)]["results_json"]) for c in claims[:2]]
        assert found == [("COMPLETED", f"[{claim.task_id}]") for claim in claims[:2]], told
        assert rows[failed]["status"] == ("QUEUED" if queued_anew else "FAILED"), told
        assert rows[key_of(claims[3])]["status"] == "CANCELLED", told
        assert [both.rows.status(claim.task_id) for claim in claims] == [
            *["COMPLETED"] * 2,
            "FAILED",
            "CANCELLED",
        ], told
        if seen[0] < number:
            return


def test_an_end_that_was_told_is_not_told_again_to_a_row_that_was_imported_again(both: Elsewhere) -> None:
    for number in _steps(both):
        [key] = both.anew([1])
        imported(both.queue, ELSEWHERE)
        [claim] = turn(both.store)
        with killed_at(number, *both.databases) as seen, suppress(Killed):
            turn(both.store, [Completed(claim, "{}")])
        if both.legacy.status(key) == "COMPLETED":
            both.legacy.set(key, status="QUEUED")
            assert imported(both.queue, ELSEWHERE).moved == 1
            both.process().write_backs.deliver()
            again = by_key(both.rows)[key]
            assert (again["status"], both.legacy.status(key)) == ("QUEUED", "MOVED"), f"step {number}"
        if seen[0] < number:
            return


def test_an_operators_retry_that_dies_leaves_the_row_as_its_task_is(both: Elsewhere) -> None:
    for number in _steps(both):
        [key] = both.anew([1])
        imported(both.queue, ELSEWHERE)
        [claim] = turn(both.store)
        turn(both.store, [Failed(claim, "it broke")])
        assert both.legacy.status(key) == "FAILED"
        with killed_at(number, *both.databases) as seen, suppress(Killed):
            both.queue.retry(claim.task_id)
        both.process().write_backs.deliver()
        pair = (both.rows.status(claim.task_id), both.legacy.status(key))
        assert pair in (("FAILED", "FAILED"), ("QUEUED", "MOVED")), f"step {number} of {seen[0]}"
        assert both.count("legacy_ends") == 0
        if seen[0] < number:
            assert pair == ("QUEUED", "MOVED")
            return
        if pair[0] == "FAILED":
            both.queue.retry(claim.task_id)
            assert both.legacy.status(key) == "MOVED"


def test_rows_that_are_given_back_are_never_queued_while_their_task_lives(both: Elsewhere) -> None:
    for number in _steps(both):
        keys = both.anew(range(4))
        imported(both.queue, ELSEWHERE)
        [running] = turn(both.store, limit=1)
        with killed_at(number, *both.databases) as seen, suppress(Killed):
            give_back(both.queue, ELSEWHERE.name, patience_seconds=0)
        told = f"step {number} of {seen[0]}"
        for key, task in by_key(both.rows).items():
            assert not (task["status"] in LIVE and both.legacy.status(key) == "QUEUED"), told
        give_back(both.queue, ELSEWHERE.name)
        assert both.legacy.status(key_of(running)) == "MOVED", told
        others = set(keys) - {key_of(running)}
        assert {both.legacy.status(key) for key in others} == {"QUEUED"}, told
        assert {by_key(both.rows)[key]["status"] for key in others} == {"CANCELLED"}, told
        if seen[0] < number:
            return


def test_what_a_killed_import_has_left_is_given_back(both: Elsewhere) -> None:
    for number in _steps(both, every=5):
        keys = both.anew(range(5))
        mover = _of_normal(both)
        with killed_at(number, *both.databases) as seen, suppress(Killed):
            mover.run()
        give_back(both.queue, ELSEWHERE.name)
        told = f"step {number} of {seen[0]}"
        assert {both.legacy.status(key) for key in keys} == {"QUEUED"}, told
        assert [task for task in by_key(both.rows).values() if task["status"] in LIVE] == [], told
        assert both.count("legacy_stages") == 0, told
        if seen[0] < number:
            return


def test_tasks_whose_source_is_away_wait_without_a_failure_and_others_go_on(both: Elsewhere) -> None:
    both.anew(range(3))
    imported(both.queue, ELSEWHERE)
    [running] = turn(both.store, limit=1)
    native = both.rows.put()
    with both.away():
        won = turn(both.store, [Completed(running, "{}")])
        assert [claim.task_id for claim in won] == [native]
        assert both.rows.status(running.task_id) == "COMPLETED"
        assert both.count("legacy_ends") == 1
        assert both.store.write_backs.deliver() == 0
    waiting = both.rows.execute(
        "SELECT id, failures, run_at FROM tasks WHERE status = 'SCHEDULED' ORDER BY id"
    )
    assert [(row.failures, row.run_at is None) for row in waiting] == [(0, False), (0, False)]
    both.seconds += 1000  # long enough to ask again
    assert both.store.write_backs.deliver() == 1
    assert both.legacy.status(key_of(running)) == "COMPLETED"
    for row in waiting:
        both.rows.change(row.id, run_at=both.rows.at(-1))
    both.store.moves.due(limit=10)
    assert [claim.task_id for claim in turn(both.store)] == [row.id for row in waiting]


def test_a_worker_to_which_nobody_named_the_database_puts_its_tasks_off_for_longer_and_longer(
    both: Elsewhere,
) -> None:
    both.anew(range(1))
    imported(both.queue, ELSEWHERE)
    seconds = [0.0]
    unaware = Store.over(
        both.rows.database, source_databases=SourceDatabases(_nowhere, clock=lambda: seconds[0])
    )
    for expected in (10, 100, 200):
        assert turn(unaware) == []
        [task] = both.rows.all().values()
        assert (task["status"], task["failures"]) == ("SCHEDULED", 0)
        assert unaware.source_databases.put_off_seconds("captions") == expected
        both.rows.change(task["id"], run_at=both.rows.at(-1))
        both.store.moves.due(limit=1)
        seconds[0] += 100


def _nowhere(name: str) -> URL:
    raise ConfigError([f"The database {name} is not named."])


def test_a_row_that_an_old_worker_took_keeps_its_task_from_running(both: Elsewhere) -> None:
    taken, sound = both.anew(range(2))
    imported(both.queue, ELSEWHERE)
    both.legacy.set(taken, status="RUNNING")
    assert [key_of(claim) for claim in turn(both.store)] == [sound]
    both.store.write_backs.deliver()
    closed = by_key(both.rows)[taken]
    assert (closed["status"], both.legacy.status(taken)) == ("CANCELLED", "RUNNING")
    assert "its legacy row was changed by others" in both.rows.events(closed["id"])


def test_a_proof_reads_both_sides_and_calls_pending_what_is_under_way(both: Elsewhere) -> None:
    keys = both.anew(range(6))
    imported(both.queue, ELSEWHERE)
    assert _proof(both).exit_code == CLEAN
    ended, dropped, staged, queued, *_ = turn(both.store, limit=4)
    with both.away():
        both.store.settlements.settle([Completed(ended, "{}")])
        both.store.write_backs.deliver()
    for claim in (dropped, staged):
        both.rows.execute("DELETE FROM tasks WHERE id = :id", id=claim.task_id)
    both.store.stages.add(ELSEWHERE.name, Priority.NORMAL, [key_of(staged)])
    both.legacy.set(key_of(queued), status="QUEUED")
    report = _proof(both)
    assert report.exit_code == MISMATCH
    assert {finding.key: finding.fault for finding in report.findings} == {
        key_of(dropped): ImportFault.NO_TASK,
        key_of(queued): ImportFault.NOT_FENCED,
    }
    assert set(report.pending) == {key_of(ended), key_of(staged)}
    assert len(keys) == 6


def _proof(both: Elsewhere) -> Report:
    theirs = both.store.source_databases.database("captions")
    return ImportVerifier(both.rows.database, ELSEWHERE, theirs=theirs, pause=lambda seconds: None).run()


def test_a_guard_in_the_other_database_stops_late_old_workers_and_lets_us_pass(both: Elsewhere) -> None:
    moved, done = both.anew(range(2))
    imported(both.queue, ELSEWHERE, consent=GUARDED)
    claims = {key_of(claim): claim for claim in turn(both.store)}
    turn(both.store, [Completed(claims[done], "{}")])
    assert [both.legacy.status(key) for key in (moved, done)] == ["MOVED", "COMPLETED"]
    for key in (moved, done):
        with pytest.raises(DBAPIError, match="this row was moved to another queue, or has ended there"):
            both.legacy.set(key, status="RUNNING")


def test_a_database_that_nothing_names_and_our_own_are_refused(both: Elsewhere) -> None:
    with pytest.raises(NotPossible, match=r"the database captions cannot be used: .* is not named"):
        checked(queue_over(Store.over(both.rows.database)), ELSEWHERE)
    own = SourceDatabases(lambda name: both.rows.database.url)
    with pytest.raises(NotPossible, match="is the tasks' own"):
        checked(queue_over(Store.over(both.rows.database, source_databases=own)), ELSEWHERE)
