"""From what a caller hands over to records that can be stored: everything that needs no database."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from app.distributed.flow_settings import FLOW_CHARACTERS
from app.tasks.errors import FieldProblem, InvalidTask
from app.tasks.handlers import write_json
from app.tasks.ids import IdSource
from app.tasks.keys import RECORD_KEYS
from app.tasks.model import NewTask, Priority
from app.tasks.settings import CoreSettings

KEY_CHARACTERS = 100
PROBLEMS_SHOWN = 20
WRAPPED = frozenset({"payload", "key"})

Key = str | Callable[[Mapping[str, Any]], object] | None


def checked_flow(flow: str) -> str:
    """The flow's name, if it can be one. Raises `InvalidTask`."""
    if not isinstance(flow, str) or not 0 < len(flow) <= FLOW_CHARACTERS or not re.search(r"\w", flow):
        message = f"must be 1 to {FLOW_CHARACTERS} characters, with a letter or digit"
        raise InvalidTask([FieldProblem("flow", message)])
    if not flow.isprintable():
        raise InvalidTask([FieldProblem("flow", "must be printable")])
    return flow


class NewRecords:
    def __init__(self, settings: CoreSettings, ids: IdSource | None = None) -> None:
        self._limit = settings.payload_limit_bytes
        self._ids = ids or IdSource()

    def checked(
        self, flow: str, records: Iterable[Mapping[str, Any]], key: Key, max_retries: int
    ) -> list[NewTask]:
        """The records, in their order, their keys not yet those of a lane. Raises `InvalidTask` naming every
        wrong field of the first twenty wrong records."""
        news: list[NewTask] = []
        problems: list[FieldProblem] = []
        for number, record in enumerate(records):
            try:
                payload, own_key = parts_of(record, key)
                text = self._text(payload)
            except ValueError as error:
                problems.append(FieldProblem(f"records.{number}.{error.args[0]}", str(error.args[-1])))
                if len(problems) >= PROBLEMS_SHOWN:
                    break
                continue
            news.append(
                NewTask(
                    *(self._ids.next(), flow, text, Priority.FLOW),
                    idempotency_key=own_key,
                    max_retries=max_retries,
                )
            )
        if problems:
            raise InvalidTask(problems)
        return news

    def keyed(self, lane: int, news: Sequence[NewTask]) -> list[NewTask]:
        """With keys that are this lane's own."""
        return [
            new
            if new.idempotency_key is None
            else new._replace(idempotency_key=f"{RECORD_KEYS}{lane}:{new.idempotency_key}")
            for new in news
        ]

    def _text(self, payload: Any) -> str:
        try:
            text = write_json(payload)
            size = len(text.encode())
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError("payload", f"cannot be written as JSON: {error}"[:200]) from None
        if size > self._limit:
            raise ValueError("payload", f"{size} bytes, the limit is {self._limit}")
        return text


def parts_of(record: Mapping[str, Any], key: Key) -> tuple[Any, str | None]:
    """The payload of a record, and what tells it apart from the others of its flow. Raises `ValueError` with
    the field and what is wrong with it."""
    if not isinstance(record, Mapping):
        raise ValueError("payload", "a record must be a mapping")
    wrapped = "payload" in record and record.keys() <= WRAPPED
    payload = record["payload"] if wrapped else dict(record)
    if callable(key):
        found = key(record)
    elif key is not None:
        fields = payload if isinstance(payload, Mapping) else {}
        if key not in fields:
            raise ValueError(key, "is missing, and tells records apart")
        found = fields[key]
    else:
        found = record.get("key") if wrapped else None
    if found is None:
        return payload, None
    text = str(found)
    if not 0 < len(text) <= KEY_CHARACTERS or not text.isprintable() or text != text.strip():
        message = f"must be 1 to {KEY_CHARACTERS} printable characters without blanks at the ends"
        raise ValueError("key", message)
    return payload, text
