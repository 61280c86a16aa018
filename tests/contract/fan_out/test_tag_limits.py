"""How many children of a tag are on their way. A test of a feature row begins with its number."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from app.distributed.fan_out import fan_out, gather
from app.tasks.handlers import TaskContext
from app.tasks.model import Failed, RetryLater
from scripts import tag_limits
from tests.contract.fan_out.parts import (
    MakePlace,
    Place,
    number,
    spread_tagged,
)
from tests.contract.parts import MakeStore, at_once
from tests.contract.rows import Rows


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
