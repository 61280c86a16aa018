"""The digests are one thing in two spellings: what a database computes is what Python computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from app.transfer.baseline import Baseline, Stretch, record
from app.transfer.digests import (
    KEPT,
    DigestSql,
    TimeLimits,
    row_digest,
    summed,
    ticket_digest,
)
from app.transfer.verification.rows import RowReader
from tests.contract.rows import Rows

NASTY: list[dict[str, Any]] = [
    {"payload": "", "user_id": "", "idempotency_key": ""},
    {"payload": '{"x": "\U0001f600\U0001f469\u200d\U0001f680"}', "user_id": "\U0001f600"},
    {"payload": "a,b", "user_id": "1:a,2", "idempotency_key": "-"},
    {"payload": "\\ ' \" % : \t\n\r", "user_id": "O'Hara", "max_retries": 0, "timeout_seconds": 0},
    {"payload": "x" * 70_000, "priority": 0, "max_retries": 2**31 - 1, "timeout_seconds": 86_400},
    {"payload": "\u00fc\u4e2d " * 300, "name": "Test.NOOP", "priority": 3, "id": 2**63 - 1},
]
LIMITS = TimeLimits(3600, {"test.noop": 60}, {0: 5, 3: 900})


def put_all(rows: Rows) -> None:
    for columns in NASTY:
        rows.put("QUEUED", **columns)


def by_sql(rows: Rows, expression: str, **values: Any) -> dict[int, Any]:
    sql = DigestSql(rows.database.kind)

    def work(on: Any) -> dict[int, Any]:
        sql.prepare(on)
        found = on.execute(text(f"SELECT id, {expression} AS digest FROM tasks"), values)
        return {row.id: row.digest for row in found}

    return rows.database.read(work)


def test_the_digest_of_a_row_is_the_same_in_sql_and_in_python(rows: Rows) -> None:
    put_all(rows)
    sql = DigestSql(rows.database.kind)

    digests, sums = by_sql(rows, sql.row()), by_sql(rows, sql.summed(sql.row()))

    whole = RowReader(rows.database, LIMITS).wholes(list(rows.all()))
    assert digests == {task_id: row_digest(row) for task_id, row in whole.items()}
    assert sums == {task_id: summed(digest) for task_id, digest in digests.items()}
    assert len(set(digests.values())) == len(NASTY)


def test_the_digest_of_a_ticket_is_the_same_in_sql_and_in_python(rows: Rows) -> None:
    put_all(rows)
    sql = DigestSql(rows.database.kind)
    timeout, values = sql.time_limit(LIMITS)

    found = by_sql(rows, sql.ticket(timeout), **values)

    for task_id, row in rows.all().items():
        limit = LIMITS.of(row["name"], row["priority"], row["timeout_seconds"])
        assert found[task_id] == ticket_digest(task_id, row["epoch"], row["priority"], limit)


@pytest.mark.parametrize("column", [column for column in KEPT if column != "id"])
def test_a_change_of_any_kept_column_changes_the_digest(sqlite_rows: Rows, column: str) -> None:
    task_id = sqlite_rows.put("QUEUED", user_id="anna", idempotency_key="k", max_retries=1, timeout_seconds=9)
    expression = DigestSql("sqlite").row()
    before = by_sql(sqlite_rows, expression)
    other: dict[str, Any] = {"created_at": "2026-01-01 00:00:00.000000"}
    other |= dict.fromkeys(("priority", "max_retries", "timeout_seconds"), 3)

    sqlite_rows.change(task_id, **{column: other.get(column, "another")})

    assert by_sql(sqlite_rows, expression) != before


@pytest.mark.parametrize("column", ["user_id", "idempotency_key", "max_retries", "timeout_seconds"])
def test_nothing_and_something_empty_are_told_apart(sqlite_rows: Rows, column: str) -> None:
    empty = 0 if column in ("max_retries", "timeout_seconds") else ""
    nothing: dict[str, Any] = {column: None}
    task_id = sqlite_rows.put("QUEUED", **nothing)
    expression = DigestSql("sqlite").row()
    before = by_sql(sqlite_rows, expression)

    sqlite_rows.change(task_id, **{column: empty})

    assert by_sql(sqlite_rows, expression) != before


def test_what_a_run_touches_is_not_in_the_digest(sqlite_rows: Rows) -> None:
    task_id = sqlite_rows.put("QUEUED")
    before = by_sql(sqlite_rows, DigestSql("sqlite").row())

    sqlite_rows.change(task_id, status="COMPLETED", epoch=9, attempt=4, failures=2, result="{}", holder="w")

    assert by_sql(sqlite_rows, DigestSql("sqlite").row()) == before


def test_a_baseline_records_the_digests_that_python_computes(rows: Rows, tmp_path: Path) -> None:
    put_all(rows)

    facts = record(rows.database, tmp_path / "baseline")

    recorded = {
        i: kept.digest for part in _stretches(tmp_path / "baseline") for i, kept in part.rows().items()
    }
    whole = RowReader(rows.database, LIMITS).wholes(list(rows.all()))
    assert recorded == {task_id: row_digest(row) for task_id, row in whole.items()}
    assert facts["rows"] == len(NASTY)
    assert facts["last_id"] == 2**63 - 1


def _stretches(folder: Path) -> list[Stretch]:
    baseline = Baseline(folder)
    return list(baseline.stretches([head.last for head in baseline.heads()]))
