"""Each rule of the tables finds the row that breaks it, and no rule finds anything where all is well."""

from __future__ import annotations

from typing import Any

import pytest

from app.transfer.integrity import Rule, broken_rules, consistency_rules, task_rules, user_rules
from tests.contract.parts import HANDLERS, MakeStore
from tests.contract.rows import Rows

STATUSES = ("SCHEDULED", "QUEUED", "DISPATCHED", "PROCESSING", "COMPLETED", "FAILED", "CANCELLED")


def all_rules() -> list[Rule]:
    return [*task_rules(HANDLERS), *consistency_rules(), *user_rules(active_limit=3, concurrency=2)]


def broken(rows: Rows) -> dict[str, tuple[str, ...]]:
    found = broken_rules(rows.database, all_rules(), settle_seconds=0)
    return {each.rule.name: each.keys for each in found}


@pytest.fixture
def well(rows: Rows, make_store: MakeStore) -> Rows:
    make_store(rows, redis_percent=50)
    for status in STATUSES:
        rows.put(status)
    return rows


def test_nothing_is_broken_where_all_is_well(well: Rows) -> None:
    assert broken(well) == {}


@pytest.mark.parametrize(
    ("rule", "status", "columns"),
    [
        ("known task name", "QUEUED", {"name": "nobody.knows"}),
        ("claim", "PROCESSING", {"holder": None}),
        ("no claim", "QUEUED", {"token": 1}),
        ("end", "COMPLETED", {"ended_at": None}),
        ("wait", "QUEUED", {"waiting_since": None}),
        ("scheduled", "SCHEDULED", {"run_at": None}),
        ("confirmed", "QUEUED", {"confirmed_in": 5}),
        ("error", "FAILED", {"error": ""}),
        ("result", "QUEUED", {"result": "{}"}),
        ("numbers", "QUEUED", {"epoch": 0}),
        ("numbers", "QUEUED", {"progress_percent": 101}),
        ("failures", "QUEUED", {"failures": 1}),
        ("payload", "QUEUED", {"payload": ""}),
        ("slot kept", "COMPLETED", {"user_id": "anna", "active_key": "anna/1"}),
        ("slot of somebody", "QUEUED", {"active_key": "anna/1"}),
    ],
)
def test_a_row_that_breaks_a_rule_is_named(
    well: Rows, rule: str, status: str, columns: dict[str, Any]
) -> None:
    task_id = well.put(status, **columns)

    assert broken(well) == {rule: (str(task_id),)}


def test_what_the_tables_say_of_each_other_is_held_together(well: Rows) -> None:
    well.execute(
        "INSERT INTO task_events (task_id, at, kind, detail) VALUES (77, :at, 'x', '{}')", at=well.at(0)
    )
    well.execute("INSERT INTO user_waits (task_id, user_id, priority) VALUES (78, 'anna', 2)")
    well.execute("DELETE FROM routing WHERE priority = 3")

    assert broken(well) == {"routing": ("3",), "events": ("77",), "user waits": ("78",)}


@pytest.mark.parametrize(("percent", "status"), [(0, "DISPATCHED"), (100, "QUEUED")])
def test_a_task_on_a_track_that_gets_nothing_is_named(
    rows: Rows, make_store: MakeStore, percent: int, status: str
) -> None:
    make_store(rows, redis_percent=percent)
    task_id = rows.put(status)

    assert broken(rows) == {"track": (str(task_id),)}


def test_users_beyond_their_limits_are_named(well: Rows) -> None:
    well.put("QUEUED", count=4, user_id="anna", name="real")
    well.put("PROCESSING", count=3, user_id="bea", name="real")
    well.put("QUEUED", count=9, user_id="tess", name="test.noop")

    found = broken(well)

    assert found["active tasks"] == ("anna",)
    assert found["running tasks"] == ("bea",)


def test_what_was_broken_for_a_moment_only_is_forgotten(well: Rows) -> None:
    task_id = well.put("QUEUED", result="{}")

    def heal(_: float) -> None:
        well.change(task_id, result=None)

    assert broken_rules(well.database, all_rules(), pause=heal) == []
