"""Parents and children: what a fan-out stores, when a parent goes on, and how many of a tag run. A test of a
feature row begins with its number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from app.distributed.fan_out import Undone, fan_out, gather
from app.tasks.errors import InvalidTask
from app.tasks.handlers import DoNotRetry, HandlerRegistry, TaskContext
from app.tasks.model import Claim, Failed, RetryLater, Status, Waits
from app.tasks.queue import TaskQueue
from app.tasks.runner import LiveTask, Runner, boot_clock
from app.tasks.settings import CoreSettings
from app.tasks.store import Store
from app.tasks.store.takes import TakeQueued
from app.tasks.submission import TaskRequest
from scripts import tag_limits
from tests.contract.parts import MakeStore, at_once, handler
from tests.contract.rows import Rows

Work = Callable[[Any, TaskContext], Any]
SPREAD = {f"table{number}": {"n": number} for number in range(4)}


class Place:
    """A store, and one hand that claims and runs what waits in the database."""

    def __init__(self, store: Store, rows: Rows, parent: Work, child: Work) -> None:
        self.store, self.rows = store, rows
        handlers = HandlerRegistry([handler("test.parent", parent), handler("test.child", child)])
        settings = CoreSettings(retry_base_seconds=0, max_retries=3)
        self.queue = TaskQueue(store, handlers, None, settings)
        self.families = self.queue.families
        self.runner = Runner(store, handlers, settings, families=self.families)

    def submit(self) -> int:
        return self.queue.submit(TaskRequest("test.parent")).task_id

    def claim(self, limit: int = 100) -> list[Claim]:
        return self.store.claims.queued(holder="one", limit=limit, lease_seconds=60)

    def live(self, claim: Claim) -> LiveTask:
        return LiveTask(claim, self.store, lease_ends=boot_clock() + 60)

    def work(self, limit: int = 100) -> int:
        """Run what waits now; returns how many tasks that were."""
        claims = self.claim(limit)
        for claim in claims:
            self.runner.run(self.live(claim))
        return len(claims)

    def work_off(self) -> None:
        """Run and sweep until nothing waits any more."""
        while self.work() or self.families.step():
            pass

    def children(self) -> dict[str, dict[str, Any]]:
        """The rows of all children, by name."""
        found = self.rows.execute("SELECT task_id, name FROM children ORDER BY task_id")
        return {row.name: self.rows.row(row.task_id) for row in found}

    def statuses(self) -> list[str]:
        return [row["status"] for row in self.children().values()]


MakePlace = Callable[..., Place]


def spread(payload: Any, context: TaskContext) -> Any:
    return gather(fan_out(context, "tables", "test.child", SPREAD))


def spread_tagged(payload: Any, context: TaskContext) -> Any:
    return gather(fan_out(context, "tables", "test.child", SPREAD, tag="database"))


def number(payload: Any, context: TaskContext) -> Any:
    return payload["n"]


def fails_at_two(payload: Any, context: TaskContext) -> Any:
    if payload["n"] == 2:
        raise DoNotRetry("it has no such column")
    return payload["n"]


@pytest.fixture
def make_place(rows: Rows, make_store: MakeStore) -> MakePlace:
    def make(parent: Work = spread, child: Work = number) -> Place:
        return Place(make_store(rows, redis_percent=0), rows, parent, child)

    return make


# --- one round ------------------------------------------------------------------------------------------


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


# --- limits ---------------------------------------------------------------------------------------------


def on_their_way(place: Place) -> list[str]:
    return [status for status in place.statuses() if status not in ("SCHEDULED", "COMPLETED")]


def test_003_09_no_more_children_of_a_tag_are_on_their_way_than_its_limit(
    make_place: MakePlace, rows: Rows
) -> None:
    place = make_place(spread_tagged)
    place.families.limit("database", 2)
    parent = place.submit()
    place.work()
    assert place.statuses() == ["QUEUED", "QUEUED", "SCHEDULED", "SCHEDULED"], "in order, at once"
    place.work(limit=1)
    place.families.step()
    assert place.statuses() == ["COMPLETED", "QUEUED", "QUEUED", "SCHEDULED"]
    place.work()
    assert place.families.step() == 1
    assert place.statuses() == ["COMPLETED"] * 3 + ["QUEUED"]
    place.work_off()
    assert rows.status(parent) == "COMPLETED"


def test_a_child_that_is_to_be_tried_again_keeps_its_place(make_place: MakePlace, rows: Rows) -> None:
    place = make_place(spread_tagged)
    place.families.limit("database", 1)
    place.submit()
    place.work()
    (claim,) = place.claim()
    place.store.settlements.settle([RetryLater(claim, "not yet", 3600)])
    assert place.families.step() == 0
    assert place.statuses() == ["SCHEDULED"] * 4
    rows.change(claim.task_id, run_at=rows.at(-1))
    assert [move.task_id for move in place.store.moves.due(limit=9)] == [claim.task_id]


def test_an_operators_retry_of_a_child_waits_for_a_place(make_place: MakePlace, rows: Rows) -> None:
    place = make_place(spread_tagged)
    place.families.limit("database", 1)
    place.submit()
    place.work()
    (first,) = place.claim()
    place.store.settlements.settle([Failed(first, "no")])
    place.families.step()
    assert place.statuses() == ["FAILED", "QUEUED", "SCHEDULED", "SCHEDULED"]
    place.queue.retry(first.task_id)
    assert place.families.step() == 0
    assert place.statuses() == ["SCHEDULED", "QUEUED", "SCHEDULED", "SCHEDULED"]
    place.work()
    place.families.step()
    assert place.statuses() == ["QUEUED", "COMPLETED", "SCHEDULED", "SCHEDULED"]


def test_of_four_sweepers_at_once_none_gives_away_a_place_twice(
    server_rows: Rows, make_store: MakeStore
) -> None:
    def many(payload: Any, context: TaskContext) -> Any:
        names = {f"{number}": {"n": number} for number in range(12)}
        return gather(fan_out(context, "tables", "test.child", names, tag="database"))

    places = [Place(make_store(server_rows, redis_percent=0), server_rows, many, number) for _ in range(4)]
    first = places[0]
    first.families.limit("database", 0)
    first.submit()
    first.work()
    first.families.limit("database", 3)
    moved: Sequence[Any] = at_once([place.families.step for place in places])
    assert sum(moved) == 3
    assert len(on_their_way(first)) == 3


def test_a_tag_without_a_limit_holds_nothing_up_and_a_limit_can_be_taken_back(
    make_place: MakePlace, rows: Rows
) -> None:
    place = make_place(spread_tagged)
    place.families.limit("database", 0)
    place.submit()
    place.work()
    assert place.statuses() == ["SCHEDULED"] * 4
    assert place.families.limits() == {"database": 0}
    place.families.limit("database", None)
    assert place.families.step() == 4
    assert place.statuses() == ["QUEUED"] * 4


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


def test_the_command_sets_lists_and_lifts_limits(tmp_path: Path) -> None:
    def run(*words: str) -> tuple[int, str]:
        settings = {"DATABASE_URL": f"sqlite:///{tmp_path / 'tasks.db'}", "VAR_DIR": str(tmp_path)}
        done = CliRunner().invoke(tag_limits.main, list(words), env=settings)
        return done.exit_code, done.output

    assert run("set", "database", "3")[0] == 0
    assert run("set", "database", "4")[0] == 0
    assert run("list", "--json") == (0, '{"database": 4}\n')
    assert run("set", " odd", "4")[0] == 2
    assert run("unset", "database") == (0, "The tag database has no limit.\n")
    assert run("list") == (0, "")
