"""Runs of handlers with isolation="fork": each in a process of its own, forked from a clean one.

A worker has threads and connections by the time it runs tasks, so it does not fork itself: a server that it
starts before it has either does. The run's process gets the claim, answers through shared memory, and ends.
Its death costs one failure of its own task. Server and runs die with the worker, and hold its proof of life.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import select
import signal
import socket
import struct
import sys
from collections.abc import Callable
from typing import NoReturn, cast

import structlog

from app.system import System
from app.tasks.handlers import Isolation
from app.tasks.model import Cancelled, Claim, Outcome, Priority, Track
from app.tasks.runner import LiveTask, Runner, boot_clock
from app.tasks.store import Store
from workers.causes import Cause, CauseOfDeath
from workers.dying import die_with_parent
from workers.enforcement import Limits, memory_mb
from workers.page import RECORD_KINDS, Record
from workers.time_limit import TimeLimit

LOOK_SECONDS = 0.05
STEP_BYTES = 1024
TEXT_BYTES = 2 * 2**20  # twice the largest result
_FRAME = struct.Struct("=i")
_STEP = 64
_TEXT = _STEP + STEP_BYTES
# Places of the words: the run writes all but the first.
_CANCEL, _REPORTS, _PERCENT, _STEP_SIZE, _KIND, _TEXT_SIZE, _DELAY = range(7)

log = structlog.get_logger(__name__)


class Sheet:
    """Memory that a worker and its runs share: a cancel one way, progress and the outcome the other."""

    def __init__(self) -> None:
        self._buffer = mmap.mmap(-1, _TEXT + TEXT_BYTES)
        view = memoryview(self._buffer)
        self._words = view[:_STEP].cast("q")
        self._times = view[:_STEP].cast("d")
        self._seen = 0

    def clear(self) -> None:
        for place in range(7):
            self._words[place] = 0
        self._seen = 0

    # the run's

    @property
    def cancel_asked(self) -> bool:
        return bool(self._words[_CANCEL])

    def report(self, percent: int | None, step: str | None) -> None:
        if percent is not None:
            self._words[_PERCENT] = max(0, min(100, int(percent))) + 1
        if step is not None:
            data = str(step).encode("utf-8", "replace")[:STEP_BYTES]
            self._words[_STEP_SIZE] = 0
            self._buffer[_STEP : _STEP + len(data)] = data
            self._words[_STEP_SIZE] = len(data)
        self._words[_REPORTS] += 1

    def answer(self, outcome: Outcome) -> None:
        record = Record.of(outcome)
        data = record.text.encode("utf-8", "replace")
        self._buffer[_TEXT : _TEXT + len(data)] = data
        self._words[_TEXT_SIZE], self._times[_DELAY] = len(data), record.delay_seconds
        self._words[_KIND] = record.kind

    # the worker's

    def ask_to_cancel(self) -> None:
        self._words[_CANCEL] = 1

    def progress(self) -> tuple[int | None, str | None] | None:
        """What was reported since the last look; None if nothing was."""
        reports = self._words[_REPORTS]
        if reports == self._seen:
            return None
        self._seen = reports
        percent, size = self._words[_PERCENT], self._words[_STEP_SIZE]
        step = self._buffer[_STEP : _STEP + size].decode("utf-8", "ignore") if size else None
        return (percent - 1 if percent else None), step

    def outcome(self, claim: Claim) -> Outcome | None:
        kind, size = self._words[_KIND], self._words[_TEXT_SIZE]
        if kind not in RECORD_KINDS:
            return None
        text = self._buffer[_TEXT : _TEXT + size].decode("utf-8", "replace")
        return Record(kind, text, self._times[_DELAY]).outcome(claim)


class ForkServer:
    """The worker's side. Make it before the worker has threads or connections."""

    def __init__(self, system: System) -> None:
        self._limits = Limits.of(system.config)
        self._runner = Runner(system.store, system.handlers, system.settings)
        self._sheet = Sheet()
        self._socket, theirs = socket.socketpair()
        self.broken = False
        sys.stdout.flush()
        sys.stderr.flush()
        worker = os.getpid()
        if os.fork() == 0:
            self._socket.close()
            _serve(worker, theirs, system, self._sheet)
        theirs.close()

    @classmethod
    def if_needed(cls, system: System) -> ForkServer | None:
        """A server if some handler asks for one."""
        asks = any(handler.isolation is Isolation.FORK for handler in system.handlers.values())
        return cls(system) if asks else None

    def run(self, live: LiveTask) -> Outcome:
        """Run one task in a process of its own, and hold it to its limits."""
        self._sheet.clear()
        request = json.dumps(live.claim).encode()
        pid = 0
        try:
            self._socket.sendall(_FRAME.pack(len(request)) + _FRAME.pack(live.limit_seconds) + request)
            (pid,) = _FRAME.unpack(_read(self._socket, _FRAME.size))
            killed_for = self._watch(live, pid)
            (status,) = _FRAME.unpack(_read(self._socket, _FRAME.size))
        except OSError:
            self.broken = True
            log.error("fork_server.broken", task=live.claim.task_id)
            return self._runner.lost(live.claim, "its process was killed")
        self._carry(live)
        _kill_group(pid)  # what the run has left behind
        outcome = self._sheet.outcome(live.claim)
        if outcome is not None and killed_for is None:
            return outcome
        return self._lost(live, killed_for or CauseOfDeath.of_exit(os.waitstatus_to_exitcode(status)))

    def _lost(self, live: LiveTask, cause: CauseOfDeath) -> Outcome:
        sentence = cause.sentence("its process")
        log.warning("run.lost", task=live.claim.task_id, name=live.claim.name, reason=sentence)
        if cause.kind is Cause.CANCEL:
            return Cancelled(live.claim, f"cancelled; it {sentence}")
        return self._runner.lost(live.claim, sentence)

    def _watch(self, live: LiveTask, pid: int) -> CauseOfDeath | None:
        """Until the run has ended: carry what it says and is told, and kill it if it must be. Returns why."""
        killed_for: CauseOfDeath | None = None
        cancelled_at: float | None = None
        while not select.select([self._socket], [], [], LOOK_SECONDS)[0]:
            self._carry(live)
            now = boot_clock()
            if live.cancel_requested() and cancelled_at is None:
                cancelled_at = now
                self._sheet.ask_to_cancel()
            if killed_for is None:
                killed_for = self._reason_to_kill(live, pid, now, cancelled_at)
                if killed_for is not None:
                    _kill_group(pid)
        return killed_for

    def _reason_to_kill(
        self, live: LiveTask, pid: int, now: float, cancelled_at: float | None
    ) -> CauseOfDeath | None:
        grace = self._limits.kill_grace_seconds
        if cancelled_at is not None and now >= cancelled_at + grace:
            return CauseOfDeath(Cause.CANCEL)
        if now >= live.started + live.limit_seconds + grace:
            return CauseOfDeath(Cause.TIME_LIMIT, live.limit_seconds)
        hard = self._limits.hard_memory_mb
        if hard and memory_mb(pid) > hard:
            return CauseOfDeath(Cause.MEMORY, hard)
        return None

    def _carry(self, live: LiveTask) -> None:
        progress = self._sheet.progress()
        if progress is not None:
            live.report_progress(*progress)


