"""What every measured task does: put the time of its first line into a file, which no queue can contradict.

Every system under measurement runs this same function, so its cost, some microseconds, is on all sides. The
file is named by the working directory of the worker processes. Standard library only: the peers' own Python
environments import it.
"""

from __future__ import annotations

import os
import struct
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FILE_NAME = "stamps"
POLL_SECONDS = 0.002
_STAMP = struct.Struct("=qq")


def stamp() -> None:
    """Append this moment (CLOCK_MONOTONIC, which all processes share) and this process."""
    os.write(_file(), _STAMP.pack(time.monotonic_ns(), os.getpid()))


@cache
def _file() -> int:
    return os.open(FILE_NAME, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)


@dataclass(frozen=True, slots=True)
class Stamps:
    """The stamps of one folder, read while they are written."""

    folder: Path

    def count(self) -> int:
        """How many tasks have begun; one `stat`, so that looking costs the measured nothing."""
        try:
            return (self.folder / FILE_NAME).stat().st_size // _STAMP.size
        except FileNotFoundError:
            return 0

    def since(self, first: int) -> list[tuple[int, int]]:
        """(monotonic nanoseconds, process id) of each stamp from number `first` on."""
        with (self.folder / FILE_NAME).open("rb") as file:
            file.seek(first * _STAMP.size)
            data = file.read()
        return list(_STAMP.iter_unpack(data[: len(data) - len(data) % _STAMP.size]))

    def wait_for(self, count: int, *, deadline_seconds: float) -> None:
        """Until there are `count` stamps. Raises `TimeoutError`."""
        deadline = time.monotonic() + deadline_seconds
        while self.count() < count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.count()} of {count} tasks began within {deadline_seconds:g} s")
            time.sleep(POLL_SECONDS)
