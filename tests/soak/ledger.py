"""The ledger: the file in which handlers say when they start and end, and that no table can contradict.

A line: `S` or `E`, task id, attempt, process id, time on the boot clock.
"""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from app.tasks.runner import boot_clock
from tests.soak.points import ENVIRONMENT

NAME = "ledger"


def write(word: str, task_id: int, attempt: int) -> None:
    """Append a line to the ledger of the installation that this process belongs to."""
    line = f"{word} {task_id} {attempt} {os.getpid()} {boot_clock():.6f}\n"
    path = os.path.join(os.environ[ENVIRONMENT], NAME)
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, line.encode())  # one write: with O_APPEND, lines of several processes never mix
    finally:
        os.close(file)


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the ledger."""

    word: str
    task_id: int
    attempt: int
    pid: int
    at: float


class Ledger:
    """The file that the handlers append to, read on from where the last look ended."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        self._read = 0
        self.of_task: dict[int, list[Line]] = defaultdict(list)

    def look(self) -> list[Line]:
        """The lines that are new."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._read)
            data = file.read()
        data = data[: data.rfind(b"\n") + 1]
        self._read += len(data)
        new = [_line(row) for row in data.decode().splitlines()]
        for line in new:
            self.of_task[line.task_id].append(line)
        return new


def _line(row: str) -> Line:
    word, task_id, attempt, pid, at = row.split()
    return Line(word, int(task_id), int(attempt), int(pid), float(at))
