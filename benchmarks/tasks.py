"""The measured task as a handler: TASK_MODULES of the workers under measurement names this module."""

from __future__ import annotations

from typing import Any

from app.tasks.handlers import task
from benchmarks.stamps import stamp

NAME = "bench.noop"


@task(NAME)
def noop(payload: dict[str, Any]) -> None:
    """The same as the peers' task."""
    stamp()
