"""What a fan-out stores, when a parent goes on, and what a second run finds. A test of a feature row begins
with its number."""

from __future__ import annotations

from typing import Any

from app.distributed.fan_out import Undone, fan_out, gather
from app.tasks.handlers import TaskContext
from app.tasks.model import Status, Waits
from app.tasks.store.takes import TakeQueued
from tests.contract.fan_out.parts import SPREAD, MakePlace, fails_at_two, spread_tagged
from tests.contract.rows import Rows


def test_003_01_a_parent_waits_for_one_task_per_table_and_gets_what_they_return(
    make_place: MakePlace, rows: Rows
) -> None:
    place = make_place()
    parent = place.submit()
    assert place.work() == 1
    waiting = rows.row(parent)
    assert (waiting["status"], waiting["run_at"], waiting["failures"]) == ("SCHEDULED", None, 0)
    assert place.statuses() == ["QUEUED"] * 4
    assert place.families.step() == 0, "it was woken though its children are open"
    assert place.work() == 4
    assert place.families.step() == 1
    assert place.work() == 1
    ended = rows.row(parent)
    assert (ended["status"], ended["failures"]) == ("COMPLETED", 0)
    assert ended["result"] == '{"table0":0,"table1":1,"table2":2,"table3":3}'
    assert [row["attempt"] for row in place.children().values()] == [1] * 4
    assert not place.store.looks.glance("sweeper").families


def test_003_03_and_003_18_a_phase_begins_once_all_of_the_one_before_have_ended(
    make_place: MakePlace, rows: Rows
) -> None:
    began: list[str] = []

    def phases(payload: Any, context: TaskContext) -> Any:
        gather(fan_out(context, "tables", "test.child", {"a": {"n": "a"}, "b": {"n": "b"}}))
        left = fan_out(context, "left", "test.child", {"left": {"n": "cleanup 1"}})
        right = fan_out(context, "right", "test.child", {"right": {"n": "cleanup 2"}})
        return [gather(left), gather(right)]

    def child(payload: Any, context: TaskContext) -> Any:
        began.append(payload["n"])
        return payload["n"]

    place = make_place(phases, child)
    parent = place.submit()
    place.work()
    for waiting in (["a"], ["a", "b"]):
        place.families.step()
        place.work(limit=1)
        assert began == waiting
    place.families.step()
    place.work()
    assert place.statuses()[2:] == ["QUEUED", "QUEUED"], "both cleanups wait for a worker at a time"
    place.work_off()
    assert began[2:] == ["cleanup 1", "cleanup 2"]
    assert rows.row(parent)["result"] == '[{"left":"cleanup 1"},{"right":"cleanup 2"}]'


def test_003_05_a_failed_child_is_named_and_fails_its_parent_after_the_others_have_ended(
    make_place: MakePlace, rows: Rows
) -> None:
    place = make_place(child=fails_at_two)
    parent = place.submit()
    place.work_off()
    assert place.statuses() == ["COMPLETED", "COMPLETED", "FAILED", "COMPLETED"]
    ended = rows.row(parent)
    assert (ended["status"], ended["failures"]) == ("FAILED", 1)
    reason = "table2: it has no such column"
    assert ended["error"] == f"1 of its children did not complete: {reason}"


def test_a_parent_may_go_on_with_what_its_failed_children_leave(make_place: MakePlace, rows: Rows) -> None:
    def lenient(payload: Any, context: TaskContext) -> Any:
        found = gather(fan_out(context, "tables", "test.child", SPREAD), fail="continue")
        return {name: one.status if isinstance(one, Undone) else one for name, one in found.items()}

    place = make_place(lenient, fails_at_two)
    parent = place.submit()
    place.work_off()
    assert rows.row(parent)["result"] == '{"table0":0,"table1":1,"table2":"FAILED","table3":3}'


def test_a_fan_out_of_nothing_is_gathered_at_once(make_place: MakePlace, rows: Rows) -> None:
    place = make_place(lambda payload, context: gather(fan_out(context, "none", "test.child", {})))
    parent = place.submit()
    place.work()
    assert (rows.status(parent), rows.row(parent)["result"]) == ("COMPLETED", "{}")


