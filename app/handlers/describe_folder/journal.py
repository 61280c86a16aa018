"""The JSON lines that a run writes, and what an earlier run left in the same file.

A line is written when its picture is done and pushed to the system at once, so that a run can be
stopped at any moment. A line cut off by a kill is ignored when it is read again.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Write = Callable[[str], None]


class OutputUnusable(Exception):
    """The output file cannot be written; the message is for the person who named it."""


@dataclass(slots=True)
class Journal:
    """`described` are the paths that have an alt text; `failures` counts recorded failures per path."""

    write: Write
    described: set[str] = field(default_factory=set)
    failures: Counter[str] = field(default_factory=Counter)

    def record_description(self, path: str, task_id: str, *, alt_text: str, engine: str) -> None:
        self.described.add(path)
        self._record({"path": path, "alt_text": alt_text, "engine": engine, "task_id": task_id})

    def record_failure(self, path: str, task_id: str | None, *, error: str) -> None:
        self.failures[path] += 1
        self._record({"path": path, "error": error, "task_id": task_id})

    def _record(self, line: Mapping[str, Any]) -> None:
        self.write(json.dumps(line, ensure_ascii=False) + "\n")

    def learn(self, text: str) -> None:
        """Take over what an earlier run's line says; a line that is not one of ours says nothing."""
        try:
            line = json.loads(text)
        except ValueError:
            return
        path = line.get("path") if isinstance(line, dict) else None
        if not isinstance(path, str):
            return
        if "alt_text" in line:
            self.described.add(path)
        elif "error" in line:
            self.failures[path] += 1


@contextmanager
def journal_in(file: Path) -> Iterator[Journal]:
    """The journal of a file, which nobody else may write meanwhile. Raises `OutputUnusable`."""
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise OutputUnusable(f"{file} cannot be written: {error.strerror}.") from None
    with os.fdopen(descriptor, "rb+", buffering=0) as output:
        try:
            fcntl.flock(output, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise OutputUnusable(f"Another run is writing to {file}.") from None
        text = output.read().decode(errors="replace")
        journal = Journal(lambda line: _append(output.fileno(), line))
        for line in text.splitlines():
            journal.learn(line)
        if text and not text.endswith("\n"):
            journal.write("\n")
        yield journal


def _append(descriptor: int, line: str) -> None:
    data = line.encode()
    while data:
        data = data[os.write(descriptor, data) :]
