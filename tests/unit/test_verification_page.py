"""docs/verification.md: every figure comes from docs/verification.json."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.proof.report import FIGURES, PAGE, filled, is_proven


@pytest.fixture
def figures() -> dict[str, Any]:
    read: dict[str, Any] = json.loads(FIGURES.read_text())
    return read


def test_the_figures_of_the_page_are_those_of_the_file(figures: dict[str, Any]) -> None:
    assert filled(PAGE.read_text(), figures) == PAGE.read_text()


def test_the_figures_are_of_a_run_that_named_what_was_planted_and_nothing_else(
    figures: dict[str, Any],
) -> None:
    assert is_proven(figures)
    assert not figures["commit"].endswith("-dirty")


@pytest.mark.parametrize("broken", [{"found": 999}, {"invented": 1}, {"load": {"runs_with_findings": 1}}])
def test_a_fault_that_was_missed_or_invented_is_on_the_page(
    figures: dict[str, Any], broken: dict[str, Any]
) -> None:
    changed = figures | broken | {"load": figures["load"] | broken.get("load", {})}

    assert "**Not proven.**" in filled(PAGE.read_text(), changed)
    assert "**Not proven.**" not in PAGE.read_text()
