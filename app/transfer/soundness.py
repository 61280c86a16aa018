"""Can this row become a task? What cannot is named with a reason, and its bytes stay as they are."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum

from app.tasks.handlers import HandlerRegistry
from app.tasks.store.transfers import Candidate
from app.tasks.submission import TIMEOUT_LIMIT_SECONDS

READ_ROWS = 100  # payloads in memory at a time: each may be as long as the limit, or longer


class Flaw(StrEnum):
    """The reason class of a quarantine."""

    UNKNOWN_NAME = "no handler is registered for this name"
    BAD_TIMEOUT = "the time limit is not within 1 second and 7 days"
    NOT_JSON = "the payload is not JSON"
    TOO_LARGE = "the payload is larger than the limit"


class Soundness:
    """Judges picked rows by what a submission would have been refused for."""

    def __init__(self, handlers: HandlerRegistry, *, payload_limit_bytes: int) -> None:
        self.payload_limit_bytes = payload_limit_bytes
        self._handlers = handlers

    def flaws(
        self, rows: Sequence[Candidate], payloads: Callable[[Sequence[int]], Mapping[int, str]]
    ) -> dict[int, Flaw]:
        """The flaw of each row that has one. `payloads` reads the texts of rows that the database did not
        find sound: it may be stricter than we are, with deep nesting for example, but never laxer."""
        found: dict[int, Flaw] = {}
        doubtful: list[int] = []
        for row in rows:
            flaw = self._of_fields(row)
            if flaw is not None:
                found[row.task_id] = flaw
            elif not row.looks_sound:
                doubtful.append(row.task_id)
        for start in range(0, len(doubtful), READ_ROWS):
            for task_id, text in payloads(doubtful[start : start + READ_ROWS]).items():
                flaw = self._of_payload(text)
                if flaw is not None:
                    found[task_id] = flaw
        return found

    def _of_fields(self, row: Candidate) -> Flaw | None:
        if self._handlers.find(row.name) is None:
            return Flaw.UNKNOWN_NAME
        timeout = row.timeout_seconds
        if timeout is not None and not 1 <= timeout <= TIMEOUT_LIMIT_SECONDS:
            return Flaw.BAD_TIMEOUT
        return None

    def _of_payload(self, text: str) -> Flaw | None:
        if len(text.encode("utf-8", "surrogatepass")) > self.payload_limit_bytes:
            return Flaw.TOO_LARGE
        try:
            json.loads(text)
        except (ValueError, RecursionError):
            return Flaw.NOT_JSON
        return None
