"""The guard of a legacy table: a late old worker gets an error, and everybody else goes on as before."""

from __future__ import annotations

import pytest
from sqlalchemy.exc import DBAPIError

from app.tasks.model import Completed, Failed
from app.tasks.queue import TaskQueue
from app.tasks.store import Store
from app.tasks.store.legacy_rows import passing_guard
from app.transfer.errors import NotPossible
from app.transfer.legacy.beginning import Consent
from app.transfer.legacy.guard import Guard
from tests.contract.legacy.parts import CAPTIONS, GUARDED, imported, key_of, turn
from tests.contract.rows import Rows
from tests.legacy_tables import CaptionQueue

REFUSAL = "this row was moved to another queue, or has ended there"


def test_an_import_without_a_guard_or_a_word_refuses_to_start(
    rows: Rows, queue: TaskQueue, legacy: CaptionQueue
) -> None:
    [key] = legacy.put([legacy.row(1)])
    with pytest.raises(
        NotPossible, match="CREATE TRIGGER twintrack_guard_caption_generation_tasks BEFORE UPDATE"
    ):
        imported(queue, consent=Consent(alter=True))
    assert (rows.count(), legacy.status(key)) == (0, "QUEUED")
    imported(queue, consent=GUARDED)
    assert legacy.status(key) == "MOVED"
    imported(queue, consent=Consent())  # it is there, and seen


def test_a_late_old_worker_can_start_neither_a_moved_row_nor_an_ended_one(
    queue: TaskQueue, store: Store, legacy: CaptionQueue
) -> None:
    moved, done, failed = legacy.put(legacy.row(number) for number in range(3))
    imported(queue, consent=GUARDED)
    claims = {key_of(claim): claim for claim in turn(store)}
    store.settlements.settle([Completed(claims[done], "{}"), Failed(claims[failed], "it broke")])
    before = legacy.all()
    assert {row["status"] for row in before.values()} == {"MOVED", "COMPLETED", "FAILED"}
    for key in (moved, done, failed):
        with pytest.raises(DBAPIError, match=REFUSAL):
            legacy.set(key, status="RUNNING", current_step="the old worker's")
    with pytest.raises(DBAPIError, match=REFUSAL):
        legacy.set(moved, status="COMPLETED")
    assert legacy.all() == before


def test_what_is_not_ours_goes_on_as_before(queue: TaskQueue, legacy: CaptionQueue) -> None:
    [moved, theirs] = legacy.put([legacy.row(1), legacy.row(2, status="RUNNING")])
    imported(queue, consent=GUARDED)
    assert legacy.set(moved, current_step="a note on a moved row") == 1
    assert legacy.set(theirs, status="FAILED") == 1
    assert legacy.set(theirs, status="QUEUED") == 1  # an administrator's new start
    assert legacy.set(theirs, status="RUNNING") == 1
    assert legacy.set(theirs, status="COMPLETED") == 1


def test_a_guard_that_was_removed_or_changed_counts_as_none(
    rows: Rows, queue: TaskQueue, legacy: CaptionQueue
) -> None:
    guard = Guard(queue.store.database, CAPTIONS)
    assert not guard.is_installed()
    guard.install()
    guard.install()  # in place of the older one
    assert guard.is_installed()
    other = CAPTIONS.model_copy(update={"status": CAPTIONS.status.model_copy(update={"moved": "AWAY"})})
    assert not Guard(queue.store.database, other).is_installed()
    table = " ON caption_generation_tasks" if rows.kind == "postgresql" else ""
    legacy.execute(f"DROP TRIGGER {guard.name}{table}")
    assert not guard.is_installed()


def test_a_statement_of_ours_that_failed_leaves_no_pass_behind(
    queue: TaskQueue, store: Store, legacy: CaptionQueue
) -> None:
    """Its connection is used again, by a handler's own statements too."""
    [key] = legacy.put([legacy.row(1)])
    imported(queue, consent=GUARDED)
    with store.database.engine.connect() as on:
        with pytest.raises(DBAPIError, match="nowhere"), passing_guard(on):
            on.exec_driver_sql("UPDATE nowhere SET status = 'RUNNING'")
        on.rollback()
        with pytest.raises(DBAPIError, match=REFUSAL):
            on.exec_driver_sql("UPDATE caption_generation_tasks SET status = 'RUNNING'")
        on.rollback()
    assert legacy.status(key) == "MOVED"


def test_a_table_whose_name_has_capitals_is_guarded_and_imported(
    rows: Rows, queue: TaskQueue, legacy: CaptionQueue
) -> None:
    legacy.put([legacy.row(1)])
    renamed = rows.engine.dialect.identifier_preparer.quote("CaptionQueue")
    rows.execute(f"ALTER TABLE caption_generation_tasks RENAME TO {renamed}")
    try:
        imported(queue, CAPTIONS.model_copy(update={"table": "CaptionQueue"}), consent=GUARDED)
        assert rows.scalar(f"SELECT status FROM {renamed}") == "MOVED"
        with pytest.raises(DBAPIError, match=REFUSAL):
            rows.execute(f"UPDATE {renamed} SET status = 'RUNNING'")
    finally:
        rows.execute(f"DROP TABLE {renamed}")
