"""Each example, run on a fresh folder as a person would, ends with exit 0 and has made what it says.

The oracles restate what an example is about, and read what it left with no code of ours. A test of a feature
row begins with its number.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.timeout(300)  # the first test waits for all examples
NAMES = (
    "file_processing",
    "database_etl",
    "api_records",
    "distributed_survey_processing",
    "distributed_monitoring_example",
    "demo_distributed_survey_processing",
)
# How fast a loaded machine answers is no matter of these tests.
UNHURRIED = {"ALERT_DATABASE_RESPONSE_WARNING": "60000", "ALERT_DATABASE_RESPONSE_CRITICAL": "60000"}
# One process imports what all of them need, which takes longer than what they do, and becomes each of them:
# `python -m flows.examples.NAME`, in a process of its own.
RUN_EACH = """
import os, runpy, sys
import app.distributed, app.monitoring, httpx

def be(folder, name):
    os.environ["VAR_DIR"] = os.path.join(folder, name)
    said = os.open(os.path.join(folder, name + ".said"), os.O_WRONLY | os.O_CREAT)
    os.dup2(said, 1), os.dup2(said, 2)
    sys.argv = [name]
    runpy.run_module("flows.examples." + name, run_name="__main__", alter_sys=True)

folder, *names = sys.argv[1:]
for name in names:
    child = os.fork()
    if not child:
        be(folder, name)
        sys.exit()
    print(name, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@dataclass(frozen=True)
class Example:
    """What an example said, how it ended, and the folder that it was given."""

    exit_code: int
    said: str
    folder: Path

    @property
    def files(self) -> Path:
        return self.folder / "examples"

    def ask(self, sql: str, database: str = "twintrack.db") -> list[tuple[Any, ...]]:
        on = sqlite3.connect(self.folder / database)
        try:
            return on.execute(sql).fetchall()
        finally:
            on.close()

    def records(self) -> dict[tuple[str, str], int]:
        return {
            (flow, status): number
            for flow, status, number in self.ask(
                "SELECT flow_name, status, COUNT(*) FROM processing_queue GROUP BY flow_name, status"
            )
        }


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Example]:
    folder = tmp_path_factory.mktemp("examples")
    surroundings = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": str(folder)} | UNHURRIED
    # -P: from the folder of a fresh clone, and nothing else is on the path
    command = [sys.executable, "-P", "-c", RUN_EACH, str(folder), *NAMES]
    done = subprocess.run(
        command, cwd=ROOT, env=surroundings, capture_output=True, text=True, timeout=280, check=True
    )
    codes = dict(line.split() for line in done.stdout.splitlines())
    return {
        name: Example(int(codes[name]), (folder / f"{name}.said").read_text(), folder / name)
        for name in NAMES
    }


def of_files(made: Example) -> None:
    texts = sorted((made.files / "files").glob("text-*.txt"))
    assert len(texts) == 12
    for path in texts:
        words = Counter(path.read_text().split())
        counted = json.loads(path.with_suffix(".json").read_text())
        assert counted == {"words": sum(words.values()), "most": words.most_common(1)[0][0]}
    assert not list((made.files / "files").glob("*.half"))
    assert made.records() == {("example_files", "completed"): 12, ("example_files", "failed"): 1}
    ((payload, error),) = made.ask(
        "SELECT payload, error_message FROM processing_queue WHERE status = 'failed'"
    )
    assert json.loads(payload)["path"].endswith("/picture.txt")
    assert error in made.said.replace("\n", " ")


def of_a_database(made: Example) -> None:
    totals = made.ask("SELECT customer_id, orders, cents FROM example_customer_totals ORDER BY customer_id")
    wanted = made.ask(
        "SELECT c.id, COUNT(o.id), SUM(o.cents) FROM customers c JOIN orders o ON o.customer_id = c.id"
        " GROUP BY c.id ORDER BY c.id",
        "examples/shop.db",
    )
    assert totals == wanted
    assert (len(totals), sum(orders for _, orders, _ in totals)) == (40, 300)
    assert made.records() == {("example_customers", "completed"): 40}


def of_an_api(made: Example) -> None:
    shipped = json.loads((made.files / "shipments.json").read_text())
    grams = {one["number"]: one["grams"] for one in shipped.values()}
    assert len(shipped) == 45
    assert grams == {n: sum([100, 200, 300, 400][: 1 + n % 4]) for n in range(1, 46)}
    assert made.records() == {("example_orders", "completed"): 45}
    retried = made.ask("SELECT payload FROM processing_queue WHERE retry_count = 1 ORDER BY id")
    assert [json.loads(payload)["number"] for (payload,) in retried] == [9, 18, 27, 36, 45]


def of_a_survey(made: Example) -> None:
    scores = made.ask("SELECT respondent, score, kind FROM example_survey_scores")
    answers = {row["respondent"]: row for row in _payloads(made, "example_survey")}
    assert len(scores) == len(answers) == 300
    for respondent, score, kind in scores:
        given = answers[respondent]
        mean = (given["price"] + given["quality"] + given["support"]) / 3
        assert score == pytest.approx(mean, abs=0.005)
        assert kind == ("promoter" if mean >= 4 else "passive" if mean >= 2.5 else "detractor")
    assert made.records() == {("example_survey", "completed"): 300}


def of_monitoring(made: Example) -> None:
    told = json.loads((made.files / "monitoring.json").read_text())
    assert told["before"]["diagnosis"]["issues_found"] == [
        "example_invoices: 15 records failed; most often: ConnectionError: the ledger is closed"
    ]
    assert told["before"]["status"]["queue_health_assessment"]["queue_health"] == "critical"
    assert told["after"]["status"]["queue_health_assessment"]["queue_health"] == "healthy"
    assert told["after"]["diagnosis"]["issues_found"] == []
    assert told["after"]["status"]["overall_queue_status"]["completed_records"] == 60
    assert made.records() == {("example_invoices", "completed"): 60}
    retried = made.ask("SELECT COUNT(*) FROM processing_queue WHERE retry_count = 1")
    assert retried == [(15,)]


def of_the_demonstration(made: Example) -> None:
    assert made.records() == {("demo_survey", "completed"): 300}
    shares = made.ask("SELECT flow_instance_id, SUM(records_completed) FROM flow_execution_logs GROUP BY 1")
    assert sum(records for _, records in shares) == 300
    for process, records in shares:
        assert f"{process}: {records} responses" in made.said


def _payloads(made: Example, flow: str) -> list[dict[str, Any]]:
    rows = made.ask(f"SELECT payload FROM processing_queue WHERE flow_name = '{flow}'")
    return [json.loads(payload) for (payload,) in rows]


ORACLES = dict(
    zip(
        NAMES,
        (of_files, of_a_database, of_an_api, of_a_survey, of_monitoring, of_the_demonstration),
        strict=True,
    )
)


@pytest.mark.parametrize("name", NAMES)
def test_000_19_001_21_each_example_ends_well_and_has_made_what_it_says(
    name: str, run: dict[str, Example]
) -> None:
    made = run[name]
    assert made.exit_code == 0, made.said
    ORACLES[name](made)


def test_every_example_is_tried(run: dict[str, Example]) -> None:
    programs = {
        path.stem
        for path in (ROOT / "flows" / "examples").glob("*.py")
        if '__name__ == "__main__"' in path.read_text()
    }
    assert programs == set(run)
