"""Becomes the embedded Redis server: run as a program by `app.embedded_redis`, never imported.

Usage: OWNER_PID FOLDER SOCKET PROGRAM ARGUMENT…

A program of its own, and not code between fork and exec, because its starter may have threads.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1


def main(owner: int, folder: Path, socket: Path, command: list[str]) -> None:
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != owner:
        sys.exit("the owner ended before its server started")
    # The server inherits this lock and holds it as long as it lives, so two never share the folder.
    lock = os.open(folder / "server.lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    os.set_inheritable(lock, True)
    socket.unlink(missing_ok=True)
    (folder / "owner").write_text(str(owner))
    os.execv(command[0], command)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
