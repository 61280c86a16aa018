"""What processes cost, from /proc: CPU seconds, memory. Linux only, standard library only."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Memory:
    """Megabytes. `pss` shares what several processes use among them, `uss` is what one alone uses."""

    pss: float
    uss: float


def session_of(leader: int) -> list[int]:
    """The living processes of a session, its leader first: a worker and whatever it has started."""
    return sorted(pid for pid in _pids() if _stat(pid, 3) == leader)


def tree_of(root: int) -> list[int]:
    """A process and its living descendants."""
    parents = {pid: _stat(pid, 1) for pid in _pids()}
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time of these processes and of children of theirs that have ended."""
    return sum(sum(_stat(pid, field) for field in (11, 12, 13, 14)) for pid in pids) / _TICKS


def memory(pids: Iterable[int]) -> Memory:
    """Of these processes together."""
    pss = uss = 0
    for pid in pids:
        values = _rollup(pid)
        pss += values.get("Pss", 0)
        uss += values.get("Private_Clean", 0) + values.get("Private_Dirty", 0)
    return Memory(pss / 1024, uss / 1024)


def signal_all(pids: Iterable[int], number: signal.Signals) -> None:
    """Send a signal to those that still live."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def load_average() -> float:
    """Of the last minute."""
    return os.getloadavg()[0]


def _pids() -> list[int]:
    return [int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit()]


def _stat(pid: int, field: int) -> int:
    """A number of /proc/PID/stat, counted from the state (0), which follows the name; 0 once it is gone."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(text.rpartition(")")[2].split()[field])


def _rollup(pid: int) -> dict[str, int]:
    try:
        lines = (_PROC / str(pid) / "smaps_rollup").read_text().splitlines()[1:]
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return {}
    return {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
