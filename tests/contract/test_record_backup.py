"""Records, flows, families and what operators set come back from a backup as they were, and work goes on. A
test of a feature row begins with its number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from app.distributed import distributed_processing_flow
from app.transfer import backup
from app.transfer.backup import NotEmpty, Restore
from tests.contract.record_rows import (
    open_lanes,
    processor_over,
    put_claimed,
    put_ended,
    put_records,
    put_run,
)
from tests.contract.rows import Rows

HOUR = 3600
KEPT = {
    "tasks": "id, status, name, priority, payload, result, error, failures, attempt, holder, idempotency_key",
    "processing_queue": "*",
    "flows": "name, lane",
    "flow_execution_logs": "*",
    "variables": "name, value",
    "tag_limits": "tag, at_most",
    "parents": "task_id, waits",
    "children": "task_id, parent_id, phase, name, tag, admitted, ended",
    "schedules": "name, task, cron, next_run_at",
}


def seed(rows: Rows) -> None:
    open_lanes(rows)
    put_records(rows, "QUEUED", 5, waiting_since=rows.at(-90))
    put_claimed(rows, 3, ago=2 * HOUR, lease=-60, holder="gone:7")
    put_ended(rows, "COMPLETED", 4, ago=60, result='{"score": 3.5, "who": "Ø😀"}')
    put_ended(rows, "FAILED", 2, flow="invoices", ago=60, failures=2, error="no ledger")
    put_records(rows, "CANCELLED", 1)
    put_run(rows, instance="a:1", records=10, failed=2, seconds=5, ago=60)
    parent = rows.put("SCHEDULED", run_at=None)
    child = rows.put("QUEUED")
    for statement in (
        "INSERT INTO variables (name, value, updated_at) VALUES ('global.max_retries', '5', :at)",
        "INSERT INTO tag_limits (tag, at_most) VALUES ('database', 3)",
        f"INSERT INTO parents (task_id, waits, again, created_at) VALUES ({parent}, TRUE, FALSE, :at)",
        "INSERT INTO children (task_id, parent_id, phase, name, tag, admitted, ended)"
        f" VALUES ({child}, {parent}, 'tables', 'shop', 'database', TRUE, FALSE)",
    ):
        rows.execute(statement, **({"at": rows.at(0)} if ":at" in statement else {}))


def content(rows: Rows) -> dict[str, list[tuple[Any, ...]]]:
    return {
        table: [tuple(row) for row in rows.execute(f"SELECT {columns} FROM {table} ORDER BY 1, 2")]
        for table, columns in KEPT.items()
    }


def test_002_19_every_record_comes_back_with_its_id_and_status_and_work_goes_on(
    rows: Rows, tmp_path: Path
) -> None:
    seed(rows)
    with processor_over(rows, TASK_MODULES="app.handlers,app.monitoring.rounds") as processor:
        processor.system.prepare()
        processor.add_records_to_queue("survey", [{"n": 1}], key="n")
    before = content(rows)
    backup.create(rows.database, tmp_path / "backup", facts={})
    rows.empty()

    Restore(tmp_path / "backup").into(rows.database)

    assert content(rows) == before
    assert {len(found) for table, found in before.items() if table != "schedules"} >= {1, 2, 18}
    with processor_over(rows) as processor:
        assert processor.add_records_to_queue("survey", [{"n": 1}, {"n": 2}], key="n") == 1
        assert processor.cleanup_orphaned_records(1.0) == 3
        done = distributed_processing_flow("survey", 100, lambda payload: None, processor=processor)
        assert done["records_completed"] + done["records_failed"] >= 1
        while processor.has_open_records("survey"):
            distributed_processing_flow("survey", 100, lambda payload: None, processor=processor)
        assert processor.get_queue_status("survey")["completed_records"] == 4 + 5 + 3 + 2
    runs = rows.execute("SELECT id FROM flow_execution_logs ORDER BY id")
    assert len(runs) >= 2


@pytest.mark.parametrize("table", ["variables", "flow_execution_logs", "tag_limits"])
def test_002_19_what_an_operator_set_is_not_replaced_unasked(
    table: str, sqlite_rows: Rows, tmp_path: Path
) -> None:
    backup.create(sqlite_rows.database, tmp_path / "backup", facts={})
    seed(sqlite_rows)
    for other in ("tasks", "flows", "parents", "children", "variables", "flow_execution_logs", "tag_limits"):
        if other != table:
            sqlite_rows.execute(f"DELETE FROM {other}")
    restore = Restore(tmp_path / "backup")
    with pytest.raises(NotEmpty, match=table):
        restore.into(sqlite_rows.database)
    assert sqlite_rows.scalar(f"SELECT COUNT(*) FROM {table}") == 1
    restore.into(sqlite_rows.database, replace=True)
    assert sqlite_rows.scalar(f"SELECT COUNT(*) FROM {table}") == 0
