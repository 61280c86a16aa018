"""The ETL as deployments of Prefect: `make test-prefect`. A test of a feature row begins with its number.

The oracle reads the SQLite files itself, and asks the server by plain HTTP.
"""

from __future__ import annotations

import base64
import json
import sqlite3
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from config import Config
from flows import etl
from flows.etl.deployed import CLEANUP_1, DEPLOYMENTS, MAIN, TABLE
from flows.etl.sample import make_sample
from tests.on_prefect.installation import (
    AUTH,
    DEADLINE_SECONDS,
    PASSWORD,
    POOL,
    PREFECT,
    PrefectServer,
    PrefectWorker,
    command,
)
from tests.servers import PostgresServer

pytestmark = [
    pytest.mark.prefect,
    pytest.mark.timeout(3 * DEADLINE_SECONDS),
    pytest.mark.skipif(
        not (PREFECT / "prefect").exists(), reason="Prefect is not installed: make prefect-setup installs it"
    ),
]

ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
POOL_LIMIT = 6  # the parent, and more tables than the tag lets be copied at a time
Told = Callable[[str], AbstractContextManager[None]]


@dataclass(frozen=True, slots=True)
class Installation:
    """A server with its worker, the folder of everything, and what `deploy` said."""

    folder: Path
    server: PrefectServer
    worker: PrefectWorker
    settings: dict[str, object]
    deployed: subprocess.CompletedProcess[str]
    tables: list[str]

    def start(self, deployment: str, **parameters: Any) -> str:
        """Start a run of the deployment, as Prefect's own page does; returns its id."""
        flow, _, name = deployment.partition("/")
        found = self.server.ask("GET", f"/deployments/name/{flow}/{name}")["id"]
        path, body = f"/deployments/{found}/create_flow_run", {"parameters": parameters}
        run: str = self.server.ask("POST", path, body)["id"]
        return run

    def ended(self, run: str) -> dict[str, Any]:
        """The run once it has ended."""
        found: dict[str, Any] = self.server.until(
            f"/flow_runs/{run}", lambda found: found["state_type"] in ENDED
        )
        return found

    def log(self) -> str:
        return self.worker.log.read_text(errors="replace")[-4000:]


