"""The history of unusual transitions: written in the transaction that makes them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from sqlalchemy import insert
from sqlalchemy.engine import Connection

from app.tasks.schema import database_now, task_events

_INSERT = insert(task_events).values(at=database_now())


def record(on: Connection, kind: str, task_ids: Iterable[int], **detail: Any) -> None:
    """Write one event per task. `detail` is shown to operators: no payload, no secret."""
    text = json.dumps(detail, ensure_ascii=False, sort_keys=True, default=str)
    rows = [{"task_id": task_id, "kind": kind, "detail": text} for task_id in task_ids]
    if rows:
        on.execute(_INSERT, rows)
