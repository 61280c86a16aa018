"""A worker's life file: a lock that says it lives, and the page that says what it holds.

The kernel frees the lock when the last process that holds it is gone, by whatever death; the page stays. So
another process of the host can prove the death, and bring what the dead one held to its end.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import secrets
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from workers.page import PAGE_BYTES, Page

HOST = socket.gethostname()[:50]
SUFFIX = ".life"


def new_worker_id(mark: str | None = None) -> str:
    """Unique over hosts, processes and restarts: `host:pid:random`."""
    return worker_id_of(os.getpid(), mark or secrets.token_hex(4))


def worker_id_of(pid: int, mark: str) -> str:
    return f"{HOST}:{pid}:{mark}"


class LifeFile:
    """Held by the worker itself, from before its first claim until after its last."""

    def __init__(self, folder: Path, worker_id: str, *, supervisor: int = 0) -> None:
        """`supervisor`: pid of the parent that says what this process dies of; 0: nobody does."""
        folder.mkdir(parents=True, exist_ok=True)
        self._path = life_path(folder, worker_id)
        unborn = self._path.with_suffix(".new")
        self._file = unborn.open("w+b")
        # not sparse: on a full disk the first write to a hole would kill the process in mid-task
        self._file.truncate(PAGE_BYTES)
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(self._file.fileno(), 0, PAGE_BYTES)
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self.page = Page(mmap.mmap(self._file.fileno(), PAGE_BYTES))
        self.page.open_for(worker_id, supervisor=supervisor)
        unborn.rename(self._path)  # nobody ever finds it free, or half written

    def fileno(self) -> int:
        return self._file.fileno()

    def release(self) -> None:
        """Remove the file; only for a worker that holds no claim any more."""
        self._path.unlink(missing_ok=True)
        self.page.close()
        self._file.close()


def deaths(folder: Path, worker_ids: Iterable[str]) -> set[str]:
    """Those of the workers whose life file is here and free."""
    return {worker_id for worker_id in worker_ids if _is_free(life_path(folder, worker_id))}


def life_files(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*{SUFFIX}"))


@contextmanager
def held_if_dead(path: Path) -> Iterator[bool]:
    """True inside, with the lock held against others, if the file is there and its worker is dead."""
    try:
        file = path.open("r+b")
    except OSError:
        yield False
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield os.fstat(file.fileno()).st_nlink > 0  # else somebody was first and has removed it


def life_path(folder: Path, worker_id: str) -> Path:
    return folder / (worker_id.replace("/", "_") + SUFFIX)


def kernel_stat(pid: int) -> list[str]:
    """What the kernel says of a process (proc(5), `stat`), from its state on; empty: there is none such."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _is_free(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return True
    except OSError:  # no such file here, or the lock is held
        return False
