"""`python -m workers check`: tries what a start needs, and changes nothing under what runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from app.system import build_system
from app.tasks.model import PRIORITIES
from config import ROOT, Config


def check(**settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "workers", "check"],
        cwd=ROOT,
        env={"PATH": os.defpath} | settings,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_check_leaves_the_routing_of_what_runs_as_it_is(tmp_path: Path) -> None:
    settings = {"DATABASE_URL": f"sqlite:///{tmp_path}/tasks.db", "VAR_DIR": str(tmp_path)}
    running = build_system(Config.for_tests(**settings, RQ_ENABLED=False))
    running.prepare()
    done = check(**settings, RQ_ENABLED="true", RQ_REDIS_URL="redis://127.0.0.1:1/0")

    assert (done.returncode, done.stdout) == (0, "A pool can start.\n"), done.stderr
    rules = running.store.routing.refresh()
    running.close()
    assert [rules[priority].redis_percent for priority in PRIORITIES] == [0, 0, 0, 0]


def test_a_check_makes_the_tables_that_are_missing_and_says_why_it_cannot(tmp_path: Path) -> None:
    made = check(DATABASE_URL=f"sqlite:///{tmp_path}/new.db", VAR_DIR=str(tmp_path), RQ_ENABLED="false")
    assert (made.returncode, made.stdout) == (0, "A pool can start.\n"), made.stderr
    assert (tmp_path / "new.db").stat().st_size > 0

    nowhere = check(
        DATABASE_URL=f"sqlite:///{tmp_path}/no/folder/x.db", VAR_DIR=str(tmp_path), RQ_ENABLED="false"
    )
    assert nowhere.returncode == 2
    assert "The workers cannot start: " in nowhere.stderr
    assert "Traceback" not in nowhere.stderr
