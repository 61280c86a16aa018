"""A handler whose first line is its own witness: it notes the moment of its start for another process."""

from __future__ import annotations

import os
import struct
import time
from pathlib import Path

from pydantic import BaseModel

from app.tasks.handlers import task

# which sample, and the nanoseconds of CLOCK_MONOTONIC, which all processes of a machine share
RECORD = struct.Struct("=qq")


class StampPayload(BaseModel):
    number: int
    path: Path


@task("bench.stamp", payload=StampPayload)
def stamp(payload: StampPayload) -> None:
    """Append the moment of the start to a file."""
    started_ns = time.monotonic_ns()
    descriptor = os.open(payload.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, RECORD.pack(payload.number, started_ns))
    finally:
        os.close(descriptor)