@pytest.fixture(scope="module")
def told(request: pytest.FixtureRequest) -> Told:
    """Prints what took how long."""
    capturing = request.config.pluginmanager.getplugin("capturemanager")

    @contextmanager
    def told(what: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        with capturing.global_and_fixture_disabled():
            print(f"\n{time.monotonic() - began:6.1f} s  {what}", flush=True)

    return told


@pytest.fixture(scope="module")
def installation(
    tmp_path_factory: pytest.TempPathFactory, postgres_server: PostgresServer, told: Told
) -> Iterator[Installation]:
    """A server, what is deployed there, a worker, and a sample of 20 tables.

    The server is on PostgreSQL: on SQLite it refuses what meets another writer, and its clients repeat it
    ever more seldom, so that a busy machine makes ten minutes of a second.
    """
    folder = tmp_path_factory.mktemp("prefect")
    etl_files = named(folder, "by_prefect") | {"VAR_DIR": folder / "var"}
    database = postgres_server.create_database()
    own = {
        "HOME": folder,
        "VAR_DIR": folder / "var",
        "PREFECT_SERVER_API_AUTH_STRING": AUTH,
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": database.replace("+psycopg", "+asyncpg"),
        "PREFECT_SERVER_UI_ENABLED": "false",
    }
    with etl.place_of(Config.for_tests(named(folder, "alone"), VAR_DIR=folder / "var")) as place:
        tables = make_sample(place.source)
    with told("a server starts"):
        server = PrefectServer(own).start()
    settings = etl_files | {
        "HOME": folder,
        "PREFECT_HOME": folder / "client",
        "PREFECT_API_URL": server.url,
        "PREFECT_API_AUTH_STRING": AUTH,
        "PREFECT_CONCURRENCY_LIMIT": POOL_LIMIT,
        "PREFECT_WORKER_QUERY_SECONDS": 1,
        "PREFECT_API_REQUEST_TIMEOUT": DEADLINE_SECONDS,  # no deadline of a client is on trial here
    }
    with server:
        with told("deploy"):
            deployed = command(folder, settings, "deploy")
        assert deployed.returncode == 0, deployed.stderr
        with told("a worker starts"):
            worker = PrefectWorker(settings, server).start()
        with worker:
            yield Installation(folder, server, worker, settings, deployed, tables)


@pytest.fixture(scope="module")
def finished(installation: Installation, told: Told) -> subprocess.CompletedProcess[str]:
    """What `run` said of all tables of the source."""
    with told("run: 20 tables, two cleanups"):
        return command(installation.folder, installation.settings, "run", "--json")


def named(folder: Path, target: str) -> dict[str, str]:
    files = {"ETL_SOURCE": folder / "source.db", "ETL_TARGET": folder / f"{target}.db"}
    return {f"{name}_CONNECTION_STRING": f"sqlite:///{path}" for name, path in files.items()}


def ask(path: Path, sql: str) -> list[tuple[Any, ...]]:
    on = sqlite3.connect(path)
    try:
        rows = on.execute(sql).fetchall()
        on.commit()
        return rows
    finally:
        on.close()


def content(path: Path) -> bytes:
    """What is in a file that its program may have removed meanwhile."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def test_003_12_deploy_lists_what_the_server_then_has(installation: Installation) -> None:
    names = [one.name for one in DEPLOYMENTS]
    wanted = [f"{name}: work pool {POOL}" for name in names]
    assert installation.deployed.stdout.splitlines() == wanted
    assert f"On Prefect at {installation.server.url}" in installation.deployed.stderr
    flows = {one["id"]: one["name"] for one in installation.server.ask("POST", "/flows/filter", {})}
    found = installation.server.ask("POST", "/deployments/filter", {})
    assert sorted(f"{flows[one['flow_id']]}/{one['name']}" for one in found) == sorted(names)
    assert {one["work_pool_name"] for one in found} == {POOL}
    pool = installation.server.ask("GET", f"/work_pools/{POOL}")
    assert (pool["type"], pool["concurrency_limit"]) == ("process", POOL_LIMIT)
    assert installation.server.ask("GET", "/v2/concurrency_limits/tag:database")["limit"] == 3


def test_003_16_twenty_tables_by_prefect_are_what_one_process_makes_of_them(
    installation: Installation, finished: subprocess.CompletedProcess[str]
) -> None:
    assert finished.returncode == 0, (finished.stderr, installation.log())
    alone = Config.for_tests(named(installation.folder, "alone"), VAR_DIR=installation.folder / "var")
    assert json.loads(finished.stdout) == etl.run_here(alone, installation.tables)
    for table in installation.tables:
        everything = f"SELECT * FROM {table} ORDER BY id"
        by_prefect = ask(installation.folder / "by_prefect.db", everything)
        assert by_prefect == ask(installation.folder / "alone.db", everything)
        rows = ask(installation.folder / "source.db", everything)
        assert [row[0] for row in by_prefect] == [row[0] for row in rows]
        assert [row[1] for row in by_prefect] == [row[1].strip() for row in rows]
    recorded = ask(installation.folder / "by_prefect.db", "SELECT table_count, row_count FROM etl_runs")
    assert (20, 20 * 200) in recorded


def test_each_table_has_a_run_of_its_own_three_tries_and_the_tag(
    installation: Installation, finished: subprocess.CompletedProcess[str]
) -> None:
    flows = {one["name"]: one["id"] for one in installation.server.ask("POST", "/flows/filter", {})}
    mains = [run for run in installation.server.runs() if run["flow_id"] == flows["main-etl-job"]]
    parent = min(mains, key=lambda run: str(run["created"]))
    children = installation.server.runs(parent_flow_run_id={"any_": [parent["id"]]})
    assert Counter(run["state_type"] for run in children) == {"COMPLETED": 20 + 2}
    tables = [run["name"] for run in children if run["flow_id"] == flows["process-table-etl"]]
    assert sorted(tables) == installation.tables
    copies = installation.server.copies(*(run["id"] for run in children))
    assert [one["tags"] for one in copies] == [["database"]] * 20
    policies = [one["empirical_policy"] for one in copies]
    assert {(policy["retries"], policy["retry_delay"]) for policy in policies} == {(2, 10)}


def test_003_09_a_table_waits_for_a_place_of_the_tag(installation: Installation, told: Told) -> None:
    limits = "/v2/concurrency_limits"
    installation.server.until(f"{limits}/tag:database", lambda tag: tag["active_slots"] == 0)
    taken = {"names": ["tag:database"], "slots": 3, "mode": "concurrency", "lease_duration": 3600}
    lease = installation.server.ask("POST", f"{limits}/increment-with-lease", taken)["lease_id"]
    with told("a table that waits for a place of the tag"):
        run = installation.start(TABLE, table="shop_02")
        installation.server.until(f"/flow_runs/{run}", lambda found: found["state_type"] == "RUNNING")
        # As long as a whole run takes that begins later and needs no place.
        other = installation.ended(installation.start(CLEANUP_1))
        given = datetime.now(UTC)
        installation.server.ask("POST", f"{limits}/decrement-with-lease", {"lease_id": lease})
        ended = installation.ended(run)
    assert (other["state_type"], ended["state_type"]) == ("COMPLETED", "COMPLETED")
    (copy,) = installation.server.copies(run)
    assert datetime.fromisoformat(copy["start_time"]) >= given


def test_003_05_a_failed_table_fails_its_parent_by_name_and_a_retry_repeats_nothing_else(
    installation: Installation, finished: subprocess.CompletedProcess[str], told: Told
) -> None:
    with told("a run with a table that is not there, and its retry once it is"):
        run = installation.start(MAIN, tables=["shop_01", "nowhere"])
        failed = installation.ended(run)
        sentence = "1 of its children did not complete: nowhere: the source has no table nowhere"
        assert (failed["state_type"], failed["state"]["message"]) == ("FAILED", sentence)

        ask(installation.folder / "source.db", "CREATE TABLE nowhere (id INTEGER PRIMARY KEY)")
        again = {"state": {"type": "SCHEDULED", "name": "AwaitingRetry"}, "force": True}
        installation.server.ask("POST", f"/flow_runs/{run}/set_state", again)
        assert installation.ended(run)["state_type"] == "COMPLETED"
    children = installation.server.runs(parent_flow_run_id={"any_": [run]})
    wanted = {"shop_01": 1, "nowhere": 2, "cleanup_flow1": 1, "cleanup_flow2": 1}
    assert Counter(child["name"] for child in children) == wanted


def test_003_20_who_does_not_know_the_password_is_refused_and_nothing_holds_it(
    installation: Installation,
    finished: subprocess.CompletedProcess[str],
    postgres_server: PostgresServer,
) -> None:
    stranger = {name: value for name, value in installation.settings.items() if value != AUTH}
    refused = command(installation.folder, stranger, "deploy")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "refused us (401): set PREFECT_API_KEY, or PREFECT_API_AUTH_STRING" in refused.stderr
    said = [installation.deployed, finished, refused]
    assert PASSWORD not in "".join(one.stdout + one.stderr for one in said)
    folders = [installation.folder, installation.server.folder, installation.worker.folder]
    folders.append(postgres_server.folder)
    held = {path: content(path) for folder in folders for path in folder.rglob("*") if path.is_file()}
    assert b"Finished in state Completed" in held[installation.worker.log]
    secrets = (PASSWORD.encode(), base64.b64encode(AUTH.encode()))
    assert [path for path in held if any(secret in held[path] for secret in secrets)] == []


def test_003_20_a_remote_server_is_told_the_key_and_nobody_else_is(tmp_path: Path) -> None:
    heard: list[str | None] = []

    class Refuses(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            heard.append(self.headers["Authorization"])
            self.send_error(403)

        def log_message(self, *given: object) -> None:
            """Nothing."""

    with HTTPServer(("127.0.0.1", 0), Refuses) as remote:
        threading.Thread(target=remote.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{remote.server_port}/api"
        settings = {"HOME": tmp_path, "VAR_DIR": tmp_path, "PREFECT_API_URL": url}
        refused = command(tmp_path, settings | {"PREFECT_API_KEY": "pnu_9c2e"}, "deploy")
        remote.shutdown()
    assert set(heard) == {"Bearer pnu_9c2e"}
    assert refused.returncode == 2
    assert f"Prefect at {url} refused us (403)" in refused.stderr
    assert "pnu_9c2e" not in refused.stdout + refused.stderr
    unreachable = command(tmp_path, settings | {"PREFECT_API_KEY": "pnu_9c2e"}, "deploy")
    assert unreachable.returncode == 2
    assert "does not answer" in unreachable.stderr
    assert "pnu_9c2e" not in unreachable.stdout + unreachable.stderr
