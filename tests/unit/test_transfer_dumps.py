"""The database's own tool is called with its password kept to itself, and what it complains of is told."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from app.transfer.dumps import DumpFailed, dump

URL = make_url("mysql+pymysql://root:told-to-nobody@127.0.0.1:1/tasks")


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a script in the place of every tool of MariaDB."""
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    def install(script: str) -> None:
        path = tmp_path / "mariadb-dump"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o700)

    return install


def test_what_the_tool_writes_is_kept_compressed(tool: Callable[[str], None], tmp_path: Path) -> None:
    tool("echo CREATE TABLE")

    assert dump(URL, tmp_path / "dump.sql.gz") == "mariadb-dump"

    assert gzip.decompress((tmp_path / "dump.sql.gz").read_bytes()) == b"CREATE TABLE\n"


def test_no_password_is_on_the_command_line(tool: Callable[[str], None], tmp_path: Path) -> None:
    tool('echo "$@"')

    dump(URL, tmp_path / "dump.sql.gz")

    said = gzip.decompress((tmp_path / "dump.sql.gz").read_bytes())
    assert b"--host=127.0.0.1" in said
    assert b"told-to-nobody" not in said


def test_a_tool_that_complains_at_length_has_failed_and_holds_nobody_up(
    tool: Callable[[str], None], tmp_path: Path
) -> None:
    tool("echo first of all >&2; head -c 200000 /dev/zero | tr '\\0' x >&2; echo CREATE TABLE; exit 2")

    with pytest.raises(DumpFailed, match="first of all"):
        dump(URL, tmp_path / "dump.sql.gz")


def test_a_database_without_a_tool_has_no_dump(tmp_path: Path) -> None:
    assert dump(make_url("sqlite:///tasks.db"), tmp_path / "dump.sql.gz") is None