def test_a_parent_can_be_a_child(make_place: MakePlace, rows: Rows) -> None:
    def nested(payload: Any, context: TaskContext) -> Any:
        if payload.get("depth") == 2:
            return "leaf"
        below = {"depth": payload.get("depth", 0) + 1}
        return gather(fan_out(context, "below", "test.parent", {"one": below}))

    place = make_place(nested)
    parent = place.submit()
    place.work_off()
    assert rows.row(parent)["result"] == '{"one":{"one":"leaf"}}'


# --- again ----------------------------------------------------------------------------------------------


def test_a_run_that_was_cut_short_repeats_nothing_that_its_children_have_done(
    make_place: MakePlace, rows: Rows
) -> None:
    payloads: list[Any] = [{"first": {"n": 1}}, {"first": {"n": "another"}, "second": {"n": 2}}]

    def falls(payload: Any, context: TaskContext) -> Any:
        children = fan_out(context, "tables", "test.child", payloads[context.failures])
        if not context.failures:
            raise OSError("its worker fell over")
        return gather(children)

    place = make_place(falls)
    parent = place.submit()
    place.work_off()
    assert rows.row(parent)["result"] == '{"first":1,"second":2}'
    assert rows.row(parent)["failures"] == 1
    assert [row["attempt"] for row in place.children().values()] == [1, 1]


def test_a_run_that_has_lost_its_claim_stores_no_child(make_place: MakePlace, rows: Rows) -> None:
    place = make_place()
    parent = place.submit()
    (claim,) = place.claim()
    rows.change(parent, token=claim.token + 1)
    place.runner.run(place.live(claim))
    assert place.children() == {}
    assert rows.row(parent)["token"] == claim.token + 1


def test_children_that_all_end_before_their_parent_has_begun_to_wait_wake_it(
    make_place: MakePlace, rows: Rows
) -> None:
    place = make_place()
    parent = place.submit()
    live = place.live(*place.claim())
    outcome = place.runner.execute(live)
    assert isinstance(outcome, Waits)
    assert place.work() == 4
    assert place.families.step() == 0
    settled = place.runner.settle(live, outcome)
    assert [move.status for move in settled.moves] == [Status.SCHEDULED], "nobody would ring for the sweeper"
    place.work_off()
    assert rows.status(parent) == "COMPLETED"


def test_a_wait_is_settled_in_the_turn_that_claims_the_next(make_place: MakePlace, rows: Rows) -> None:
    place = make_place()
    place.submit()
    (claim,) = place.claim()
    outcome = place.runner.execute(place.live(claim))
    take = TakeQueued(10, (claim.priority,), 0)
    turned = place.store.turns.turn([outcome], take, holder="one", lease_seconds=60)
    assert turned.settled.recorded == {claim.task_id: Status.SCHEDULED}
    assert len(turned.claims.won) == 4
    assert place.store.looks.glance("sweeper").families


def test_what_a_parent_wrote_before_it_waits_is_rolled_back(make_place: MakePlace, rows: Rows) -> None:
    def writes(payload: Any, context: TaskContext) -> Any:
        children = fan_out(context, "tables", "test.child", SPREAD)
        context.connection.exec_driver_sql(f"INSERT INTO effects VALUES ({context.task_id})")
        return gather(children, limit_seconds=3600)

    place = make_place(writes)
    parent = place.submit()
    place.work()
    assert (rows.status(parent), rows.effects()) == ("SCHEDULED", [])
    place.work_off()
    assert rows.effects() == [parent]


def test_an_operators_retry_runs_again_what_did_not_complete_and_nothing_else(
    make_place: MakePlace, rows: Rows
) -> None:
    broken = [True]

    def heals(payload: Any, context: TaskContext) -> Any:
        return fails_at_two(payload, context) if broken[0] else payload["n"]

    place = make_place(spread_tagged, heals)
    place.families.limit("database", 1)
    parent = place.submit()
    place.work_off()
    assert rows.status(parent) == "FAILED"
    broken[0] = False
    place.families.limit("database", 0)
    place.queue.retry(parent)
    assert place.work() == 1
    assert place.statuses() == ["COMPLETED", "COMPLETED", "SCHEDULED", "COMPLETED"], "it waits for a place"
    place.families.limit("database", 1)
    place.work_off()
    assert rows.row(parent)["result"] == '{"table0":0,"table1":1,"table2":2,"table3":3}'
    assert [row["attempt"] for row in place.children().values()] == [1, 1, 2, 1]
