"""The history of unusual transitions: written in the transaction that makes them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

from sqlalchemy.engine import Connection

from app.tasks.schema import database_now

Happened = tuple[int, str, Mapping[str, Any]]  # to which task, what, and more about it


def record(on: Connection, kind: str, task_ids: Iterable[int], **detail: Any) -> None:
    """Write one event per task. `detail` is shown to operators: no payload, no secret."""
    text = _text(detail)
    _write(on, [(task_id, kind, text) for task_id in task_ids])


def record_all(on: Connection, happened: Iterable[Happened]) -> None:
    """As `record`, of several kinds, each with a detail of its own."""
    _write(on, [(task_id, kind, _text(detail)) for task_id, kind, detail in happened])


def _text(detail: Mapping[str, Any]) -> str:
    return json.dumps(detail, ensure_ascii=False, sort_keys=True, default=str)


def _write(on: Connection, rows: Sequence[tuple[int, str, str]]) -> None:
    """One statement for all: PyMySQL joins rows of its own accord only if they are marks alone."""
    if not rows:
        return
    mark = "?" if on.dialect.name == "sqlite" else "%s"
    row = f"({mark}, {database_now().compile(dialect=on.dialect)}, {mark}, {mark})"
    values = ", ".join([row] * len(rows))
    statement = f"INSERT INTO task_events (task_id, at, kind, detail) VALUES {values}"  # noqa: S608
    on.exec_driver_sql(statement, tuple(chain(*rows)))
