"""docs/soak.md: every figure comes from docs/soak.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.soak.chapters import CHAPTERS
from tests.soak.points import NAMES
from tests.soak.report import FIGURES, PAGE, joined, page, publish, verdict


def test_the_page_is_what_the_figures_say() -> None:
    assert page(json.loads(FIGURES.read_text())) == PAGE.read_text()


def test_the_figures_are_of_a_run_that_hit_every_named_step_and_broke_no_promise() -> None:
    figures = json.loads(FIGURES.read_text())
    kills = next(chapter for chapter in figures["chapters"] if chapter["name"] == "kills")
    assert {line["name"] for line in kills["lines"] if line["hits"]} == set(NAMES)
    assert figures["ok"]


def run(*, ok: bool = True, chapter: str = "kills", **found: int) -> dict[str, Any]:
    line = {"name": "run.first", "ours": True, "seconds": {}, "rounds": 2, "hits": 2, "tasks": 80}
    line |= dict.fromkeys(("lost", "doubled", "wrong", "late"), 0) | found
    said = {"name": chapter, "title": chapter, "lines": [line], "problems": [], "notes": []}
    of_run = {"at": "now", "commit": "0f1e2d3c4b5a", "machine": "two cores", "options": {}, "seconds": 1}
    return of_run | {"ok": ok, "chapters": [said]}


def test_the_page_names_the_commit_of_each_run_or_that_it_was_not_recorded() -> None:
    unknown = run()
    del unknown["commit"]
    assert "now, commit 0f1e2d3c4b5a, two cores" in page(joined([run()]))
    assert "cannot be held to any state of the code" not in page(joined([run()]))
    of_both = page(joined([run(), unknown]))
    assert "now, commit not recorded, two cores" in of_both
    assert "cannot be held to any state of the code" in of_both


def test_the_verdict_says_what_was_judged() -> None:
    assert verdict(joined([run(), run()])) == (
        "Of 160 tasks in 4 rounds: 0 lost, 0 doubled, 0 wrong, 0 late."
        " That was judged; how long it took is shown, and was not."
    )


@pytest.mark.parametrize("found", [{"ok": False}, {"lost": 1}, {"doubled": 1}, {"wrong": 1}, {"late": 1}])
def test_a_broken_promise_is_in_the_verdict(found: dict[str, Any]) -> None:
    assert verdict(joined([run(), run(**found)])).startswith("**Promises were broken")


def test_what_a_peer_loses_is_no_promise_of_ours() -> None:
    peer = run(lost=4)
    peer["chapters"][0]["lines"][0]["ours"] = False
    assert verdict(joined([run(), peer])).startswith("Of 80 tasks in 2 rounds: 0 lost")


def test_a_run_of_one_chapter_leaves_the_figures_of_the_others(tmp_path: Path) -> None:
    files = {"figures": tmp_path / "soak.json", "text": tmp_path / "soak.md"}
    publish([run(tasks=1), run(chapter="tree", tasks=2)], **files)
    publish([run(chapter="tree", tasks=3)], **files)
    chapters = json.loads(files["figures"].read_text())["chapters"]
    assert [(each["name"], each["lines"][0]["tasks"]) for each in chapters] == [("kills", 1), ("tree", 3)]
    assert files["text"].read_text().startswith("# Soak")


def test_the_page_names_what_no_run_is_written_down_of() -> None:
    said = page(joined([run()]))
    assert "- `transfer`: SIGKILL" in said
    assert "- `kills`:" not in said
    assert "written down here" not in page(joined([run(chapter=name) for name in CHAPTERS]))
