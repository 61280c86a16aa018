"""What Redis holds, read for the proof: queues as they stand, envelopes, what workers have in hand.

Reads only, with commands and a script of its own. Raises `Unread` where it could not look, and nothing of
the driver.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
import redis

from app.transfer.digests import ticket_digest
from app.transfer.verification.faults import Fault

QUEUES = ("urgent", "high", "normal", "low")  # by rank
SLICE_IDS = 100_000
ENVELOPES_AT_ONCE = 1_000
FIELDS = 4

_JOB_ID = re.compile(rb"t(0|[1-9][0-9]{0,18})-e(0|[1-9][0-9]{0,9})\Z")
_FUNCTION = "app.jobs.run_ticket"
# a call's bytes up to its arguments: the version byte, then msgpack without the two empty parts
_CALL = b"\x01" + msgpack.packb([_FUNCTION, None, [], {}])[:-2]
_SCRIPT = (Path(__file__).parent / "envelopes.lua").read_text()


class Unread(Exception):
    """Redis could not be read, or moved faster than it could be."""


class Reference(NamedTuple):
    """What the id of a ticket says."""

    task_id: int
    epoch: int


class Envelope(NamedTuple):
    """The hash of a ticket, as bytes; None for what is not there."""

    data: bytes | None
    origin: bytes | None
    timeout: bytes | None
    pushed_at: bytes | None


class Seen(NamedTuple):
    """A ticket in a queue: where, and what is wrong with it by itself."""

    rank: int
    epoch: int
    timeout: str
    faults: tuple[Fault, ...]


@dataclass(slots=True)
class TicketTable:
    """The tickets of one queue whose envelopes are in order: some twenty bytes each, so a window of them is
    small. What is not in order is among the suspects at once."""

    ids: array[int] = field(default_factory=lambda: array("q"))
    digests: array[int] = field(default_factory=lambda: array("Q"))
    count: int = 0  # with those beyond a window's start, which are not kept

    def sort(self) -> None:
        """By id, so that a walk over the rows can meet them."""
        if any(a > b for a, b in zip(self.ids, self.ids[1:], strict=False)):
            order = sorted(range(len(self.ids)), key=self.ids.__getitem__)
            self.ids = array("q", (self.ids[n] for n in order))
            self.digests = array("Q", (self.digests[n] for n in order))


def reference_of(job_id: bytes) -> Reference | None:
    """What one of our ids says; None for any other entry."""
    match = _JOB_ID.match(job_id)
    if match is None:
        return None
    reference = Reference(int(match[1]), int(match[2]))
    return reference if reference.task_id < 2**63 else None


def envelope_faults(reference: Reference, envelope: Envelope, queue: bytes) -> tuple[Fault, ...]:
    """What is wrong with a ticket whatever its row says."""
    if envelope.data is None:
        return (Fault.HOLLOW_TICKET,)
    found = []
    right = _CALL + msgpack.packb(list(reference)) + b"\x80"
    if envelope.data != right:
        found.append(_wrong_call(envelope.data))
    if envelope.origin != queue:
        found.append(Fault.WRONG_QUEUE)
    return tuple(found)


def _wrong_call(data: bytes) -> Fault:
    if data[:1] != b"\x01":
        return Fault.WRONG_SERIALIZER
    try:
        call = msgpack.unpackb(data[1:])
    except (ValueError, msgpack.UnpackException):
        return Fault.WRONG_SERIALIZER
    if not isinstance(call, list) or len(call) != FIELDS or call[:2] != [_FUNCTION, None]:
        return Fault.WRONG_FUNCTION
    return Fault.WRONG_ARGUMENTS


class TicketReader:
    """The queues of one Redis, by their names with `prefix`."""

    def __init__(self, client: redis.Redis, *, prefix: str = "", slice_ids: int = SLICE_IDS) -> None:
        self._client = client
        self._prefix = prefix
        self._slice = slice_ids
        self._names = [f"{prefix}{queue}".encode() for queue in QUEUES]
        self._envelopes = client.register_script(_SCRIPT)

    def name(self, rank: int) -> bytes:
        return self._names[rank]

    def key(self, rank: int) -> bytes:
        return b"rq:queue:" + self._names[rank]

    def entries(self, rank: int) -> Iterator[list[bytes]]:
        """The queue's list in its order. A slice is read at one moment; the next one goes on behind the last
        entry of the one before, wherever that stands by then."""
        start, last, more = 0, None, True
        while more:
            start, entries, more = self._slice_of(rank, start, last)
            if entries:
                yield entries
                start, last = start + len(entries), entries[-1]

    def _slice_of(self, rank: int, start: int, last: bytes | None) -> tuple[int, list[bytes], bool]:
        """What follows `last`, which stood before `start`; where that is now; whether there may be more."""
        if last is None:
            found = self._range(rank, start, self._slice)
            return start, found, len(found) == self._slice
        found = self._range(rank, start - 1, self._slice + 1)
        if found and found[0] == last:
            return start, found[1:], len(found) > self._slice
        # meanwhile workers have taken tickets from the head, or given some back: what was read last has moved
        first = max(0, start - self._slice)
        wide = start - first + self._slice
        found = self._range(rank, first, wide)
        if last not in found:
            name = self._names[rank].decode()
            raise Unread(f"the queue {name} moved faster than it could be read")
        behind = found.index(last) + 1
        return first + behind, found[behind:], len(found) == wide

    def _range(self, rank: int, first: int, count: int) -> list[bytes]:
        with _reading():
            entries: Any = self._client.lrange(self.key(rank).decode(), first, first + count - 1)
        return list(entries)

    def envelopes(self, job_ids: Sequence[bytes]) -> list[Envelope]:
        """The hashes of these tickets, in their order."""
        read: list[Envelope] = []
        for start in range(0, len(job_ids), ENVELOPES_AT_ONCE):
            with _reading():
                flat = self._envelopes(args=[b"rq:job:", *job_ids[start : start + ENVELOPES_AT_ONCE]])
            parts = iter(flat)
            read += map(Envelope._make, zip(parts, parts, parts, parts, strict=True))
        return read

    def standing(self, wanted: Collection[bytes]) -> dict[bytes, list[int]]:
        """Where these entries stand: the rank of the queue, once for each time."""
        found: dict[bytes, list[int]] = {}
        for rank in range(len(QUEUES)):
            for entries in self.entries(rank):
                for entry in entries:
                    if entry in wanted:
                        found.setdefault(entry, []).append(rank)
        return found

    def tickets_of(self, wanted: Collection[int]) -> dict[int, list[Seen]]:
        """The tickets of these tasks that stand in the queues, of whatever epoch."""
        found: list[tuple[int, bytes, Reference]] = []
        for rank in range(len(QUEUES)):
            for entries in self.entries(rank):
                references = ((entry, reference_of(entry)) for entry in entries)
                found += [(rank, entry, ref) for entry, ref in references if ref and ref.task_id in wanted]
        seen: dict[int, list[Seen]] = {}
        envelopes = self.envelopes([entry for _, entry, _ in found])
        for (rank, _, reference), envelope in zip(found, envelopes, strict=True):
            faults = envelope_faults(reference, envelope, self._names[rank])
            timeout = (envelope.timeout or b"").decode("ascii", "replace")
            seen.setdefault(reference.task_id, []).append(Seen(rank, reference.epoch, timeout, faults))
        return seen

    def window_starts(self) -> dict[int, int]:
        """By rank: the task id from which on rows may wait without a ticket. Only where there is one."""
        starts = {}
        with _reading():
            for rank, queue in enumerate(QUEUES):
                fields: Any = self._client.hmget(f"twintrack:{self._prefix}overflow:{queue}", "from", "low")
                known = [value for value in fields if value]
                if not all(value.isdigit() for value in known):
                    raise Unread(f"the mark of the window of {queue} is no number")
                if known:
                    starts[rank] = min(map(int, known))
        return starts

    def in_hand(self, worker_ids: Sequence[str]) -> set[int]:
        """Tasks whose tickets workers have taken and not ended: in flight with ours, or on their way to a
        stock worker."""
        keys = [f"twintrack:{self._prefix}inflight:{worker}" for worker in worker_ids]
        keys += [f"{self.key(rank).decode()}:intermediate" for rank in range(len(QUEUES))]
        with _reading():
            pipeline = self._client.pipeline(transaction=False)
            for key in keys:
                pipeline.lrange(key, 0, -1)
            lists = pipeline.execute()
        references = (reference_of(entry) for entries in lists for entry in entries)
        return {reference.task_id for reference in references if reference}


def digest_of(reference: Reference, rank: int, envelope: Envelope) -> int:
    timeout = (envelope.timeout or b"").decode("ascii", "replace")
    return ticket_digest(reference.task_id, reference.epoch, rank, timeout)


@contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except redis.RedisError as error:
        raise Unread(f"Redis could not be read: {type(error).__name__}") from error
