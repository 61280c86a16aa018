"""What the command says of runs, and why one does not go on. A test of a feature row begins with its row."""

from __future__ import annotations

import json
from typing import Any, Protocol

import pytest
import redis
from click.testing import CliRunner
from sqlalchemy.engine import make_url

from app.distributed.fan_out import fan_out, gather
from app.tasks.handlers import TaskContext
from app.tasks.model import Priority
from scripts import runs as command
from tests.contract.fan_out.parts import SPREAD, MakePlace, fails_at_two, spread_tagged
from tests.contract.rows import Rows
from tests.servers import RedisServer

TABLES = "table0, table1, table2, table3"


class Run(Protocol):
    def __call__(self, *words: str) -> tuple[int, str]: ...


@pytest.fixture
def run(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command over the database of `rows`: its exit code, and what it said."""
    monkeypatch.setenv("DATABASE_URL", rows.url)
    monkeypatch.setenv("RQ_ENABLED", "false")
    return ran


def ran(*words: str) -> tuple[int, str]:
    answer = CliRunner().invoke(command.main, words)
    return answer.exit_code, answer.output.rstrip()


def spread_over_etl(payload: Any, context: TaskContext) -> Any:
    return gather(fan_out(context, "tables", "test.child", SPREAD, pool="etl"))


def arrive(place: Any, *serves: str) -> None:
    for number, queues in enumerate(serves):
        name = f"w{number}"
        place.store.registry.arrive(name, host="here", pid=number, track="database", queues=[queues])


# --- why nothing goes on ------------------------------------------------------------------------------------


def test_003_19_a_run_without_a_worker_is_named(make_place: MakePlace, run: Run) -> None:
    place = make_place()
    parent = place.submit()
    place.work()
    code, said = run("diagnose")
    assert code == 1
    start = "Start some: python scripts/start_workers.py --workers 3"
    assert said == f"run {parent} (test.parent), {TABLES}: no worker is alive. {start}"
    arrive(place, "urgent,high,normal,low")
    assert run("diagnose") == (0, "Nothing keeps a run from going on.")


def test_003_19_a_run_that_waits_for_another_pool_than_the_workers_serve_is_named(
    make_place: MakePlace, run: Run
) -> None:
    place = make_place(spread_over_etl)
    place.store.pools.open("etl")
    parent = place.submit()
    place.work()
    arrive(place, "pool:cleanup", "normal")
    why = "every worker that is alive serves something else (normal; the pool cleanup)"
    start = "Start its workers: python scripts/start_workers.py --pool etl"
    code, said = run("diagnose")
    assert (code, said.splitlines()) == (
        1,
        [
            f"run {parent} (test.parent), {TABLES}: it waits for the pool etl, and {why}. {start}",
            f"the pool etl has 4 waiting tasks: it waits for the pool etl, and {why}. {start}",
        ],
    )
    place.store.registry.arrive("e", host="here", pid=9, track="database", queues=["pool:etl"])
    assert run("diagnose")[0] == 0
    place.store.pools.limit("etl", 0)
    assert "the limit of the pool etl is 0. python scripts/pools.py limit etl 3" in run("diagnose")[1]


def test_003_19_a_queue_that_only_workers_of_pools_are_beside_is_named(
    make_place: MakePlace, run: Run
) -> None:
    place = make_place()
    place.submit()
    place.work()
    arrive(place, "pool:etl", "urgent")
    code, said = run("diagnose", "--json")
    [found] = json.loads(said)
    assert (code, found["tasks"]) == (1, list(SPREAD))
    served = "every worker that is alive serves something else (the pool etl; urgent)"
    assert found["reason"] == f"it waits in the queue normal, and {served}"


def test_what_an_operator_holds_up_is_named(make_place: MakePlace, run: Run) -> None:
    place = make_place(spread_tagged)
    place.families.limit("database", 0)
    place.submit()
    place.work()
    arrive(place, "normal")
    assert "the limit of the tag database is 0. python scripts/tag_limits.py set" in run("diagnose")[1]
    place.families.limit("database", 9)
    place.families.step()
    place.queue.pause([Priority.NORMAL])
    assert "the queue normal is paused. Resume it" in run("diagnose")[1]


def test_003_19_a_database_that_refuses_the_login_is_named(
    server_rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger = {"mysql": "root", "postgresql": "nobody"}[server_rows.kind]
    url = make_url(server_rows.url).set(username=stranger, password="a-secret")
    monkeypatch.setenv("DATABASE_URL", url.render_as_string(hide_password=False))
    monkeypatch.setenv("RQ_ENABLED", "false")
    code, said = ran("diagnose")
    assert code == 1
    assert said.startswith("the database refused the login: ")
    assert "DATABASE_URL" in said
    assert "a-secret" not in said


def test_003_19_a_redis_that_refuses_the_login_is_named(
    sqlite_rows: Rows, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", sqlite_rows.url)
    monkeypatch.setenv("RQ_REDIS_URL", f"redis://worker:a-secret@127.0.0.1:{redis_server.port}/0")
    with redis.Redis.from_url(redis_server.url) as on:
        on.acl_setuser("worker", enabled=True, passwords=["+another"], categories=["+@all"], keys=["*"])
        try:
            code, said = ran("diagnose")
        finally:
            on.acl_deluser("worker")
    assert code == 1
    assert said.startswith("Redis refused the login: ")
    assert "a-secret" not in said


# --- looking ----------------------------------------------------------------------------------------------


def test_003_14_runs_are_listed_by_flow_and_shown_child_by_child(make_place: MakePlace, run: Run) -> None:
    place = make_place(child=fails_at_two)
    parent = place.submit()
    place.work_off()
    code, said = run("list", "--flow", "test.parent", "--json")
    [found] = json.loads(said)
    assert (code, found["run"], found["status"]) == (0, parent, "FAILED")
    assert found["children"] == {"COMPLETED": 3, "FAILED": 1}
    assert run("list", "--flow", "main_etl") == (0, "")
    code, said = run("show", str(parent))
    lines = said.splitlines()
    assert lines[0] == f"{parent}  test.parent  FAILED  {place.rows.row(parent)['error']}"
    assert [line.split()[:3] for line in lines[1:]] == [
        ["tables", name, "FAILED" if name == "table2" else "COMPLETED"] for name in SPREAD
    ]
    assert run("show", "1")[0] == 2


def test_003_14_live_workers_are_listed_by_host(make_place: MakePlace, run: Run) -> None:
    place = make_place()
    assert run("workers") == (1, "No worker is alive.")
    arrive(place, "pool:etl", "pool:etl", "normal")
    assert run("workers") == (0, "here: 1 for normal\nhere: 2 for pool:etl")
