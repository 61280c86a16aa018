"""From a picked row to a task, or to the reason why it cannot be one. No SQL here."""

from __future__ import annotations

import json
from collections.abc import Mapping as Map
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from hashlib import blake2b
from math import isfinite
from typing import Any, NamedTuple

from app.tasks.errors import InvalidTask
from app.tasks.handlers import Handler, write_json
from app.tasks.sources import SourceKey
from app.tasks.submission import KEY_CHARACTERS, RETRIES_LIMIT
from app.transfer.legacy.table import LegacyTable
from app.transfer.legacy.verdicts import Flaw, Verdict, verdict

DETAIL_CHARACTERS = 300
MOST_FAILURES = 1_000_000


class Judged(NamedTuple):
    """What a row comes to. `key` is the task's; `row_key` the table's own value."""

    row_key: Any
    key: str
    payload: str
    user_id: str | None
    created_at: datetime
    failures: int
    max_retries: int | None
    verdict: Verdict | None = None

    def flawed(self, found: Verdict) -> Judged:
        return self._replace(verdict=found)


@dataclass(frozen=True, slots=True)
class Judge:
    """Judges rows of one table by what a submission of their payload would have been refused for."""

    table: LegacyTable
    handler: Handler
    payload_limit_bytes: int

    def __call__(self, row: Map[str, Any], now: datetime, *, queued: bool = True) -> Judged:
        """`queued` is false for a row whose status is NULL."""
        payload, found = self._payload(row)
        key, fits = self.named(row["key"])
        user, is_user = self._user(row.get("user"))
        if not queued:
            found = verdict(Flaw.STATUS_NULL)
        elif not fits:
            found = verdict(Flaw.BAD_KEY)
        elif (own := self._own_fault(row)) is not None:
            found = own
        elif not is_user:
            found = verdict(Flaw.BAD_USER)
        return Judged(
            row_key=row["key"],
            key=key,
            payload=payload,
            user_id=user,
            created_at=_moment(row.get("created"), now),
            failures=_number(self._or_default(row, "attempts"), most=MOST_FAILURES) or 0,
            max_retries=_number(self._or_default(row, "retries"), most=RETRIES_LIMIT),
            verdict=found,
        )

    def _or_default(self, row: Map[str, Any], name: str) -> Any:
        value = getattr(self.table.mapping, name)
        found = row.get(name)
        return value.default if found is None and value is not None else found

    def named(self, value: Any) -> tuple[str, bool]:
        """The task's key, and whether it names the row. One that cannot is named by its digest."""
        text = str(value)  # as whoever reads the key of a row compares it
        key = str(SourceKey(self.table.mapping.name, text))
        if len(key) <= KEY_CHARACTERS and key.isprintable():
            return key, True
        digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
        return str(SourceKey(self.table.mapping.name, f"#{digest}")), False

    def _user(self, value: Any) -> tuple[str | None, bool]:
        if value is None:
            value = self.table.mapping.user.default if self.table.mapping.user else None
        if value is None:
            return None, True
        text = str(value)
        fits = 0 < len(text) <= KEY_CHARACTERS and text.isprintable() and text == text.strip()
        return (text, True) if fits else (None, False)

    def _own_fault(self, row: Map[str, Any]) -> Verdict | None:
        for number, fault in enumerate(self.table.faults):
            if row[f"fault {number}"]:
                return Verdict(fault.name, fault.fenced)
        return None

    # --- payload --------------------------------------------------------------------------------------

    def _payload(self, row: Map[str, Any]) -> tuple[str, Verdict | None]:
        """The payload's text and what is wrong with it. Whatever cannot be read stays in it as text."""
        mapping = self.table.mapping.payload
        found: Verdict | None = None
        fields: dict[str, Any] = dict(mapping.constants)
        for number, (field, column) in enumerate(self.table.payload_columns):
            value = _plain(row[f"payload {number}"])
            if field in mapping.json_columns or mapping.whole:
                value, wrong = _read_json(value)
                if wrong:
                    found = verdict(Flaw.NOT_JSON, f"{column}: {wrong}")
            fields[field] = value
        text = write_json(fields[""] if mapping.whole else fields)
        return text, found or self._refusal(text)

    def _refusal(self, text: str) -> Verdict | None:
        if len(text.encode("utf-8", "surrogatepass")) > self.payload_limit_bytes:
            return verdict(Flaw.TOO_LARGE)
        try:
            self.handler.parse_json(text)
        except InvalidTask as error:
            return verdict(Flaw.REFUSED, str(error)[:DETAIL_CHARACTERS])
        return None


def _read_json(value: Any) -> tuple[Any, str]:
    """What a JSON text says, or the text itself and what is wrong with it."""
    if value is None or not isinstance(value, str):
        return value, ""  # a database that reads JSON columns for us has done so
    try:
        read = json.loads(value)
        write_json(read).encode()  # half of a surrogate pair is JSON, and no text that a database takes
    except (ValueError, RecursionError) as error:
        return value, (str(error) or type(error).__name__)[:DETAIL_CHARACTERS]
    return read, ""


def _plain(value: Any) -> Any:
    """A driver's value as JSON can hold it."""
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, float | Decimal) and not isfinite(value):
        return str(value)
    if value is None or isinstance(value, str | int | float | bool | dict):
        return value
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).decode("utf-8", "backslashreplace")
    return value.isoformat() if isinstance(value, date | datetime) else str(value)


def _moment(value: Any, now: datetime) -> datetime:
    """When the row was made. What is missing, unreadable or in the future counts as now."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return now
    if not isinstance(value, datetime):
        return now
    moment = value if value.tzinfo else value.replace(tzinfo=UTC)
    return min(moment, now)


def _number(value: Any, *, most: int) -> int | None:
    try:
        return None if value is None else max(0, min(most, int(value)))
    except (TypeError, ValueError):
        return None
