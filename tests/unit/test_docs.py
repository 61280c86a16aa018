"""What the documents say of the code must be there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

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
