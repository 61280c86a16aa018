"""Business logic of a flow under test: it writes down, outside of the tables, who processed what."""

from __future__ import annotations

import os
import time
from typing import Any

from app.distributed import business_logic

WORK_SECONDS = 0.004


@business_logic("ledger")
def written_down(payload: dict[str, Any]) -> dict[str, Any]:
    """One line per start: the record and the process."""
    ledger = os.open(os.environ["RECORD_LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(ledger, f"{payload['n']} {os.getpid()}\n".encode())
    finally:
        os.close(ledger)
    time.sleep(WORK_SECONDS)
    return {"n": payload["n"]}
