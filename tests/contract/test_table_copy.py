"""Copies of tables between databases of different kinds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.distributed import DatabaseManager
from app.distributed.table_copy import CopyFailed, Digest, copy_table, table_names
from config import Config
from tests.contract.conftest import KINDS
from tests.contract.rows import Rows

TABLE = "copied_kinds"
COLUMNS = "id INTEGER PRIMARY KEY, amount NUMERIC(20, 4), ratio DOUBLE PRECISION, at TIMESTAMP, words TEXT"
VALUES: list[dict[str, Any]] = [
    {"id": 1, "amount": "1234567890123456.7891", "ratio": 0.1, "at": "2026-03-29 01:59:59.123456"},
    {"id": 2, "amount": "-0.5000", "ratio": 1e-300, "at": "1999-12-31 23:59:59.000000"},
    {"id": 3, "amount": None, "ratio": None, "at": None},
]
WORDS = {1: "é😀 line\nbreak", 2: "x" * 70_000, 3: None}


@pytest.fixture
def manager(rows: Rows, tmp_path: Path) -> Iterator[DatabaseManager]:
    """The database `there`, and two of SQLite before and behind it."""
    urls = {"THERE": rows.url}
    urls |= {name: f"sqlite:///{tmp_path / name}.db" for name in ("FIRST", "LAST")}
    variables = {f"{name}_CONNECTION_STRING": url for name, url in urls.items()}
    found = DatabaseManager(Config.for_tests(variables, DATABASE_URL=rows.url))
    found.execute_query("first", f"CREATE TABLE {TABLE} ({COLUMNS.replace('NUMERIC(20, 4)', 'VARCHAR(30)')})")
    insertion = f"INSERT INTO {TABLE} VALUES (:id, :amount, :ratio, :at, :words)"
    found.execute_query("first", insertion, [row | {"words": WORDS[row["id"]]} for row in VALUES])
    yield found
    found.execute_query("there", f"DROP TABLE IF EXISTS {TABLE}")
    found.close()


def copy(manager: DatabaseManager, source: str, target: str) -> Digest:
    config = manager.config
    ends = [DatabaseManager(name, config=config) for name in (source, target)]
    try:
        return copy_table(ends[0], ends[1], TABLE, dict)
    finally:
        for end in ends:
            end.close()


def test_a_table_comes_back_from_each_database_as_it_went(manager: DatabaseManager) -> None:
    there = copy(manager, "first", "there")
    back = copy(manager, "there", "last")
    assert there == back
    assert there.rows == 3
    query = f"SELECT * FROM {TABLE} ORDER BY id"
    assert manager.execute_query("last", query) == manager.execute_query("first", query)
    assert copy(manager, "first", "there") == there, "it was not the same a second time"
    assert manager.execute_query("there", f"SELECT COUNT(*) FROM {TABLE}") == [(3,)]


def test_numbers_are_decimals_in_a_table_that_has_them(manager: DatabaseManager) -> None:
    manager.execute_query("there", f"DROP TABLE IF EXISTS {TABLE}")
    manager.execute_query("there", f"CREATE TABLE {TABLE} (id INTEGER PRIMARY KEY, amount NUMERIC(14, 4))")
    values: list[dict[str, Any]] = [{"id": 1, "amount": "1234567890.1234"}, {"id": 2, "amount": None}]
    manager.execute_query("there", f"INSERT INTO {TABLE} VALUES (:id, :amount)", values)
    assert copy(manager, "there", "last").rows == 2
    assert manager.execute_query("last", f"SELECT amount FROM {TABLE} ORDER BY id")[0] == ("1234567890.1234",)
    assert TABLE in table_names(manager)


@pytest.mark.parametrize("rows", KINDS[1:], indirect=True)
def test_a_checksum_tells_of_the_last_of_many_digits(manager: DatabaseManager) -> None:
    columns = "id INTEGER PRIMARY KEY, amount NUMERIC(38, 4)"
    manager.execute_query("there", f"CREATE TABLE {TABLE} ({columns})")
    digits = "1234567890123456789012345678901234.123"
    manager.execute_query("there", f"INSERT INTO {TABLE} VALUES (1, {digits}1)")
    first = copy(manager, "there", "last")
    manager.execute_query("there", f"UPDATE {TABLE} SET amount = {digits}2")
    assert copy(manager, "there", "last") != first


@pytest.mark.parametrize("rows", ["postgresql"], indirect=True)
@pytest.mark.postgresql
def test_a_moment_with_a_zone_comes_in_utc_and_a_negative_zero_as_zero(manager: DatabaseManager) -> None:
    columns = "id INTEGER PRIMARY KEY, at TIMESTAMP WITH TIME ZONE, ratio DOUBLE PRECISION"
    manager.execute_query("there", f"CREATE TABLE {TABLE} ({columns})")
    row = {"id": 1, "at": "2026-03-29 01:59:59.5+02", "ratio": -0.0}
    manager.execute_query("there", f"INSERT INTO {TABLE} VALUES (:id, :at, :ratio)", row)
    assert copy(manager, "there", "last").rows == 1
    assert manager.execute_query("last", f"SELECT * FROM {TABLE}") == [(1, "2026-03-28 23:59:59.500000", 0.0)]


@pytest.mark.parametrize("rows", ["mariadb"], indirect=True)
@pytest.mark.mariadb
def test_a_number_beyond_those_of_the_target_is_a_failed_copy(manager: DatabaseManager) -> None:
    manager.execute_query("there", f"CREATE TABLE {TABLE} (id INTEGER PRIMARY KEY, n BIGINT UNSIGNED)")
    manager.execute_query("there", f"INSERT INTO {TABLE} VALUES (1, 18446744073709551615)")
    with pytest.raises(CopyFailed, match=f"{TABLE}: .*too large"):
        copy(manager, "there", "last")
