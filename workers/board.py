"""What a pool says about itself to people on its host: one small file, written when something changes.

The file is for looking at. Nothing decides by it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from app.tasks.runner import boot_clock
from workers.life import kernel_stat, life_path
from workers.page import Page
from workers.slots import Slot


@dataclass(frozen=True, slots=True)
class SlotStatus:
    """One place of a pool. `task_id` and `task_seconds`: what it runs now, and for how long."""

    name: str
    worker_id: str
    pid: int | None
    starts: int
    quick_deaths: int
    down: bool
    leaving: str
    last_end: str
    task_id: int | None = None
    task_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class PoolStatus:
    pool: str
    pid: int
    state: str
    slots: list[SlotStatus]


class Board:
    """The parent's side."""

    def __init__(self, folder: Path, pool: str) -> None:
        self._path = folder / f"{os.getpid()}.json"
        self._pool = pool
        self._written = ""

    def show(self, state: str, slots: Sequence[Slot]) -> None:
        """Write the file if it would say something new."""
        status = PoolStatus(self._pool, os.getpid(), state, [_status(slot) for slot in slots])
        text = json.dumps(asdict(status) | {"mark": _birth(os.getpid())})
        if text != self._written:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            fresh = self._path.with_suffix(".new")
            fresh.write_text(text)
            fresh.replace(self._path)
            self._written = text

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)


def pools(folder: Path, life_folder: Path) -> Iterator[PoolStatus]:
    """The pools of this host that live, with what their workers run. Files of dead ones are removed."""
    for path in sorted(folder.glob("*.json")):
        try:
            said = json.loads(path.read_text())
            slots = [_with_task(SlotStatus(**slot), life_folder) for slot in said["slots"]]
            status = PoolStatus(said["pool"], said["pid"], said["state"], slots)
            alive = said["mark"] == _birth(status.pid)
        except (OSError, ValueError, KeyError, TypeError):
            continue  # it was just replaced, or is of another release
        if alive:
            yield status
        else:
            path.unlink(missing_ok=True)


def _status(slot: Slot) -> SlotStatus:
    return SlotStatus(
        slot.name,
        slot.worker_id,
        slot.pid,
        slot.starts,
        slot.failures,
        slot.is_down,
        slot.leaving,
        slot.last_end,
    )


def _with_task(slot: SlotStatus, life_folder: Path) -> SlotStatus:
    page = Page.of_file(life_path(life_folder, slot.worker_id)) if slot.pid else None
    if page is None:
        return slot
    running = page.running()
    page.close()
    if running is None:
        return slot
    seconds = round(boot_clock() - running.since, 1)
    return SlotStatus(**(asdict(slot) | {"task_id": running.task_id, "task_seconds": seconds}))


def _birth(pid: int) -> str:
    """When the process was born, by the kernel: numbers come again. Empty: there is none."""
    return "".join(kernel_stat(pid)[19:20])
