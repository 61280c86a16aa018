"""The proof of an import finds what was planted and no more; the way back gives old workers their rows."""

from __future__ import annotations

import pytest

from app.tasks.errors import DatabaseUnavailable
from app.tasks.model import Claim, Completed, Failed
from app.tasks.queue import TaskQueue
from app.tasks.store import Store
from app.transfer.errors import Incomplete, NotPossible
from app.transfer.legacy.beginning import Consent
from app.transfer.legacy.giving_back import give_back
from app.transfer.legacy.mapping import Mapping
from app.transfer.records import State, TransferRecords
from app.transfer.verification.faults import ImportFault
from app.transfer.verification.imports import ImportVerifier
from app.transfer.verification.report import CLEAN, INCOMPLETE, MISMATCH, Report
from tests.contract.legacy.parts import (
    CAPTIONS,
    GUARDED,
    ON_MARIADB,
    ON_SERVERS,
    begun,
    imported,
    key_of,
    turn,
)
from tests.contract.rows import Rows
from tests.imports.planting import Planted
from tests.legacy_tables import CaptionQueue


def proof(store: Store, mapping: Mapping = CAPTIONS) -> Report:
    return ImportVerifier(store.database, mapping, pause=lambda seconds: None).run()


def claimed(store: Store, count: int) -> dict[str, Claim]:
    return {key_of(claim): claim for claim in turn(store, limit=count)}


def test_an_import_with_every_fault_is_clean_before_and_after_its_tasks_have_run(
    legacy: CaptionQueue, queue: TaskQueue, store: Store
) -> None:
    planted = Planted(legacy)
    legacy.put(planted.rows(1100))
    assert proof(store).counts == {ImportFault.LEFT_BEHIND: 1100}
    imported(queue)
    report = proof(store)
    assert (report.exit_code, report.counts, report.pending) == (CLEAN, {}, {})
    claims = list(claimed(store, 100).values())
    assert proof(store).exit_code == CLEAN
    store.settlements.settle([Completed(claims[0], "{}"), Failed(claims[1], "it broke")])
    assert proof(store).exit_code == CLEAN


def test_each_planted_fault_is_found_under_its_class_and_nothing_else(
    rows: Rows, legacy: CaptionQueue, queue: TaskQueue, store: Store
) -> None:
    keys = legacy.put(legacy.row(number) for number in range(20))
    imported(queue)
    claims = claimed(store, 20)
    store.settlements.settle([Completed(claims[key], "{}") for key in keys[:2]])
    legacy.set(keys[0], status="MOVED")
    legacy.set(keys[1], status="QUEUED")
    rows.change(claims[keys[2]].task_id, idempotency_key=None)
    legacy.set(keys[3], status="QUEUED")
    legacy.set(keys[4], status="RUNNING")
    legacy.execute("DELETE FROM caption_generation_tasks WHERE id = :key", key=keys[5])
    legacy.set(keys[6], settings_json='{"max_posts_per_run": 11}')
    [late] = legacy.put([legacy.row(100)])
    report = proof(store)
    assert report.exit_code == MISMATCH
    assert {finding.key: finding.fault for finding in report.findings} == {
        keys[0]: ImportFault.NOT_TOLD,
        keys[1]: ImportFault.LEFT_BEHIND,
        keys[2]: ImportFault.NO_TASK,
        keys[3]: ImportFault.NOT_FENCED,
        keys[4]: ImportFault.TAKEN,
        keys[5]: ImportFault.ROW_GONE,
        keys[6]: ImportFault.CHANGED,
        late: ImportFault.LEFT_BEHIND,
    }
    assert "end not told: 1 (the task has ended, and the row still says moved)" in report.as_text()


def test_what_changes_between_two_looks_is_pending_or_forgotten_never_a_pass_by_luck(
    legacy: CaptionQueue, queue: TaskQueue, store: Store
) -> None:
    first, second = legacy.put(legacy.row(number) for number in range(2))
    imported(queue)
    legacy.set(first, status="RUNNING")
    legacy.set(second, status="RUNNING")

    def between(seconds: float) -> None:
        legacy.set(first, status="MOVED")
        legacy.set(second, status="QUEUED")

    report = ImportVerifier(store.database, CAPTIONS, pause=between).run()
    assert (report.findings, list(report.pending), report.exit_code) == ([], [second], INCOMPLETE)


