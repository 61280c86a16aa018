"""The commands that measure and clean up, as an operator calls them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID

import pytest

from app.tasks.model import Priority
from app.tasks.submission import TaskRequest
from app.transfer import history, performance, trials
from app.transfer.performance import percentile
from app.transfer.retirement import retire
from app.transfer.sampling import Sampler
from scripts.migration import cleanup_legacy, load_test_rq, monitor_rq_performance, performance_validation
from tests.integration.place import Place


@pytest.fixture
def place(tmp_path: Path, database_url: str, redis_url: str) -> Iterator[Place]:
    place = Place(DATABASE_URL=database_url, RQ_REDIS_URL=redis_url, VAR_DIR=str(tmp_path / "var"))
    yield place
    place.close()


def test_fifty_submissions_and_twenty_at_once_are_measured_and_removed(place: Place) -> None:
    code, said = place.run(performance_validation.main, "--json")
    done = json.loads(said)
    assert (done["submissions"], done["refused"], done["at_once"]) == (50, 0, 20)
    assert code == (1 if done["shortfalls"] else 0)
    assert trials.remove(place.system).deleted == 0
    place.run(performance_validation.main, "--keep")
    assert trials.remove(place.system).deleted == 70


def test_what_is_missed_is_said_in_a_sentence_each() -> None:
    slow = performance.Performance(50, 2, 0.25, 0.4, 20, 17, "full")
    assert not slow.good
    assert [sentence.split()[0] for sentence in slow.shortfalls] == ["2", "a", "17"]
    assert performance.Performance(50, 0, 0.02, 0.04, 20, 18, None).good


def test_tasks_that_nobody_works_off_are_lost_to_a_load_test(place: Place) -> None:
    code, said = place.run(
        load_test_rq.main, "--tasks", "12", "--concurrent", "3", "--limit", "0.2", "--json"
    )
    done = json.loads(said)
    assert (code, done["accepted"], done["completed"], done["lost"]) == (1, 12, 0, 12)
    assert done["submit_seconds"]["p50"] > 0
    assert place.rows.count("DISPATCHED") == 0


def test_the_monitor_writes_a_line_for_each_look(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moments = iter([0.0, 1.0, 2.0, 3.0, 3.0])  # by its clock: looks after one, two and three seconds
    clock = SimpleNamespace(monotonic=lambda: next(moments), sleep=lambda seconds: None)
    monkeypatch.setattr(monitor_rq_performance, "time", clock)
    place.system.queue.submit_many([TaskRequest("test.noop", {}, priority=Priority.HIGH) for _ in range(7)])
    output = tmp_path / "series.jsonl"
    code, said = place.run(
        monitor_rq_performance.main, "--duration", "3", "--interval", "1", "--output", str(output), "--json"
    )
    looks = [json.loads(line) for line in said.splitlines()]
    assert (code, len(looks)) == (0, 3)
    assert looks == [json.loads(line) for line in output.read_text().splitlines()]
    assert looks[0]["depths"]["high"] == {"database": 0, "redis": 7, "tickets": 7, "running": 0}
    assert (looks[0]["ended_per_second"], looks[1]["ended_per_second"]) == (None, 0.0)
    moments = iter([0.0, 0.0])
    code, said = place.run(monitor_rq_performance.main, "--duration", "0")
    assert "high 7+0" in said


def test_a_look_counts_what_has_ended_since_the_last_one(place: Place) -> None:
    times = iter([10.0, 14.0])
    sampler = Sampler(place.system, clock=lambda: next(times))
    sampler.take()
    place.rows.put("COMPLETED", count=8)
    seen = sampler.take()
    assert (seen.ended, seen.ended_per_second) == (8, 2.0)
    assert seen.p50_seconds is not None


def test_a_percentile_is_the_smallest_value_that_so_many_do_not_exceed() -> None:
    values = [5.0, 1.0, 4.0, 2.0, 3.0]
    assert [percentile(values, percent) for percent in (1, 50, 80, 95)] == [1.0, 3.0, 4.0, 5.0]
    assert percentile([], 50) is None


def test_a_clean_up_archives_the_old_table_before_it_drops_it(place: Place, tmp_path: Path) -> None:
    uuid = "UUID" if place.rows.kind == "postgresql" else "CHAR(36)"
    columns = f"id INTEGER PRIMARY KEY, note VARCHAR(20), number {uuid}, price NUMERIC(8, 2)"
    place.rows.execute(f"CREATE TABLE old_tasks ({columns})")
    for number in range(30):
        place.rows.execute(
            "INSERT INTO old_tasks VALUES (:id, :note, :uuid, 1.5)",
            id=number,
            note=f"größe {number}",
            uuid=str(UUID(int=number)),
        )
    page = tmp_path / "docs" / "history.md"
    arguments = ("--table", "old_tasks", "--history", str(page), "--json")
    code, said = place.run(cleanup_legacy.main, *arguments)
    told = json.loads(said)["archive"]
    assert (code, told["rows"], told["dropped"]) == (0, 30, False)
    assert place.rows.execute("SELECT COUNT(*) FROM old_tasks")[0][0] == 30
    code, said = place.run(cleanup_legacy.main, *arguments, "--drop", "--folder", str(tmp_path / "kept"))
    assert (code, json.loads(said)["archive"]["dropped"]) == (0, True)
    with gzip.open(next((tmp_path / "kept").glob("rows-*.gz")), "rt", encoding="utf-8") as lines:
        assert json.loads(next(lines))[:3] == [0, "größe 0", str(UUID(int=0))]
    text = page.read_text()
    assert text.count("old_tasks: 30 rows archived and") == 2
    assert text.count("# Migration history") == 1
    code, said = place.run(cleanup_legacy.main, *arguments)
    assert (code, said.strip()) == (2, "there is no table old_tasks")


def test_a_clean_up_that_was_cut_short_goes_on_with_the_table_that_it_had_renamed(
    place: Place, tmp_path: Path
) -> None:
    place.rows.execute("CREATE TABLE old_tasks_retiring (id INTEGER PRIMARY KEY)")
    place.rows.execute("INSERT INTO old_tasks_retiring VALUES (1)")
    done = retire(place.system.store.database, "old_tasks", tmp_path / "kept", drop=True)
    assert (done.rows, done.dropped) == (1, True)


def test_no_table_of_ours_is_taken_for_an_old_one(place: Place, tmp_path: Path) -> None:
    code, said = place.run(
        cleanup_legacy.main, "--table", "tasks", "--drop", "--history", str(tmp_path / "h.md")
    )
    assert (code, "tasks is a table of this system" in said) == (2, True)
    assert place.rows.count("QUEUED") == 0
    assert place.run(cleanup_legacy.main, "--drop")[0] == 2


def test_a_line_of_the_history_is_one_row_of_its_table(tmp_path: Path) -> None:
    page = tmp_path / "h.md"
    history.add(page, what="a | b", outcome="two\nlines", evidence="x")
    assert page.read_text().splitlines()[-1].endswith("| a \\| b | two lines | x |")
