"""The judge itself: a promise that is broken is seen, whatever it is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from app.system import build_system
from config import Config
from tests.soak.ledger import NAME, Ledger
from tests.soak.oracle import Oracle, Verdict

TASK = 4711


class Court:
    """An oracle over an empty SQLite database, with a task that went well."""

    def __init__(self, folder: Path) -> None:
        config = Config.for_tests(VAR_DIR=str(folder), DATABASE_URL=f"sqlite:///{folder / 'tasks.db'}")
        system = build_system(config)
        system.prepare()
        system.close()
        self.file = folder / NAME
        self.oracle = Oracle(config.DATABASE_URL, Ledger(folder))
        self.oracle.install()
        self._write("S 1", "E 1")
        self.put("soak.works")

    def put(self, name: str) -> None:
        self.execute("DELETE FROM tasks")
        self.execute("DELETE FROM soak_ends")
        self.execute(
            "INSERT INTO tasks (id, name, status, priority, attempt, payload, created_at)"
            " VALUES (:id, :name, 'PROCESSING', 2, 1, '{}', '2026-11-22 00:00:00.000000')",
            name=name,
        )

    def execute(self, statement: str, **values: object) -> None:
        with self.oracle._engine.connect() as on:
            on.execute(text(statement), {"id": TASK} | values)

    def end(self, status: str = "COMPLETED", *, attempt: int = 1, pid: int = 99) -> None:
        result = json.dumps({"attempt": attempt, "pid": pid})
        self.execute(
            "UPDATE tasks SET status = :status, result = :result, attempt = :attempt WHERE id = :id",
            status=status,
            result=result,
            attempt=attempt,
        )

    def event(self, kind: str) -> None:
        self.execute(
            "INSERT INTO task_events (task_id, at, kind, detail) VALUES (:id, '2026-11-22', :kind, '{}')",
            kind=kind,
        )

    def judge(self, name: str = "soak.works", *, cancelled: bool = False) -> Verdict:
        return self.oracle.judge({TASK: name}, cancelled={TASK} if cancelled else set())

    def start_again(self, attempt: int) -> None:
        self._write(f"S {attempt}", f"E {attempt}")

    def _write(self, *starts: str) -> None:
        with self.file.open("a") as file:
            for line in starts:
                word, attempt = line.split()
                file.write(f"{word} {TASK} {attempt} 99 1.0\n")


@pytest.fixture
def court(tmp_path: Path) -> Iterator[Court]:
    found = Court(tmp_path)
    yield found
    found.oracle.close()


def test_a_task_that_started_and_ended_once_is_good(court: Court) -> None:
    court.end()
    assert court.judge().good


def test_an_accepted_task_without_a_row_is_lost(court: Court) -> None:
    court.execute("DELETE FROM tasks")
    assert TASK in court.judge().lost


def test_a_task_that_has_not_ended_is_lost(court: Court) -> None:
    assert TASK in court.judge().lost


def test_an_end_that_is_recorded_twice_is_seen_though_the_row_looks_the_same(court: Court) -> None:
    court.end()
    court.end()
    assert TASK in court.judge().doubled


def test_a_second_start_needs_a_recorded_reason(court: Court) -> None:
    court.start_again(2)
    court.end(attempt=2)
    assert TASK in court.judge().doubled
    court.event("returned unstarted")
    assert TASK in court.judge().doubled
    court.event("reclaim")
    assert court.judge().good


def test_one_attempt_that_started_twice_is_doubled_whatever_the_reason(court: Court) -> None:
    court.start_again(1)
    court.event("reclaim")
    court.end()
    assert TASK in court.judge().doubled


def test_a_result_of_another_attempt_than_the_recorded_one_is_wrong(court: Court) -> None:
    court.start_again(2)
    court.event("reclaim")
    court.end(attempt=2, pid=7)
    assert TASK in court.judge().wrong


def test_a_task_that_must_not_repeat_may_not_even_with_a_reason(court: Court) -> None:
    court.put("soak.parks")
    court.start_again(2)
    court.event("reclaim")
    court.end(attempt=2)
    assert TASK in court.judge("soak.parks").doubled


def test_a_task_may_end_cancelled_only_if_somebody_asked(court: Court) -> None:
    court.end("CANCELLED")
    assert TASK in court.judge().wrong
    assert court.judge(cancelled=True).good


@pytest.mark.parametrize("effects", [0, 2])
def test_what_a_handler_wrote_must_be_there_exactly_once(court: Court, effects: int) -> None:
    court.put("soak.writes")
    for _ in range(effects):
        court.execute("INSERT INTO soak_effects (task_id, attempt) VALUES (:id, 1)")
    court.end()
    assert TASK in court.judge("soak.writes").doubled
