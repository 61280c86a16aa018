"""How parents and children end beside the plain way: late, cancelled, purged, refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.distributed.fan_out import fan_out, gather
from app.tasks.errors import InvalidTask
from app.tasks.handlers import TaskContext
from app.tasks.runner import Runner
from app.tasks.settings import CoreSettings
from app.tasks.submission import TaskRequest
from tests.contract.fan_out.parts import (
    SPREAD,
    MakePlace,
    Place,
    fails_at_two,
    number,
    spread,
)
from tests.contract.parts import MakeStore
from tests.contract.rows import Rows

# --- time, cancels, the end -----------------------------------------------------------------------------


def late(payload: Any, context: TaskContext) -> Any:
    return gather(fan_out(context, "tables", "test.child", SPREAD), limit_seconds=3600)


def test_a_parent_whose_time_is_over_names_the_children_that_are_open(
    make_place: MakePlace, rows: Rows
) -> None:
    place = make_place(late)
    parent = place.submit()
    place.work()
    deadline = rows.scalar("SELECT deadline_at FROM parents")
    assert rows.seconds_from_now(deadline) == pytest.approx(3600, abs=60)
    place.work(limit=2)
    assert place.families.step() == 0
    rows.execute("UPDATE parents SET deadline_at = :past", past=rows.at(-1))
    for child in place.children().values():
        rows.change(child["id"], created_at=rows.at(-4000))
    assert place.families.step() == 1
    (claim,) = [claim for claim in place.claim() if claim.task_id == parent]
    place.runner.run(place.live(claim))
    ended = rows.row(parent)
    assert ended["status"] == "FAILED"
    assert ended["error"] == "after 3600 s these children were open: table2, table3"


def test_a_cancelled_parent_takes_its_children_along(make_place: MakePlace, rows: Rows) -> None:
    place = make_place()
    parent = place.submit()
    place.work()
    (running,) = place.claim(limit=1)
    place.queue.cancel(parent)
    assert rows.status(parent) == "CANCELLED"
    assert place.families.step() == 4
    assert place.statuses() == ["PROCESSING", "CANCELLED", "CANCELLED", "CANCELLED"]
    assert rows.row(running.task_id)["cancel_requested"]
    assert place.families.step() == 0, "it was asked once"
    place.runner.run(place.live(running))
    place.families.step()
    assert not place.store.looks.glance("sweeper").families


def test_a_child_is_not_purged_before_its_parent_has_ended(make_place: MakePlace, rows: Rows) -> None:
    place = make_place(child=fails_at_two)
    parent = place.submit()
    place.work()
    while place.work():
        pass
    moves, later = place.store.moves, datetime.now(UTC) + timedelta(hours=1)
    assert moves.purge_failed(limit=9) == moves.purge_ended(before=later, limit=9) == 0
    place.work_off()
    assert rows.status(parent) == "FAILED"
    assert moves.purge_ended(before=later, limit=9) == 3
    assert moves.purge_failed(limit=9) == 2
    assert rows.scalar("SELECT COUNT(*) FROM parents") == rows.scalar("SELECT COUNT(*) FROM children") == 0


# --- refusals -------------------------------------------------------------------------------------------


def test_nobody_else_can_take_the_key_of_a_child(make_place: MakePlace) -> None:
    place = make_place()
    with pytest.raises(InvalidTask, match="children do"):
        place.queue.submit(TaskRequest("test.child", idempotency_key="child:1:tables:orders"))


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ({"phase": ""}, "phase: must be 1 to 40 printable"),
        ({"payloads": {"x" * 61: {}}}, "must be 1 to 60 printable"),
        ({"tag": " database"}, "tag: must be 1 to 40 printable"),
        ({"task_name": "test.unknown"}, "test.unknown"),
    ],
)
def test_a_fan_out_that_cannot_be_stored_says_why(
    wanted: dict[str, Any], reason: str, sqlite_rows: Rows, make_store: MakeStore
) -> None:
    def refused(payload: Any, context: TaskContext) -> Any:
        given: dict[str, Any] = {"phase": "tables", "task_name": "test.child", "payloads": SPREAD} | wanted
        return gather(fan_out(context, **given))

    place = Place(make_store(sqlite_rows, redis_percent=0), sqlite_rows, refused, number)
    parent = place.submit()
    place.work()
    assert reason in sqlite_rows.row(parent)["error"]
    assert place.children() == {}


def test_who_fans_out_after_its_own_writes_is_refused(make_place: MakePlace, rows: Rows) -> None:
    def writes(payload: Any, context: TaskContext) -> Any:
        context.connection.exec_driver_sql(f"INSERT INTO effects VALUES ({context.task_id})")
        fan_out(context, "tables", "test.child", SPREAD)

    place = make_place(writes)
    parent = place.submit()
    place.work()
    assert "fan out before context.connection is used" in rows.row(parent)["error"]
    assert (rows.effects(), place.children()) == ([], {})


def test_a_run_in_a_process_of_its_own_has_no_children(sqlite_rows: Rows, make_store: MakeStore) -> None:
    place = Place(make_store(sqlite_rows, redis_percent=0), sqlite_rows, spread, number)
    place.runner = Runner(place.store, place.queue.handlers, CoreSettings())
    parent = place.submit()
    place.work()
    assert "only a handler that runs in a worker's own process" in sqlite_rows.row(parent)["error"]
