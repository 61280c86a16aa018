"""New code for a running pool: its parent becomes the new program and keeps its children, which are then
replaced one after another."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from workers.slots import Slot

CHECK_SECONDS = 60.0
ADOPT = "--adopt"
HEARD = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Adopted:
    """A child of the program that this process was before."""

    name: str
    pid: int
    worker_id: str
    starts: int


class Replacing:
    """Replaces the workers of these slots one after another, so that the others go on."""

    def __init__(self, slots: Sequence[Slot], patience_seconds: float) -> None:
        """A worker whose task takes longer than `patience_seconds` does not hold up those after it."""
        self._waiting = [(slot, slot.pid) for slot in slots]
        self._patience_seconds = patience_seconds
        self._asked_at: float | None = None
        self._sweeper_too = bool(slots)

    @property
    def state(self) -> str:
        return "replacing" if self._waiting else "running"

    def step(self) -> bool:
        """One look. True once: all workers are new, and the sweeper may be replaced."""
        if not self._waiting:
            last, self._sweeper_too = self._sweeper_too, False
            return last
        slot, old = self._waiting[0]
        now = time.monotonic()
        if slot.pid == old and self._asked_at is None:
            slot.ask_to_leave("new code")
            self._asked_at = now
        elif self._is_over(slot, old) or now - (self._asked_at or now) > self._patience_seconds:
            del self._waiting[0]
            self._asked_at = None
        return False

    def _is_over(self, slot: Slot, old: int | None) -> bool:
        return slot.pid != old and (slot.one_time or slot.watch is not None)


def new_code_works() -> bool:
    """Load settings and handlers and prepare the database as the new program would, beside this one."""
    try:
        check = subprocess.run(
            [sys.executable, "-m", "workers", "check"], timeout=CHECK_SECONDS, capture_output=True, text=True
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        log.error("pool.reload_refused", reason=type(error).__name__)
        return False
    if check.returncode != 0:
        lines = (check.stderr or check.stdout).strip().splitlines()
        log.error("pool.reload_refused", reason=lines[-1] if lines else f"exit code {check.returncode}")
    return check.returncode == 0


def become_new_program(slots: Sequence[Slot]) -> None:
    """Does not return: the process goes on with the same number, children and arguments."""
    living = [Adopted(slot.name, slot.pid, slot.worker_id, slot.starts) for slot in slots if slot.pid]
    text = json.dumps([[one.name, one.pid, one.worker_id, one.starts] for one in living])
    arguments = sys.argv[1:]
    if ADOPT in arguments:
        place = arguments.index(ADOPT)
        del arguments[place : place + 2]
    signal.pthread_sigmask(signal.SIG_BLOCK, HEARD)  # what comes meanwhile is heard by the new program
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-m", "workers", *arguments, ADOPT, text])


def adopted_from(text: str | None) -> list[Adopted]:
    """What `become_new_program` handed over."""
    return [Adopted(*one) for one in json.loads(text)] if text else []


def has_terminal() -> bool:
    """True while this process has a terminal that is still there."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True
