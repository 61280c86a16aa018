"""Workers of another system, by the process ids that they have recorded, never by a name."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from app.transfer.errors import NotPossible

LOOK_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Stopped:
    """`found`: the process that each file names, None where it is gone; `running`: those that still are."""

    found: Mapping[Path, int | None]
    running: list[int]


def stop(
    pid_files: Sequence[Path],
    *,
    limit_seconds: float,
    kill: bool = False,
    dry_run: bool = False,
    waiting: Callable[[int], None] = lambda left: None,
) -> Stopped:
    """SIGTERM, and with `kill` SIGKILL for those that live when the time is over.

    A number that now belongs to another program is left alone. Raises `NotPossible`.
    """
    found = {path: recorded(path) for path in pid_files}
    living = [process for process in found.values() if process is not None]
    if not dry_run:
        _signal(living, signal.SIGTERM)
        if not _ended(living, limit_seconds, waiting) and kill:
            _signal(living, signal.SIGKILL)
            _ended(living, limit_seconds, waiting)
    named = {path: process.pid if process else None for path, process in found.items()}
    return Stopped(named, [process.pid for process in living if _runs(process)])


def recorded(path: Path) -> psutil.Process | None:
    """The process that the file names, if it is still the same one: it must have been there when the file was
    written. Raises `NotPossible` for a file that names none."""
    try:
        pid, written_at = int(path.read_text().strip()), path.stat().st_mtime
    except (OSError, ValueError):
        raise NotPossible(f"{path} names no process") from None
    if pid <= 1 or pid == os.getpid():
        raise NotPossible(f"{path} names {pid}, which is no worker")
    try:
        process = psutil.Process(pid)
        is_younger = process.create_time() > written_at + 1
    except psutil.NoSuchProcess:
        return None
    return None if is_younger or _is_zombie(process) else process


def _signal(processes: Sequence[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        try:
            process.send_signal(number)  # psutil makes sure that the number was not given away meanwhile
        except psutil.NoSuchProcess:
            continue
        except psutil.AccessDenied:
            raise NotPossible(f"process {process.pid} belongs to somebody else") from None


def _ended(processes: Sequence[psutil.Process], limit_seconds: float, waiting: Callable[[int], None]) -> bool:
    until = time.monotonic() + limit_seconds
    while True:
        left = sum(map(_runs, processes))
        waiting(left)
        if not left or time.monotonic() >= until:
            return not left
        time.sleep(LOOK_SECONDS)


def _runs(process: psutil.Process) -> bool:
    return process.is_running() and not _is_zombie(process)


def _is_zombie(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
