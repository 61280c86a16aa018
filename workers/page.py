"""A worker's page: shared memory that says what the worker holds, what it runs and what has come out.

The worker writes it without a system call, a microsecond or two per task. The pool's parent reads it to
enforce limits, the keeper to renew leases and to bury the dead. It outlives the worker, not the machine.

Every word has 8 bytes, is aligned, and has one writer at a time, so it is read whole. The order of the
writes carries the meaning: a task counts as started before its first instruction, and as ended after its
outcome lies in the arena.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import UUID

from app.tasks.model import Cancelled, Claim, Completed, Failed, Outcome, RetryLater, Track, Waits
from workers.causes import Cause, CauseOfDeath

MAX_BATCH = 500
MAX_BESIDE = 1024
NAME_BYTES = 128
WORDS = 32
_NAME = WORDS * 8
_IDS = _NAME + NAME_BYTES
_BESIDE = _IDS + MAX_BATCH * 8
_ARENA = (_BESIDE + MAX_BESIDE * 16 + 4095) // 4096 * 4096
ARENA_BYTES = 2 * 2**20
ARENA_RESERVE_BYTES = ARENA_BYTES // 2 + 4096  # the largest result fits after whatever came before
PAGE_BYTES = _ARENA + ARENA_BYTES
LAYOUT = 0x7477696E0002

_RECORD = struct.Struct("=hhid")  # index in the batch, kind, bytes of text that follow, seconds of delay

# Places of the words. Who the worker is; its batch; the task in work and signs of life; what others write.
_LAYOUT, _BOOT_HIGH, _BOOT_LOW, _SUPERVISOR, _PID = range(5)
_TOKEN, _TRACK, _COUNT, _LIMIT, _STARTED, _ENDED, _USED, _BEGAN = range(5, 13)
_SINCE, _SECONDS, _BEAT = range(13, 16)
_RENEWED_TOKEN, _RENEWED_UNTIL, _KILL_TOKEN, _KILL_INDEX, _KILL_AT, _CAUSE, _CAUSE_NUMBER = range(16, 23)

_TRACKS = (Track.REDIS, Track.DATABASE)
_KINDS: dict[type[Any], int] = {Completed: 1, Failed: 2, RetryLater: 3, Cancelled: 4, Waits: 5}

RECORD_KINDS = frozenset(_KINDS.values())


@dataclass(frozen=True, slots=True)
class Running:
    """The task in work. Times are on the boot clock, in seconds."""

    token: int
    index: int
    task_id: int
    since: float
    limit_seconds: float


@dataclass(frozen=True, slots=True)
class Record:
    """An outcome as the arena holds it."""

    kind: int
    text: str
    delay_seconds: float

    @classmethod
    def of(cls, outcome: Outcome) -> Record:
        match outcome:
            case Completed(result=text):
                return cls(1, text, 0.0)
            case RetryLater(error=text, delay_seconds=delay):
                return cls(3, text, delay)
            case Failed(error=text) | Cancelled(error=text):
                return cls(_KINDS[type(outcome)], text, 0.0)
            case Waits():
                return cls(5, "", 0.0)
            case _:
                raise TypeError("a released claim has no outcome to write down")

    def outcome(self, claim: Claim) -> Outcome:
        match self.kind:
            case 1:
                return Completed(claim, self.text)
            case 2:
                return Failed(claim, self.text)
            case 3:
                return RetryLater(claim, self.text, self.delay_seconds)
            case 5:
                return Waits(claim)
            case _:
                return Cancelled(claim, self.text)


@dataclass(frozen=True, slots=True)
class Holding:
    """A batch as the page names it: the tasks by their place, how many were started, and where it was cut."""

    token: int
    track: Track
    task_ids: tuple[int, ...]
    started: int
    limit: int
    began: float


class Page:
    """One page over a buffer that processes share."""

    def __init__(self, buffer: mmap.mmap) -> None:
        self._buffer = buffer
        self._view = memoryview(buffer)
        self._words = self._view[:_NAME].cast("q")
        self._times = self._view[:_NAME].cast("d")
        self._ids = self._view[_IDS:_BESIDE].cast("q")
        self._beside = self._view[_BESIDE : _BESIDE + MAX_BESIDE * 16].cast("q")

    @classmethod
    def anonymous(cls) -> Page:
        """A page that only this process sees."""
        page = cls(mmap.mmap(-1, PAGE_BYTES))
        page.open_for("nobody", supervisor=0)
        return page

    @classmethod
    def of_file(cls, path: Path) -> Page | None:
        """The page in a file; None if there is none that we understand."""
        try:
            with path.open("r+b") as file:
                if os.fstat(file.fileno()).st_size != PAGE_BYTES:
                    return None
                page = cls(mmap.mmap(file.fileno(), PAGE_BYTES))
        except OSError:
            return None
        if page._words[_LAYOUT] != LAYOUT:
            page.close()
            return None
        return page

    def close(self) -> None:
        for view in (self._words, self._times, self._ids, self._beside, self._view):
            view.release()
        self._buffer.close()

    # --- the worker's ---------------------------------------------------------------------------------

    def open_for(self, worker_id: str, *, supervisor: int) -> None:
        """Write who it is, before anybody else can find the page.

        `supervisor`: the pid of the parent that will say what this worker died of, or 0.
        """
        name = worker_id.encode()[:NAME_BYTES]
        self._buffer[_NAME : _NAME + len(name)] = name
        self._words[_BOOT_HIGH], self._words[_BOOT_LOW] = BOOT
        self._words[_SUPERVISOR], self._words[_PID] = supervisor, os.getpid()
        self._words[_LAYOUT] = LAYOUT

    def begin(self, claims: Sequence[Claim], now: float) -> None:
        """Publish a new batch, nothing of it started. The last one is settled."""
        words = self._words
        words[_COUNT] = 0
        words[_STARTED] = words[_ENDED] = words[_USED] = 0
        count = len(claims)
        if count == 0:
            return
        for place, claim in enumerate(claims):
            self._ids[place] = claim.task_id
        words[_TOKEN] = claims[0].token
        words[_TRACK] = _TRACKS.index(claims[0].track)
        self._times[_BEGAN] = now
        words[_LIMIT] = count
        words[_COUNT] = count

    def start(self, index: int, now: float, limit_seconds: float) -> bool:
        """Publish that the task at `index` starts; false if the batch was cut before it: it must not start.

        Published first, looked at the limit second: who cuts does it the other way round.
        """
        words, times = self._words, self._times
        times[_SINCE] = now
        times[_SECONDS] = limit_seconds
        words[_STARTED] = index + 1
        if index < words[_LIMIT]:
            return True
        words[_STARTED] = index
        return False

    def add(self, outcome: Outcome) -> bool:
        """Write down the running task's outcome. False: the arena is full, settle before the next start."""
        words = self._words
        record = Record.of(outcome)
        data = record.text.encode("utf-8", "replace")
        used, started = words[_USED], words[_STARTED]
        end = used + _RECORD.size + len(data)
        if end > ARENA_BYTES:
            self.end()
            return False
        at = _ARENA + used
        _RECORD.pack_into(self._buffer, at, started - 1, record.kind, len(data), record.delay_seconds)
        self._buffer[at + _RECORD.size : _ARENA + end] = data
        words[_USED] = end
        words[_ENDED] = started
        return end <= ARENA_BYTES - ARENA_RESERVE_BYTES

    def end(self) -> None:
        """The running task is over, and its end is recorded elsewhere."""
        self._words[_ENDED] = self._words[_STARTED]

    def put_beside(self, place: int, claim: Claim | None) -> None:
        """A claim that runs beside the batches: there before it starts, None once its end is recorded."""
        at = 2 * place
        if claim is None:
            self._beside[at] = 0
        else:
            self._beside[at + 1] = claim.token
            self._beside[at] = claim.task_id

    def beat(self, now: float) -> None:
        """A sign of life of the worker's own heartbeat thread."""
        self._times[_BEAT] = now

    def renewed_until(self, token: int) -> float:
        """Until when the keeper has renewed the leases of `token`; 0 if it has not."""
        until: float = self._times[_RENEWED_UNTIL]
        return until if self._words[_RENEWED_TOKEN] == token else 0.0

    # --- the others' ----------------------------------------------------------------------------------

    @property
    def worker_id(self) -> str:
        return bytes(self._buffer[_NAME : _NAME + NAME_BYTES]).rstrip(b"\0").decode("utf-8", "replace")

    @property
    def of_this_boot(self) -> bool:
        return (self._words[_BOOT_HIGH], self._words[_BOOT_LOW]) == BOOT

    @property
    def supervisor(self) -> int:
        return self._words[_SUPERVISOR]

    @property
    def pid(self) -> int:
        return self._words[_PID]

    @property
    def last_beat(self) -> float:
        return self._times[_BEAT]

    def running(self) -> Running | None:
        """The task in work now; None between tasks."""
        words, times = self._words, self._times
        for _ in range(3):
            token, count, started = words[_TOKEN], words[_COUNT], words[_STARTED]
            if not 0 < started <= count <= MAX_BATCH or words[_ENDED] >= started:
                return None
            found = Running(token, started - 1, self._ids[started - 1], times[_SINCE], times[_SECONDS])
            if (token, count, started) == (words[_TOKEN], words[_COUNT], words[_STARTED]):
                return found
        return None

    def holding(self) -> Holding | None:
        """The batch in hand; None if there is none, or if it changed while it was read."""
        words = self._words
        token, count = words[_TOKEN], words[_COUNT]
        if not 0 < count <= MAX_BATCH:
            return None
        track = _TRACKS[words[_TRACK] % len(_TRACKS)]
        started, limit = words[_STARTED], words[_LIMIT]
        ids, began = tuple(self._ids[:count]), self._times[_BEGAN]
        if (token, count) != (words[_TOKEN], words[_COUNT]) or not 0 <= started <= count:
            return None
        return Holding(token, track, ids, started, min(limit, count), began)

    def beside(self) -> set[tuple[int, int]]:
        """(task id, token) of what runs beside the batches, or has run and is not recorded."""
        words = self._beside.tolist()
        return {pair for pair in zip(words[::2], words[1::2], strict=True) if pair[0]}

    def records(self) -> dict[int, Record]:
        """The outcomes in a dead worker's arena, by the task's place in the batch."""
        found = {}
        at, end = _ARENA, _ARENA + min(max(0, self._words[_USED]), ARENA_BYTES)
        while at + _RECORD.size <= end:
            index, kind, size, delay = _RECORD.unpack_from(self._buffer, at)
            at += _RECORD.size
            if not (0 <= index < MAX_BATCH and kind in RECORD_KINDS and 0 <= size <= end - at):
                break
            found[index] = Record(kind, self._buffer[at : at + size].decode("utf-8", "replace"), delay)
            at += size
        return found

    def cut(self, pause: Callable[[], object] = lambda: None) -> Holding | None:
        """Have the worker start nothing more of its batch. Returns the batch with what had been started.

        From outside `pause` waits a few milliseconds, so that a start that was published meanwhile is seen.
        """
        before = self.holding()
        if before is None:
            return None
        self._words[_LIMIT] = 0
        pause()
        after = self.holding()
        if after is None or after.token != before.token:
            return None  # another batch began meanwhile: if the cut hit it, its worker gives it back itself
        return replace(after, limit=before.limit)

    def renewed(self, token: int, until: float) -> None:
        """The keeper's: the leases of `token` are good until then."""
        self._words[_RENEWED_TOKEN] = 0
        self._times[_RENEWED_UNTIL] = until
        self._words[_RENEWED_TOKEN] = token

    def ask_to_kill(self, running: Running, at: float) -> None:
        """A cancel that may not be heeded: have the parent kill the worker if this task still runs then."""
        if self.kill_at(running) is None:
            self._words[_KILL_TOKEN] = 0
            self._words[_KILL_INDEX], self._times[_KILL_AT] = running.index, at
            self._words[_KILL_TOKEN] = running.token

    def kill_at(self, running: Running) -> float | None:
        """When this task's worker is to be killed for a cancel; None: it is not asked for."""
        words = self._words
        if (words[_KILL_TOKEN], words[_KILL_INDEX]) != (running.token, running.index):
            return None
        at: float = self._times[_KILL_AT]
        return at

    @property
    def cause(self) -> CauseOfDeath | None:
        try:
            return CauseOfDeath(Cause(self._words[_CAUSE]), self._words[_CAUSE_NUMBER])
        except ValueError:
            return None

    def set_cause(self, cause: CauseOfDeath) -> None:
        """The parent's: what this worker died of, or is about to be killed for. The first one stands."""
        if not self._words[_CAUSE]:
            self._words[_CAUSE_NUMBER] = cause.number
            self._words[_CAUSE] = cause.kind.value


def _boot_id() -> tuple[int, int]:
    try:
        number = UUID(Path("/proc/sys/kernel/random/boot_id").read_text().strip()).int
    except (OSError, ValueError):
        return 0, 0
    return number >> 65, number & (2**63 - 1)


BOOT = _boot_id()