class _ForkedTask(LiveTask):
    """The claim in its own process: all it says and hears goes over the sheet."""

    def __init__(self, claim: Claim, sheet: Sheet, limit_seconds: int) -> None:
        super().__init__(claim, cast(Store, None), lease_ends=0, limit_seconds=limit_seconds)
        self._sheet = sheet

    def report_progress(self, percent: int | None, step: str | None) -> None:
        self._sheet.report(percent, step)

    def cancel_requested(self) -> bool:
        self.cancel_asked = self._sheet.cancel_asked
        return self.cancel_asked

    def connection(self) -> NoReturn:
        raise RuntimeError("a handler with isolation='fork' has no part in its task's transaction")


def _serve(worker: int, requests: socket.socket, system: System, sheet: Sheet) -> NoReturn:
    """The server's process: fork, wait, tell. It ends with the worker."""
    with contextlib.suppress(BaseException):
        die_with_parent(worker)
        for number in (signal.SIGTERM, signal.SIGALRM, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        while True:
            size, limit_seconds = struct.unpack("=ii", _read(requests, 8))
            claim = _claim_of(_read(requests, size))
            pid = _fork_run(lambda c=claim, s=limit_seconds: _run(system, sheet, c, s), requests)  # type: ignore[misc]
            requests.sendall(_FRAME.pack(pid))
            _, status = os.waitpid(pid, 0)
            requests.sendall(_FRAME.pack(status))
    os._exit(0)


def _fork_run(work: Callable[[], None], requests: socket.socket) -> int:
    server = os.getpid()
    pid = os.fork()
    if pid:
        with contextlib.suppress(OSError):  # it may have done so, or have ended
            os.setpgid(pid, pid)
        return pid
    code = 1
    try:
        requests.close()
        with contextlib.suppress(OSError):
            os.setpgid(0, 0)
        die_with_parent(server)
        work()
        code = 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _run(system: System, sheet: Sheet, claim: Claim, limit_seconds: int) -> None:
    """The run's process."""
    time_limit = TimeLimit()
    signal.signal(signal.SIGALRM, time_limit.over)
    signal.setitimer(signal.ITIMER_REAL, limit_seconds, LOOK_SECONDS)
    runner = Runner(system.store, system.handlers, system.settings, time_limit=time_limit)
    outcome = runner.execute(_ForkedTask(claim, sheet, limit_seconds))
    signal.setitimer(signal.ITIMER_REAL, 0)
    sheet.answer(outcome)


def _claim_of(text: bytes) -> Claim:
    claim = Claim(*json.loads(text))
    return claim._replace(priority=Priority(claim.priority), track=Track(claim.track))


def _read(source: socket.socket, size: int) -> bytes:
    """Exactly `size` bytes. Raises `ConnectionError` at the end of the stream."""
    parts = bytearray()
    while len(parts) < size:
        part = source.recv(size - len(parts))
        if not part:
            raise ConnectionError("the other side has ended")
        parts += part
    return bytes(parts)


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
