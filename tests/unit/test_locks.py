"""What is locked is what `pyproject.toml` allows: a lock that lags behind shows at the next install only."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("lock", "extra"), [("requirements.lock", "dev"), ("requirements-prefect.lock", "prefect")]
)
def test_every_requirement_is_locked_within_its_bounds(lock: str, extra: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"][extra]]
    pinned = dict(re.findall(r"^([\w.-]+)(?:\[[\w,-]+\])?==(\S+)", (ROOT / lock).read_text(), re.MULTILINE))
    outside = [
        wanted.name
        for wanted in map(Requirement, asked)
        if not wanted.specifier.contains(pinned.get(canonicalize_name(wanted.name), "0"))
    ]
    assert outside == []
