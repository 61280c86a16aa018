"""docs/soak.md: every figure comes from docs/soak.json."""

from __future__ import annotations

import json

from tests.soak.points import NAMES
from tests.soak.report import FIGURES, PAGE, page


def test_the_page_is_what_the_figures_say() -> None:
    assert page(json.loads(FIGURES.read_text())) == PAGE.read_text()


def test_the_figures_are_of_a_run_that_hit_every_named_step_and_broke_no_promise() -> None:
    figures = json.loads(FIGURES.read_text())
    kills = next(chapter for chapter in figures["chapters"] if chapter["name"] == "kills")
    assert {line["name"] for line in kills["lines"] if line["hits"]} == set(NAMES)
    assert figures["ok"]
