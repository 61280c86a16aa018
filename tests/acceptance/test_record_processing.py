"""Must show: a process that dies in mid-batch costs no record, and no record ends twice.

The oracle is a file that the business logic writes to. A test of a feature row begins with its number.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from app.distributed import DatabaseManager, DistributedProcessor
from config import Config
from tests.servers import PostgresServer
from tests.waiting import happens, wait_until

ROOT = Path(__file__).resolve().parents[2]
RECORDS, PROCESSES, BATCH = 1000, 3, 50
SETTINGS = {"RQ_ENABLED": "false", "RQ_LEASE_SECONDS": "5"}


class Ledger:
    def __init__(self, path: Path) -> None:
        self._path = path

    def starts(self) -> dict[int, list[int]]:
        """Per record, the processes that started it, in order."""
        found: dict[int, list[int]] = defaultdict(list)
        for line in self._path.read_text().splitlines() if self._path.exists() else []:
            number, process = line.split()
            found[int(number)].append(int(process))
        return found


@pytest.mark.parametrize("server", ["mariadb_server", "postgres_server"])
def test_000_10_001_04_each_record_ends_once_though_a_process_is_killed_in_mid_batch(
    server: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    ledger = Ledger(tmp_path / "ledger")
    with request.getfixturevalue(server).database() as url:
        settings = SETTINGS | {"DATABASE_URL": url, "VAR_DIR": str(tmp_path)}
        database = DatabaseManager(Config.for_tests(**settings))
        with DistributedProcessor(database) as processor:
            processor.system.prepare()
            assert processor.add_records_to_queue("ledger", ({"n": n} for n in range(RECORDS)), key="n")
        with _crew(tmp_path, settings) as crew:
            wait_until(lambda: _busy(ledger), deadline_seconds=60, what="all processes to have begun")
            victim = next(reversed(ledger.starts().values()))[-1]
            os.kill(victim, signal.SIGKILL)
            said, problems = crew.communicate(timeout=120)
        assert crew.returncode == 0, problems.decode()
        told = json.loads(said)
        assert (told["completed_records"], told["failed_records"], told["total_records"]) == (
            RECORDS,
            0,
            RECORDS,
        )
        assert told["restarts"] == 1
        ends = _ends(url)
    starts = ledger.starts()
    assert set(starts) == set(range(RECORDS))
    again = {number: by for number, by in starts.items() if len(by) > 1}
    assert all(len(by) == 2 and by[0] == victim for by in again.values())
    assert ends == [("completed", RECORDS)]


def test_processes_of_a_flow_wait_for_a_database_that_is_away(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger")
    with PostgresServer() as server, server.database() as url:
        settings = SETTINGS | {"DATABASE_URL": url, "VAR_DIR": str(tmp_path)}
        database = DatabaseManager(Config.for_tests(**settings))
        with DistributedProcessor(database) as processor:
            processor.system.prepare()
            processor.add_records_to_queue("ledger", ({"n": n} for n in range(RECORDS)))
        database.close()
        with _crew(tmp_path, settings) as crew:
            wait_until(lambda: _busy(ledger), deadline_seconds=60, what="all processes to have begun")
            server.kill9()
            assert not happens(lambda: crew.poll() is not None, deadline_seconds=3)
            server.start()
            said, problems = crew.communicate(timeout=120)
        assert crew.returncode == 0, problems.decode()
        told = json.loads(said)
        assert (told["completed_records"], told["failed_records"], told["restarts"]) == (RECORDS, 0, 0)


def _crew(folder: Path, settings: dict[str, str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(ROOT / "scripts" / "process_flow.py"), "ledger", "--json"]
    command += ["--module", "tests.acceptance.record_logic"]
    command += ["--processes", str(PROCESSES), "--batch-size", str(BATCH)]
    surroundings = os.environ | settings | {"PYTHONPATH": str(ROOT)}
    surroundings |= {"RECORD_LEDGER": str(folder / "ledger")}
    return subprocess.Popen(
        command, cwd=folder, env=surroundings, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def _busy(ledger: Ledger) -> bool:
    starts = ledger.starts()
    return (
        len({process for by in starts.values() for process in by}) == PROCESSES and len(starts) > RECORDS / 5
    )


def _ends(url: str) -> list[tuple[str, int]]:
    engine = create_engine(url)
    with engine.connect() as on:
        query = "SELECT status, COUNT(DISTINCT payload) FROM processing_queue GROUP BY status"
        found = [(str(row[0]), int(row[1])) for row in on.execute(text(query))]
    engine.dispose()
    return found
