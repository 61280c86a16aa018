"""Who runs a transfer: a name that a later process of the same host can prove to be dead."""

from __future__ import annotations

import os
import socket
from pathlib import Path

HOST = socket.gethostname()[:50]


def this_process() -> str:
    """`host:pid:birth`; the birth is the kernel's, so that a new process under an old number is another."""
    return f"{HOST}:{os.getpid()}:{_birth(os.getpid()) or 'unknown'}"


def is_dead(holder: str) -> bool:
    """True if the holder was a process of this host and is gone. False also when nobody can tell."""
    return _runs(holder) is False


def is_alive(holder: str) -> bool:
    """True if the holder is a process of this host that still runs. False also when nobody can tell."""
    return _runs(holder) is True


def _runs(holder: str) -> bool | None:
    """None: nobody can tell."""
    rest, _, birth = holder.rpartition(":")
    host, _, pid = rest.rpartition(":")
    if host != HOST or birth == "unknown" or not pid.isdigit():
        return None
    return _birth(int(pid)) == birth


def _birth(pid: int) -> str | None:
    """When the process was started, in ticks since the boot (proc(5), `stat`); None for a dead one."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if words[0] in "ZX" else words[19]