def test_a_database_that_does_not_answer_is_no_pass(
    legacy: CaptionQueue, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(work: object) -> None:
        raise DatabaseUnavailable("away")

    monkeypatch.setattr(store.database, "read", away)
    report = proof(store)
    assert (report.unread, report.exit_code) == (["away"], INCOMPLETE)
    monkeypatch.undo()
    assert legacy.all() == {}


def test_a_row_whose_json_was_broken_after_the_import_is_a_mismatch(
    legacy: CaptionQueue, queue: TaskQueue, store: Store
) -> None:
    [key, _] = legacy.put(legacy.row(number) for number in range(2))
    imported(queue)
    legacy.set(key, settings_json="{")
    report = proof(store)
    assert [(finding.key, finding.fault) for finding in report.findings] == [(key, ImportFault.CHANGED)]


def test_a_payload_of_what_json_has_no_word_for_is_no_mismatch(
    legacy: CaptionQueue, queue: TaskQueue, store: Store
) -> None:
    columns = CAPTIONS.payload.columns | {"caption_task_id": "created_at"}
    payload = CAPTIONS.payload.model_copy(update={"columns": columns})
    mapping = CAPTIONS.model_copy(update={"payload": payload})
    keys = legacy.put(legacy.row(number) for number in range(2))
    imported(queue, mapping)
    assert proof(store, mapping).exit_code == CLEAN
    legacy.set(keys[0], created_at="2026-01-01 00:00:00")
    assert proof(store, mapping).counts == {ImportFault.CHANGED: 1}


@ON_MARIADB
def test_words_in_another_case_than_the_columns_hide_no_row(
    legacy: CaptionQueue, queue: TaskQueue, store: Store
) -> None:
    """MariaDB takes them for the same words, and gives those of the column."""
    imported(queue)  # the word is there now, in capitals
    words = {name: word and word.lower() for name, word in CAPTIONS.status.model_dump().items()}
    mapping = CAPTIONS.model_copy(update={"status": CAPTIONS.status.model_copy(update=words)})
    moved, _ = legacy.put(legacy.row(number) for number in range(2))
    assert proof(store, mapping).counts == {ImportFault.LEFT_BEHIND: 2}
    imported(queue, mapping)
    assert proof(store, mapping).exit_code == CLEAN
    legacy.set(moved, status="QUEUED")
    assert proof(store, mapping).counts == {ImportFault.NOT_FENCED: 1}


def test_rows_whose_tasks_never_started_are_queued_again_and_nothing_else_changes(
    rows: Rows, legacy: CaptionQueue, queue: TaskQueue, store: Store
) -> None:
    keys = legacy.put(legacy.row(number) for number in range(30))
    before = legacy.all()
    imported(queue, consent=GUARDED)
    claims = claimed(store, 3)
    ended, *running = claims
    store.settlements.settle([Completed(claims[ended], "{}")])
    done = give_back(queue, "caption_tasks")
    assert (done.rows, done.aborted) == (27, ())
    after = legacy.all()
    assert {key: after[key] for key in keys if key not in claims} == {
        key: before[key] for key in keys if key not in claims
    }
    assert {after[key]["status"] for key in running} == {"MOVED"}
    assert after[ended]["status"] == "COMPLETED"
    assert (rows.count("CANCELLED"), rows.count("PROCESSING"), rows.count("QUEUED")) == (27, 2, 0)
    store.settlements.settle([Completed(claims[key], "{}") for key in running])
    assert {legacy.status(key) for key in running} == {"COMPLETED"}
    assert give_back(queue, "caption_tasks").rows == 0
    imported(queue, consent=Consent())
    assert rows.count("QUEUED") == 27  # and there again


def test_giving_back_ends_an_import_that_is_under_way(
    legacy: CaptionQueue, queue: TaskQueue, store: Store
) -> None:
    keys = legacy.put(legacy.row(number) for number in range(10))
    imported(queue)
    mover = begun(queue, consent=Consent(old_workers_stopped=True))
    done = give_back(queue, "caption_tasks")
    assert (done.rows, done.aborted) == (10, (mover.transfer_id,))
    assert TransferRecords(store.database).get(mover.transfer_id).state is State.ABORTED
    assert {legacy.status(key) for key in keys} == {"QUEUED"}
    with pytest.raises(NotPossible, match="nothing was ever imported from nowhere"):
        give_back(queue, "nowhere")


@ON_SERVERS
def test_tasks_that_stay_locked_are_incomplete_never_given_back(
    rows: Rows, legacy: CaptionQueue, queue: TaskQueue
) -> None:
    legacy.put(legacy.row(number) for number in range(5))
    imported(queue)
    held = next(iter(rows.all()))
    with rows.locked(held), pytest.raises(Incomplete, match="1 tasks of caption_tasks stay locked"):
        give_back(queue, "caption_tasks", patience_seconds=0.1)
    assert rows.status(held) == "QUEUED"
    assert give_back(queue, "caption_tasks").rows == 1
