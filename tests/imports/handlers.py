"""The trial's handler: it takes what the shipped caption handler takes, and writes its start into a file."""

from __future__ import annotations

import os

from app.handlers.captions import CaptionPayload
from app.tasks.handlers import task

LEDGER = "TRIAL_LEDGER"


def write(path: str, key: str, who: str) -> None:
    """One line: with O_APPEND, lines of several processes never mix."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, f"{who} {key}\n".encode())
    finally:
        os.close(file)


@task("trial.caption", payload=CaptionPayload)
def caption(payload: CaptionPayload) -> dict[str, str]:
    """Note the start."""
    write(os.environ[LEDGER], payload.caption_task_id, "new")
    return {"task_id": payload.caption_task_id}
