"""The commands of `make` on which people rely: each is there, is listed, and runs something."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TARGETS = (
    *("run", "test", "check", "bench", "setup-dev", "setup-staging", "setup-prod", "list-config"),
    *("start-workers", "run-distributed", "run-flow", "deploy-flows", "prefect-server", "prefect-setup"),
)


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("target", TARGETS)
def test_003_13_a_target_says_what_it_would_run(target: str) -> None:
    told = make("--dry-run", "--old-file=.venv/.complete", "--old-file=.venv-prefect/.complete", target)
    assert told.returncode == 0, told.stderr
    assert told.stdout.strip()


def test_003_13_a_bare_make_lists_every_target_with_a_sentence() -> None:
    lines = make().stdout.splitlines()
    told = {line.split()[1]: line.split()[2:] for line in lines if line.startswith("make ")}
    assert set(TARGETS) <= set(told)
    assert all(len(words) > 1 for words in told.values())
