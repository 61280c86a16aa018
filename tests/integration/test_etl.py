"""The ETL in one process: what it copies, what it makes of failures, its commands. A test of a feature row
begins with its number. The oracle reads the SQLite files itself."""

from __future__ import annotations

import os
import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from app.distributed import ChildrenFailed
from app.distributed.deployments import Deployment, Deployments, NoSuchDeployment
from app.system import build_system
from app.tasks.errors import UnknownTaskName
from config import Config
from flows import etl
from flows.etl.__main__ import main
from flows.etl.deployed import DEPLOYMENTS
from flows.etl.sample import make_sample
from tests.prepared import put_tables

ROWS = 1100  # more than are written at a time
TABLES = [f"shop_{number:02d}" for number in range(1, 4)]


class Shop:
    """A sample source and an empty target."""

    def __init__(self, folder: Path, **variables: str) -> None:
        self.config = Config.for_tests(variables, VAR_DIR=folder)
        self.source, self.target = (folder / "etl" / f"{name}.db" for name in ("etl_source", "etl_target"))
        with etl.place_of(self.config) as place:
            make_sample(place.source, tables=len(TABLES), rows=ROWS)

    def run(self, *tables: str, **options: Any) -> dict[str, Any]:
        return etl.run_here(self.config, tables, pause=never, **options)

    def copied(self, table: str) -> list[tuple[Any, ...]]:
        return ask(self.target, f"SELECT * FROM {table} ORDER BY id")


def never(seconds: float) -> None:
    raise AssertionError("nothing here is worth another try")


def ask(path: Path, sql: str) -> list[tuple[Any, ...]]:
    on = sqlite3.connect(path)
    try:
        rows = on.execute(sql).fetchall()
        on.commit()
        return rows
    finally:
        on.close()


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def test_every_table_is_copied_tidied_and_a_repeated_run_brings_the_same(shop: Shop) -> None:
    first = shop.run()
    assert (list(first["tables"]), first["rows"]) == (TABLES, 3 * ROWS)
    assert first["cleanups"] == {"cleanup_flow1": {"removed": 0}, "cleanup_flow2": {"recorded": 1}}
    for table in TABLES:
        rows = ask(shop.source, f"SELECT * FROM {table} ORDER BY id")
        wanted = [(row[0], row[1].strip(), f"{row[2]:g}", row[3], row[4] or None) for row in rows]
        found = [(row[0], row[1], f"{float(row[2]):g}", *row[3:]) for row in shop.copied(table)]
        assert found == wanted
    assert shop.run() == first
    assert len(shop.copied(TABLES[0])) == ROWS
    assert ask(shop.target, "SELECT table_count, row_count FROM etl_runs") == [(3, 3 * ROWS)] * 2


def test_a_checksum_tells_of_one_changed_value(shop: Shop) -> None:
    before = shop.run()["tables"]
    ask(shop.source, "UPDATE shop_02 SET note = 'lost' WHERE id = 1500")
    after = shop.run()["tables"]
    assert [name for name in TABLES if before[name] != after[name]] == ["shop_02"]


def test_what_the_target_gives_back_differently_is_rolled_back_and_named(shop: Shop) -> None:
    shop.run("shop_01")
    before = shop.copied("shop_01")
    wrong = "BEGIN UPDATE shop_01 SET note = 'changed' WHERE id = new.id; END"
    ask(shop.target, f"CREATE TRIGGER meddles AFTER INSERT ON shop_01 WHEN new.id = 7 {wrong}")
    ask(shop.source, "UPDATE shop_01 SET customer = 'another'")
    with pytest.raises(ChildrenFailed, match=r"shop_01: what the target gives back .* checksum differs"):
        etl.run_here(shop.config, ["shop_01"], pause=lambda seconds: None)
    assert shop.copied("shop_01") == before


def test_rows_that_the_target_drops_are_counted(shop: Shop) -> None:
    shop.run("shop_01")
    ask(
        shop.target,
        "CREATE TRIGGER drops BEFORE INSERT ON shop_01 WHEN new.id = 7 BEGIN SELECT RAISE(IGNORE); END",
    )
    with pytest.raises(ChildrenFailed, match=f"{ROWS} rows were written, and the target has {ROWS - 1}"):
        etl.run_here(shop.config, ["shop_01"], pause=lambda seconds: None)


def test_003_05_a_failing_table_is_named_after_the_others_were_copied(shop: Shop) -> None:
    with pytest.raises(ChildrenFailed) as failed:
        shop.run("shop_01", "nowhere", "shop_03")
    assert str(failed.value) == "1 of its children did not complete: nowhere: the source has no table nowhere"
    assert len(shop.copied("shop_01")) == len(shop.copied("shop_03")) == ROWS
    assert ask(shop.target, "SELECT name FROM sqlite_master WHERE name = 'etl_runs'") == []


