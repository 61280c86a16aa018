"""What the documents say of the code must be there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from config import Config

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "ARCHITECTURE.md",
    ROOT / "CONTRIBUTING.md",
    *(ROOT / "docs").rglob("*.md"),
]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_test_that_a_document_names_exists(document: Path) -> None:
    named = set(re.findall(r"`(test_\w+)`", document.read_text()))
    sources = [path.read_text() for path in (ROOT / "tests").rglob("test_*.py")]
    files = {path.stem for path in (ROOT / "tests").rglob("test_*.py")}
    missing = {
        name for name in named if name not in files and not any(f"def {name}(" in text for text in sources)
    }
    assert missing == set()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_that_a_document_links_to_exists(document: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)|src(?:set)?=\"([^\"]+)\"", document.read_text())
    targets = [first or second for first, second in links if not (first or second).startswith("http")]
    assert [target for target in targets if not (document.parent / target).exists()] == []


def test_the_settings_that_change_nothing_are_listed_as_such() -> None:
    folders = ("app", "workers", "flows")
    sources = [*(path for name in folders for path in (ROOT / name).rglob("*.py")), ROOT / "web_app.py"]
    read = set(re.findall(r"\b[A-Z][A-Z_]+\b", "".join(path.read_text() for path in sources)))
    by_config_itself = {"DATABASE_POLLING_ENABLED", "RQ_HYBRID_MODE", "RQ_ROLLOUT_PERCENT"}  # for the mode
    unread = set(Config.model_fields) - read - by_config_itself
    operating = (ROOT / "docs/operating.md").read_text()
    listed = re.search(r"change nothing yet: (.*?)\.\n", operating, re.DOTALL)
    assert listed is not None
    named = set(re.findall(r"`([A-Z_]+)`", listed[1]))
    alerts = {name for name in Config.model_fields if name.startswith("ALERT_")}
    assert unread == named - {"ALERT_"} | alerts - read
