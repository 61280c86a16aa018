"""A ticket in RQ's own format, and the guards that keep a stock worker from running anything else.

RQ imports whatever function, callback or webhook a job hash names. So our serializer refuses a call of any
function outside the closed list, both when writing and when loading, and `TicketJob` ignores callbacks,
webhooks and dependencies. The stock command line needs both: `--serializer` and `--job-class`.

The bytes are one version byte and msgpack: 0x01 for a call, 0x02 for a value (a result). Neither is a zlib
header, so RQ reads the bytes uncompressed.
"""

from __future__ import annotations

import re
import zlib
from base64 import b64encode
from typing import Any

import msgpack
from rq.job import Job

from app.tasks.ids import MAX_ID
from app.tasks.model import Status

RUN_TICKET = "app.jobs.run_ticket"
CLOSED_LIST = frozenset({RUN_TICKET})
CALL = b"\x01"
VALUE = b"\x02"
CALL_PARTS = 4  # function, instance, args, kwargs: what RQ unpacks

# `[RUN_TICKET, None, [` as msgpack writes it: what every call begins with
_CALL_HEAD: bytes = CALL + b"\x94" + msgpack.packb(RUN_TICKET) + b"\xc0\x92"
_FOUR_BYTES, _ONE_BYTE = 2**32 - 1, 128

_JOB_ID = re.compile(r"t([0-9]{1,19})-e([0-9]{1,10})\Z")
_MAX_EPOCH = 2**31 - 1


class UnsafeTicket(ValueError):
    """Bytes that are no ticket: another serializer, an unknown version, or a function that may not run."""


def parse_job_id(job_id: str | bytes) -> tuple[int, int] | None:
    """(task id, epoch) of one of our job ids; None for any other id."""
    text = job_id.decode("ascii", "replace") if isinstance(job_id, bytes) else job_id
    match = _JOB_ID.match(text)
    if match is None:
        return None
    task_id, epoch = int(match[1]), int(match[2])
    # a number that no column holds would be an error of the driver, for the tickets beside it too
    return (task_id, epoch) if task_id <= MAX_ID and epoch <= _MAX_EPOCH else None


def pack_call(task_id: int, epoch: int) -> bytes:
    """The `data` field of a ticket's job hash."""
    if task_id > _FOUR_BYTES and 0 <= epoch < _ONE_BYTE:
        # nearly all of them: the bytes that msgpack would write, in half the time
        return b"%b\xcf%b%c\x80" % (_CALL_HEAD, task_id.to_bytes(8, "big"), epoch)
    numbers: bytes = msgpack.packb(task_id) + msgpack.packb(epoch)
    return _CALL_HEAD + numbers + b"\x80"


def ticket_result(task_id: int, status: Status) -> dict[str, Any]:
    """What a ticket's job returns: a note. The task's own result is in its row."""
    return {"task": task_id, "status": status.value}


def ticket_failure(task_id: int, status: Status, error: str) -> str:
    """Why a ticket's job failed, in a sentence for RQ's tools; `status` is the row's new one."""
    return f"task {task_id} is {status} now: {error}" if error else f"task {task_id} is {status} now"


def pack_result(value: Any) -> bytes:
    """A return value as RQ keeps it in a result."""
    return b64encode(VALUE + msgpack.packb(value))


def pack_error(text: str) -> bytes:
    """An error's text as RQ keeps it in a result."""
    return b64encode(zlib.compress(text.encode("utf-8", "replace")))


class TicketSerializer:
    """RQ's serializer interface over the two kinds of bytes."""

    @staticmethod
    def dumps(value: Any) -> bytes:
        is_call = isinstance(value, tuple) and len(value) == CALL_PARTS
        _check(value) if is_call else _check_value(value)
        packed: bytes = msgpack.packb(value)
        return (CALL if is_call else VALUE) + packed

    @staticmethod
    def loads(data: bytes) -> Any:
        kind, body = data[:1], data[1:]
        if kind not in (CALL, VALUE):
            raise UnsafeTicket("not written by this serializer: refused unread")
        try:
            value = msgpack.unpackb(body)
        except (ValueError, msgpack.UnpackException, RecursionError) as error:
            raise UnsafeTicket(f"broken ticket: {type(error).__name__}") from None
        _check(value) if kind == CALL else _check_value(value)
        return value


def _check(call: Any) -> None:
    if not isinstance(call, list | tuple) or len(call) != CALL_PARTS:
        raise UnsafeTicket("a call has four parts: function, instance, args, kwargs")
    function, instance, _, keywords = call
    if not isinstance(function, str) or function not in CLOSED_LIST:
        raise UnsafeTicket(f"function {str(function)[:80]!r} is not in the closed list")
    if instance is not None or keywords:
        raise UnsafeTicket("a ticket has neither instance nor keyword arguments")


def _check_value(value: Any) -> None:
    # RQ unpacks four parts of whatever `data` holds; a value of four parts could pose as a call.
    if isinstance(value, list | tuple | dict | str | bytes) and len(value) == CALL_PARTS:
        raise UnsafeTicket("a value of four parts could be taken for a call")


class TicketJob(Job):
    """RQ's job without what a job hash could smuggle in."""

    def restore(self, raw_data: Any) -> Any:
        super().restore(raw_data)
        self._success_callback_name = None
        self._failure_callback_name = None
        self._stopped_callback_name = None
        self.webhooks = []
        self._dependency_ids = []
        self.retries_left = None
        self.repeats_left = None