def test_003_17_a_table_is_tried_three_times_ten_seconds_apart(shop: Shop) -> None:
    ask(shop.target, "CREATE TABLE shop_01 (id INTEGER)")
    waited: list[float] = []

    def repaired(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 2:
            ask(shop.target, "DROP TABLE shop_01")

    assert etl.run_here(shop.config, ["shop_01"], pause=repaired)["rows"] == ROWS
    ask(shop.target, "ALTER TABLE shop_01 DROP COLUMN note")
    with pytest.raises(ChildrenFailed, match=r"shop_01: .*note"):
        etl.run_here(shop.config, ["shop_01"], pause=waited.append)
    assert waited == [10.0] * 4


def test_without_pyarrow_a_run_with_parquet_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = Shop(tmp_path, ETL_PARQUET_FOLDER=str(tmp_path / "files"))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ChildrenFailed, match=r"needs pyarrow.*pip install 'twintrack\[parquet\]'"):
        shop.run("shop_01")
    assert ask(shop.target, "SELECT COUNT(*) FROM shop_01") == [(0,)]


def test_with_pyarrow_each_table_is_a_file_too(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    folder = tmp_path / "files"
    shop = Shop(tmp_path, ETL_PARQUET_FOLDER=str(folder))
    assert shop.run("shop_01")["rows"] == ROWS
    assert [path.name for path in folder.iterdir()] == ["shop_01.parquet"]
    rows = parquet.read_table(folder / "shop_01.parquet").to_pylist()
    assert [row["customer"] for row in rows] == [row[1] for row in shop.copied("shop_01")]


def test_only_what_was_left_half_written_long_ago_is_removed(tmp_path: Path) -> None:
    old, fresh = tmp_path / "a.parquet.1.part", tmp_path / "b.parquet.2.part"
    for path in (old, fresh, tmp_path / "a.parquet"):
        path.touch()
    os.utime(old, (0, 0))
    shop = Shop(tmp_path, ETL_PARQUET_FOLDER=str(tmp_path))
    with etl.place_of(shop.config) as place:
        assert etl.remove_leftovers(place) == {"removed": 1}
    assert not old.exists()
    assert fresh.exists()


def test_003_12_deployments_are_listed_and_started_by_name(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'tasks.db'}"
    put_tables(url)
    modules = ("app.handlers", "flows.etl")
    system = build_system(Config.for_tests(DATABASE_URL=url, RQ_ENABLED=False, TASK_MODULES=modules))
    system.prepare()
    found = Deployments(system)
    assert found.all() == []
    found.put(DEPLOYMENTS)
    found.put([Deployment("nightly", "main_etl", {"tables": ["shop_02"]}, "low")])
    assert [one.name for one in found.all()] == sorted([*(one.name for one in DEPLOYMENTS), "nightly"])
    task = system.store.queries.task(found.run("nightly"))
    assert (task.name, task.payload, task.priority.value) == ("main_etl", {"tables": ["shop_02"]}, "low")
    other = system.store.queries.task(found.run("nightly", {"tables": []}))
    assert other.payload == {"tables": []}
    with pytest.raises(NoSuchDeployment, match="'daily'"):
        found.run("daily")
    with pytest.raises(UnknownTaskName):
        found.put([Deployment("wrong", "not.there")])
    system.close()


def test_where_prefect_is_chosen_and_is_not_installed_the_commands_say_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.etl.__main__.PREFECT_VENV", tmp_path)
    monkeypatch.setattr("flows.etl.__main__.find_spec", lambda name: None)
    chosen = {"VAR_DIR": str(tmp_path), "PREFECT_API_URL": "http://127.0.0.1:4200/api"}
    for word in ("deploy", "run"):
        done = CliRunner().invoke(main, [word], env=chosen)
        assert (done.exit_code, "make prefect-setup installs it" in done.output) == (2, True)
    Shop(tmp_path)
    assert CliRunner().invoke(main, ["run", "--here", TABLES[0]], env=chosen).exit_code == 0


def test_the_commands_prepare_a_source_and_say_what_is_missing(tmp_path: Path) -> None:
    settings = {"VAR_DIR": str(tmp_path), "DATABASE_URL": f"sqlite:///{tmp_path / 'tasks.db'}"}
    settings["PREFECT_API_URL"] = ""

    def command(*words: str) -> tuple[int, str]:
        done = CliRunner().invoke(main, list(words), env=settings)
        return done.exit_code, done.output

    assert command("prepare", "--tables", "2") == (0, "The source has 2 tables now.\n")
    assert "2 tables already" in command("prepare")[1]
    code, said = command("run", "--here")
    assert (code, "2 tables with 400 rows were copied and compared." in said) == (0, True)
    code, said = command("run", "--here", "nowhere")
    assert (code, "nowhere: the source has no table nowhere" in said) == (1, True)
    code, said = command("deploy")
    assert (code, "Set TASK_MODULES=app.handlers,flows.etl here and for the workers." in said) == (2, True)
