"""Who a worker is, and the proof that it is dead: a lock file held by its process while it lives."""

from __future__ import annotations

import fcntl
import os
import secrets
import socket
from collections.abc import Iterable
from pathlib import Path

HOST = socket.gethostname()[:50]


def new_worker_id() -> str:
    """Unique over hosts, processes and restarts: `host:pid:random`."""
    return f"{HOST}:{os.getpid()}:{secrets.token_hex(4)}"


class LifeLock:
    """An exclusive lock on a file named after the worker. The kernel frees it when the last process that
    inherited it is gone, by whatever death."""

    def __init__(self, folder: Path, worker_id: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = _path(folder, worker_id)
        self._file = self._path.open("w")
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def release(self) -> None:
        """Remove the file; only for a worker that holds no claim any more."""
        self._path.unlink(missing_ok=True)
        self._file.close()


def dead_holders(folder: Path, holders: Iterable[str]) -> list[str]:
    """Those of the workers whose lock file is here and free: they are dead, on this host."""
    return [holder for holder in holders if _is_dead(_path(folder, holder))]


def sweep_locks(folder: Path, *, keep: Iterable[str]) -> None:
    """Remove the free lock files of workers that hold nothing any more."""
    kept = {_path(folder, holder) for holder in keep}
    for path in folder.glob("*.lock"):
        if path not in kept and _is_dead(path):
            path.unlink(missing_ok=True)


def _path(folder: Path, worker_id: str) -> Path:
    return folder / (worker_id.replace("/", "_") + ".lock")


def _is_dead(path: Path) -> bool:
    try:
        with path.open("r") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return True
    except OSError:  # no such file here, or the lock is held
        return False
