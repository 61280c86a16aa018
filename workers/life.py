"""A worker's life file: a lock that says it lives, and a page of shared memory that says what it runs.

The kernel frees the lock when the last process that holds it is gone, by whatever death; the page stays. So
another process of the host can prove the death, and knows which tasks of the batch had been started: the
others lost nothing.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import secrets
import socket
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

HOST = socket.gethostname()[:50]
MAX_BATCH = 500
_HEAD = struct.Struct("=qq")  # how many task ids follow, how many of them were started
_ID = struct.Struct("=q")
PAGE_BYTES = _HEAD.size + MAX_BATCH * _ID.size


def new_worker_id() -> str:
    """Unique over hosts, processes and restarts: `host:pid:random`."""
    return f"{HOST}:{os.getpid()}:{secrets.token_hex(4)}"


class LifeFile:
    """Held by the worker itself, from before its first claim until after its last."""

    def __init__(self, folder: Path, worker_id: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = _path(folder, worker_id)
        self._file = self._path.open("w+b")
        self._file.truncate(PAGE_BYTES)
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._page = mmap.mmap(self._file.fileno(), PAGE_BYTES)

    def begin(self, task_ids: Sequence[int]) -> None:
        """Publish a new batch, nothing of it started."""
        _HEAD.pack_into(self._page, 0, 0, 0)
        struct.pack_into(f"={len(task_ids)}q", self._page, _HEAD.size, *task_ids)
        _HEAD.pack_into(self._page, 0, len(task_ids), 0)

    def starting(self, index: int) -> None:
        """Publish that the batch's task at `index` is about to start: before its first instruction."""
        _ID.pack_into(self._page, _ID.size, index + 1)

    def release(self) -> None:
        """Remove the file; only for a worker that holds no claim any more."""
        self._path.unlink(missing_ok=True)
        self._page.close()
        self._file.close()


def deaths(folder: Path, worker_ids: Iterable[str]) -> dict[str, frozenset[int] | None]:
    """Those of the workers whose life file is here and free, with the tasks that they had started.

    None for a worker whose page cannot be read. A claim outside the set was won and never started.
    """
    found = ((worker_id, _path(folder, worker_id)) for worker_id in worker_ids)
    return {worker_id: _started(path) for worker_id, path in found if _is_free(path)}


def sweep_files(folder: Path, *, keep: Iterable[str]) -> None:
    """Remove the free life files of workers that hold nothing any more."""
    kept = {_path(folder, worker_id) for worker_id in keep}
    for path in folder.glob("*.life"):
        if path not in kept and _is_free(path):
            path.unlink(missing_ok=True)


def _started(path: Path) -> frozenset[int] | None:
    page = path.read_bytes()
    if len(page) < PAGE_BYTES:
        return None
    count, started = _HEAD.unpack_from(page)
    if not 0 <= started <= count <= MAX_BATCH:
        return None
    return frozenset(struct.unpack_from(f"={started}q", page, _HEAD.size))


def _path(folder: Path, worker_id: str) -> Path:
    return folder / (worker_id.replace("/", "_") + ".life")


def _is_free(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return True
    except OSError:  # no such file here, or the lock is held
        return False
