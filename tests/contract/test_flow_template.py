"""One entry point, two modes. A test of a feature row begins with its number."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import pytest
from sqlalchemy import text

from app.distributed import DatabaseManager, DistributedProcessor, RecordContext
from app.distributed.template import FlowTemplate, share_of
from app.distributed.variables import StoredVariables
from config import Config
from tests.contract.rows import Rows

MakeTemplate = Callable[..., FlowTemplate]
COUNT = 40


def records() -> Iterator[Mapping[str, Any]]:
    for number in range(COUNT):
        yield {"n": number, "word": f"größe {number}"}


def logic(payload: Mapping[str, Any], context: RecordContext) -> dict[str, Any]:
    """Writes through the connection that it is given; every tenth record is wrong, after its write."""
    context.connection.execute(text("INSERT INTO effects VALUES (:n)"), {"n": payload["n"]})
    if payload["n"] % 10 == 7:
        raise ValueError(f"{payload['n']} is wrong")
    return {"twice": 2 * payload["n"]}


@pytest.fixture
def make_template(sqlite_rows: Rows) -> Iterator[MakeTemplate]:
    with ExitStack() as stack:

        def make(variables: dict[str, str] | None = None, **options: Any) -> FlowTemplate:
            config = Config.for_tests(variables or {}, DATABASE_URL=sqlite_rows.url, RQ_ENABLED=False)
            database = DatabaseManager(config)
            stack.callback(database.close)
            processor = stack.enter_context(DistributedProcessor(database))
            return FlowTemplate("survey", logic, records, key="n", processor=processor, **options)

        yield make


def test_000_07_both_modes_have_equal_results(make_template: MakeTemplate, sqlite_rows: Rows) -> None:
    template = make_template()
    standard = template.run(use_distributed_processing=False)
    written = sqlite_rows.effects()
    sqlite_rows.execute("DELETE FROM effects")
    distributed = template.run(use_distributed_processing=True, populate_queue=True)
    assert written == sqlite_rows.effects() == [n for n in range(COUNT) if n % 10 != 7]
    ends = ("total", "completed", "failed", "success_rate_percent")
    assert [standard[end] for end in ends] == [distributed[end] for end in ends] == [40, 36, 4, 90.0]
    told = [[one["error"] for one in summary["errors"]] for summary in (standard, distributed)]
    assert told[0] == told[1] == [f"ValueError: {n} is wrong" for n in (7, 17, 27, 37)]
    assert (standard["mode"], distributed["mode"]) == ("standard", "distributed")
    logged = sqlite_rows.execute("SELECT mode, records_claimed, records_failed FROM flow_execution_logs")
    assert [tuple(row) for row in logged] == [("standard", 40, 4), ("distributed", 40, 4)]


def test_002_17_each_run_is_one_row_with_its_counts(make_template: MakeTemplate, sqlite_rows: Rows) -> None:
    make_template().run(use_distributed_processing=True, batch_size=15, populate_queue=True)
    logged = sqlite_rows.execute(
        "SELECT flow_name, mode, records_claimed, records_completed, records_failed, error_message"
        " FROM flow_execution_logs ORDER BY id"
    )
    assert [tuple(row) for row in logged] == [
        ("survey", "distributed", 15, 14, 1, "ValueError: 7 is wrong"),
        ("survey", "distributed", 15, 13, 2, "ValueError: 17 is wrong"),
        ("survey", "distributed", 10, 9, 1, "ValueError: 37 is wrong"),
    ]
    assert sqlite_rows.scalar("SELECT COUNT(*) FROM flow_execution_logs WHERE ended_at < started_at") == 0
    assert sqlite_rows.scalar("SELECT COUNT(DISTINCT flow_instance_id) FROM flow_execution_logs") == 1


def test_000_08_one_call_populates_and_processes(make_template: MakeTemplate) -> None:
    template = make_template()
    assert template.run(use_distributed_processing=True)["total"] == 0
    summary = template.run(use_distributed_processing=True, batch_size=9, populate_queue=True)
    assert (summary["records_added"], summary["total"], summary["batch_size"]) == (COUNT, COUNT, 9)
    again = template.run(use_distributed_processing=True, populate_queue=True)
    assert (again["records_added"], again["total"]) == (0, 0)


@pytest.mark.parametrize("spelling", ["false", "False", "0", "no", "OFF"])
def test_000_03_a_false_flag_gives_the_standard_path_from_every_level(
    make_template: MakeTemplate, sqlite_rows: Rows, spelling: str
) -> None:
    key = "USE_DISTRIBUTED_PROCESSING"
    stored = StoredVariables(sqlite_rows.database)
    places = (f"SURVEY_{key}", f"DEVELOPMENT_SURVEY_{key}", f"DEVELOPMENT_GLOBAL_{key}", f"GLOBAL_{key}")
    for place in places:
        assert make_template({place: spelling}).run()["mode"] == "standard"
        assert make_template({place: "true"}).run()["mode"] == "distributed"
    for name in ("development.survey", "development.global", "global"):
        stored.set(f"{name}.{key.lower()}", "true")
        assert make_template().run()["mode"] == "distributed"
        stored.set(f"{name}.{key.lower()}", spelling)
        assert make_template().run()["mode"] == "standard"
        stored.remove(f"{name}.{key.lower()}")


def test_000_05_arguments_beat_the_settings(make_template: MakeTemplate) -> None:
    variables = {"SURVEY_USE_DISTRIBUTED_PROCESSING": "true", "SURVEY_DISTRIBUTED_BATCH_SIZE": "25"}
    template = make_template(variables)
    summary = template.run(use_distributed_processing=False, batch_size=7)
    assert (summary["mode"], summary["batch_size"]) == ("standard", 7)
    summary = template.run()
    assert (summary["mode"], summary["batch_size"]) == ("distributed", 25)


def test_000_16_a_flag_that_is_taken_back_holds_for_the_next_run(
    make_template: MakeTemplate, sqlite_rows: Rows
) -> None:
    template, stored = make_template(), StoredVariables(sqlite_rows.database)
    modes = []
    for value in ("true", "false", "true"):
        stored.set("development.survey.use_distributed_processing", value)
        modes.append(template.run()["mode"])
    assert modes == ["distributed", "standard", "distributed"]


def test_000_11_a_share_goes_through_the_queue_always_the_same_records(
    make_template: MakeTemplate, sqlite_rows: Rows
) -> None:
    template = make_template({"SURVEY_DISTRIBUTED_ROLLOUT_PERCENT": "30"})
    summary = template.run(use_distributed_processing=True, populate_queue=True)
    through = [n for n in range(COUNT) if share_of(str(n)) < 30]
    assert (summary["total"], summary["records_added"]) == (COUNT, len(through))
    queued = sqlite_rows.execute("SELECT idempotency_key FROM tasks ORDER BY id")
    assert [int(row[0].rpartition(":")[2]) for row in queued] == through
    assert sorted(sqlite_rows.effects()) == [n for n in range(COUNT) if n % 10 != 7]
    assert make_template({"SURVEY_DISTRIBUTED_ROLLOUT_PERCENT": "30"}).populate() == 0
    wide = sum(share_of(f"key {n}") < 30 for n in range(20_000)) / 200
    assert 28.5 < wide < 31.5


def test_a_run_that_is_stopped_starts_no_further_record_and_gives_the_others_back(
    make_template: MakeTemplate, sqlite_rows: Rows
) -> None:
    template = make_template()
    template.populate()
    answers = iter([False] * 6)
    summary = template.run(use_distributed_processing=True, stopped=lambda: next(answers, True))
    assert 0 < summary["completed"] < 10
    assert sqlite_rows.count("QUEUED") == COUNT - summary["completed"] - summary["failed"]
    assert sqlite_rows.count("PROCESSING") == 0
