"""`scripts/records.py diagnose` names the cause of each fault that is planted, and nothing else. A test of a
feature row begins with its number."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from click.testing import CliRunner

from app.distributed import distributed_processing_flow, flow_runs
from app.monitoring import calculate_capacity_utilization, distributed_processing_diagnostics
from scripts import records as command
from tests.contract.record_rows import open_lanes, processor_over, put_claimed, put_ended, put_records
from tests.contract.rows import Rows

MINUTE, HOUR = 60, 3600


@dataclass(frozen=True)
class Fault:
    """What is wrong, and what the diagnosis must say of it."""

    plant: Callable[[Rows], object]
    said: str
    variables: tuple[tuple[str, str], ...] = ()


def store(rows: Rows, name: str, value: str) -> None:
    rows.execute(
        "INSERT INTO variables (name, value, updated_at) VALUES (:name, :value, :at)",
        name=name,
        value=value,
        at=rows.at(0),
    )


def waiting(rows: Rows, minutes: float = 0) -> None:
    """For so many minutes, rounded, however long the test takes to ask."""
    seconds = max(0.0, minutes * MINUTE - 25)
    put_records(rows, "QUEUED", 3, waiting_since=rows.at(-seconds))


def waiting_while(name: str, value: str) -> Callable[[Rows], object]:
    def plant(rows: Rows) -> None:
        waiting(rows, 10)
        store(rows, name, value)

    return plant


def waiting_without_logic(rows: Rows) -> None:
    waiting(rows, 5)
    with processor_over(rows) as processor:
        for _ in range(3):
            distributed_processing_flow("survey", processor=processor)


def waiting_in_a_crowd(rows: Rows) -> None:
    waiting(rows, 20)
    put_claimed(rows, 1, ago=5)


def failing(rows: Rows, *errors: str) -> None:
    for error in errors:
        put_ended(rows, "FAILED", 1, ago=MINUTE, error=error)


FAULTS = {
    "no process": Fault(
        lambda rows: waiting(rows, 10),
        "survey: records wait, the oldest for 10 minutes, and no process claims any: is one running that has"
        " the flow's business logic?",
    ),
    "a process without logic": Fault(
        waiting_without_logic,
        "can claim none: No business logic is registered for the flow 'survey': pass business_logic_func, or"
        " import the module that declares it with @business_logic('survey').",
    ),
    "processing stopped for all": Fault(
        waiting_while("global.process_records", "false"),
        "survey: 3 records wait, and none may be claimed: global.process_records is false"
        " (python scripts/variables.py set development.survey.process_records true)",
    ),
    "processing stopped by the environment": Fault(
        waiting,
        "survey: 3 records wait, and none may be claimed: SURVEY_PROCESS_RECORDS is no"
        " (in the environment: change it there)",
        (("SURVEY_PROCESS_RECORDS", "no"),),
    ),
    "a switch that cannot be read": Fault(
        waiting,
        "none may be claimed: GLOBAL_PROCESS_RECORDS must be true, false, 1, 0, yes, no, on or off,"
        " not 'of'.",
        (("GLOBAL_PROCESS_RECORDS", "of"),),
    ),
    "intake stopped": Fault(
        lambda rows: store(rows, "development.survey.accept_records", "off"),
        "survey: no records are taken in: development.survey.accept_records is off",
    ),
    "one error again and again": Fault(
        lambda rows: failing(rows, "no ledger", "no ledger", "bad address"),
        "survey: 3 records failed; most often: no ledger",
    ),
    "one error in many words": Fault(
        lambda rows: failing(
            *(rows, "customer 17 of 'Acme' is unknown", "bad address", "bad address"),
            *("customer 23 of 'Bolt' is unknown", "customer 4 of 'Acme' is unknown"),
        ),
        "survey: 5 records failed; most often, 3 alike: customer … of … is unknown",
    ),
    "dead owners": Fault(
        lambda rows: put_claimed(rows, 2, ago=2 * HOUR, lease=-MINUTE, holder="gone:7"),
        "survey: 2 records are orphaned: gone:7 claimed them more than 1 hours ago, and its leases are over",
    ),
    "a slow record": Fault(
        lambda rows: put_claimed(rows, 1, ago=45 * MINUTE + 1),
        "has been in processing for 45.",
    ),
    "too few processes": Fault(
        waiting_in_a_crowd,
        "survey: records wait, the oldest for 20 minutes, though processes work on the flow: start more",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_000_20_the_cause_of_a_fault_is_named(
    name: str, sqlite_rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow_runs, "_LOGIC", {})
    monkeypatch.setenv("DATABASE_URL", sqlite_rows.url)
    open_lanes(sqlite_rows)
    sound = CliRunner().invoke(command.main, ["diagnose"])
    assert (sound.exit_code, sound.output) == (0, "Nothing is wrong.\n")
    fault = FAULTS[name]
    fault.plant(sqlite_rows)
    for variable, value in fault.variables:
        monkeypatch.setenv(variable, value)
    shown = CliRunner().invoke(command.main, ["diagnose", "--json"])
    (issue,) = json.loads(shown.stdout)["issues_found"]
    assert shown.exit_code == 1
    assert fault.said in issue
    assert "invoices" not in issue


def test_000_20_a_flow_that_went_back_to_standard_mode_is_in_order(sqlite_rows: Rows) -> None:
    open_lanes(sqlite_rows)
    store(sqlite_rows, "development.survey.accept_records", "false")
    store(sqlite_rows, "development.survey.use_distributed_processing", "false")
    with processor_over(sqlite_rows) as processor:
        assert distributed_processing_diagnostics(processor=processor)["issues_found"] == []


def test_000_20_a_process_without_logic_says_so_once_and_counts_as_no_capacity(
    rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow_runs, "_LOGIC", {})
    open_lanes(rows)
    waiting_without_logic(rows)
    runs = rows.execute("SELECT records_claimed, records_completed, records_failed FROM flow_execution_logs")
    assert [tuple(run) for run in runs] == [(0, 0, 0)]
    with processor_over(rows) as processor:
        (issue,) = distributed_processing_diagnostics(processor=processor)["issues_found"]
        assert "can claim none" in issue
        assert calculate_capacity_utilization(processor=processor)["active_instances"] == 0
        distributed_processing_flow("survey", 1, lambda payload: None, processor=processor)
        assert distributed_processing_diagnostics(processor=processor)["issues_found"] == []
