"""Business logic for `benchmarks.records`: nothing, and a short wait as a call over the network has one."""

from __future__ import annotations

import time
from typing import Any

from app.distributed import business_logic

WAIT_SECONDS = 0.005


@business_logic("nothing")
def nothing(payload: Any) -> None:
    """What is measured is all the rest."""


@business_logic("waiting")
def waiting(payload: Any) -> None:
    """The processes of a machine wait beside each other."""
    time.sleep(WAIT_SECONDS)
