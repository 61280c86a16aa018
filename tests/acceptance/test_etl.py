"""The ETL on workers beside the same in one process, and cleanups that run at the same time."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from app.tasks.model import Status
from app.tasks.submission import TaskRequest
from config import Config
from flows import etl
from flows.etl.sample import make_sample
from tests.acceptance.conftest import StackMaker
from tests.acceptance.stack import Stack

MODULES = "app.handlers,flows.etl,tests.acceptance.relatives"
COMMAND = "flows/prefect_flow-worker-flow.py"


def named(folder: Path, target: str) -> dict[str, str]:
    files = {"ETL_SOURCE": folder / "source.db", "ETL_TARGET": folder / f"{target}.db"}
    return {f"{name}_CONNECTION_STRING": f"sqlite:///{path}" for name, path in files.items()}


def everything(path: Path) -> dict[str, list[Any]]:
    """Every row of every copied table, by the oracle's own eyes."""
    on = sqlite3.connect(path)
    tables = on.execute("SELECT name FROM sqlite_master WHERE name LIKE 'shop_%' ORDER BY name").fetchall()
    found = {name: on.execute(f"SELECT * FROM {name} ORDER BY id").fetchall() for (name,) in tables}
    on.close()
    return found


def command(stack: Stack, *words: str, log_name: str) -> tuple[int, str]:
    """Run the deploy and run command as a process of its own; its exit code and what it said last."""
    process = stack.start(COMMAND, *words, log_name=log_name)
    code = process.wait(timeout=200)
    return code, (stack.folder / f"{log_name}.log").read_text().rstrip().splitlines()[-1]


@pytest.mark.parametrize("database_url", ["mariadb"], indirect=True)
@pytest.mark.mariadb
@pytest.mark.timeout(300)
def test_003_05_003_12_and_003_16_twenty_tables_by_workers_are_what_one_process_makes_of_them(
    database_url: str, redis_url: str, make_stack: StackMaker, tmp_path: Path
) -> None:
    stack = make_stack(database_url, redis_url, TASK_MODULES=MODULES)
    stack.settings |= named(tmp_path, "by_workers") | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    alone = Config.for_tests(named(tmp_path, "alone"), VAR_DIR=stack.folder)
    with etl.place_of(alone) as place:
        tables = make_sample(place.source)
    stack.start_pool(workers=2)

    code, said = command(stack, "run", "--json", "--timeout", "180", log_name="run")
    assert (code, stack.counts()) == (0, {"COMPLETED": 1 + 20 + 2}), (said, stack.log("pool"))
    assert json.loads(said) == etl.run_here(alone, pause=_never)
    found = everything(tmp_path / "by_workers.db")
    assert list(found) == tables
    assert found == everything(tmp_path / "alone.db")
    assert stack.system.queue.families.limits() == {"database": 3}

    request = TaskRequest("main_etl", {"tables": ["shop_01", "nowhere"]})
    parent = stack.system.queue.submit(request).task_id
    stack.wait_until_ended(23 + 3, deadline_seconds=120)
    wanted = "1 of its children did not complete: nowhere: the source has no table nowhere"
    assert stack.system.store.queries.task(parent).error == wanted
    assert stack.counts() == {"COMPLETED": 23 + 1, "FAILED": 2}


@pytest.mark.parametrize("database_url", ["mariadb"], indirect=True)
@pytest.mark.mariadb
@pytest.mark.timeout(300)
def test_003_04_two_cleanups_run_at_the_same_time(
    database_url: str, redis_url: str, make_stack: StackMaker
) -> None:
    stack = make_stack(database_url, redis_url, TASK_MODULES=MODULES)
    stack.start_pool(workers=2)
    request = TaskRequest("relatives.host", {"path": str(stack.ledger_file)})
    parent = stack.system.queue.submit(request).task_id
    stack.wait_until_ended(3, deadline_seconds=120)
    done = stack.system.store.queries.task(parent)
    assert (done.status, done.result) == (Status.COMPLETED, ["left", "right"])


def _never(seconds: float) -> None:
    raise AssertionError("nothing here is worth another try")
