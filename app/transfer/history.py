"""The migration history: a page with one line for each procedure and clean-up, made when it is missing."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

DEFAULT = Path("docs/deployment/migration_history.md")
_HEAD = """# Migration history

One line per migration, rollback and clean-up, oldest first, written by the commands that do them.

| when (UTC) | what | outcome | evidence |
|---|---|---|---|
"""


def add(page: Path, *, what: str, outcome: str, evidence: str) -> str:
    """Add a line and bring it to the disk; returns it. Raises `OSError`."""
    page.parent.mkdir(parents=True, exist_ok=True)
    cells = (f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}", what, outcome, evidence)
    line = f"| {' | '.join(map(_cell, cells))} |"
    with page.open("a", encoding="utf-8") as lines:
        if not lines.tell():
            lines.write(_HEAD)
        lines.write(f"{line}\n")
        lines.flush()
        os.fsync(lines.fileno())
    return line


def _cell(words: str) -> str:
    return " ".join(words.replace("|", "\\|").split())
