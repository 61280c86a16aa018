"""The figures of a fan-out: what they count, and that the page has those that were saved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.speed_up import exceeded, filled, ideal_seconds, limits, most_at_once, speed_ups

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture
def figures() -> dict[str, Any]:
    return {
        "tables": 20,
        "seconds": 0.5,
        "speed_up": {"3": {"queues": [4.0, 3.6, 9.0], "pool": [7.0]}},
        "limits": {"tag": {"at_most": 3, "at_once": [3, 2], "took": [3.5]}},
    }


def test_as_many_run_at_once_as_overlap_and_not_those_that_meet() -> None:
    assert most_at_once([]) == 0
    assert most_at_once([(0, 1), (1, 2), (2, 3)]) == 1
    assert most_at_once([(0, 4), (1, 2), (1.5, 3), (2, 3)]) == 3


def test_the_ideal_is_full_rounds_of_tables() -> None:
    assert [ideal_seconds(20, 0.5, at_once) for at_once in (1, 3, 10)] == [10.0, 3.5, 1.0]


def test_each_number_of_workers_is_a_median_beside_the_ideal(figures: dict[str, Any]) -> None:
    assert list(speed_ups(figures).rows) == [["3", "3.50", "4.00", "88 %", "7.00", "50 %"]]
    assert list(limits(figures).rows) == [["tag, 3 at a time", "3", "3.50", "3.50", "100 %"]]


def test_a_limit_that_one_round_exceeded_is_named(figures: dict[str, Any]) -> None:
    assert exceeded(figures) == []
    figures["limits"]["tag"]["at_once"].append(4)
    assert exceeded(figures) == ["tag"]


def test_003_15_the_page_has_the_figures_that_were_saved_and_they_hold_the_limits() -> None:
    document, saved = DOCS / "fan-out.md", DOCS / "fan-out.json"
    assert filled(document, saved) == document.read_text()
    assert exceeded(json.loads(saved.read_text())) == []
