"""The rows of a trial: sound ones, and every fault that is known of such tables, with its expected class."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.legacy_tables import CaptionQueue

SHARE = 50  # one row of so many has a fault

USER = "the user is missing or inactive"
CONNECTION = "the connection is missing or inactive"
OTHERS = "the connection is another user's"

# Changes to a row, and the class that it must be named by; None: it must be moved.
FAULTS: tuple[tuple[dict[str, Any], str | None], ...] = (
    ({"settings_json": '{"max_posts'}, "a column of the payload is not JSON"),
    ({"settings_json": '{"colour": 1}'}, "the handler refuses the payload"),
    ({"settings_json": '{"max_posts_per_run": "ten"}'}, "the handler refuses the payload"),
    ({"user_id": 99}, USER),
    ({"user_id": 3, "platform_connection_id": 3}, USER),
    ({"platform_connection_id": 99}, CONNECTION),
    ({"platform_connection_id": 2, "user_id": 1}, OTHERS),
    ({"status": None}, "the status is NULL"),
    ({"settings_json": None}, None),
    ({"settings_json": '{"max_posts_per_run": 5' + " " * 60_000 + "}"}, None),
    ({"current_step": "\U0001f600" * 50, "error_message": "\U0001f600" * 16_000}, None),
    ({"created_at": None}, None),
    ({"created_at": "2031-01-01 00:00:00"}, None),
    ({"progress_percent": 40, "started_at": "2026-01-01 00:00:00"}, None),
    ({"completed_at": "2026-01-01 00:00:00"}, None),
)
NEWER_FAULTS: tuple[tuple[dict[str, Any], str | None], ...] = (
    ({"priority": None}, None),
    ({"retry_count": None, "max_retries": None}, None),
    ({"retry_count": 9, "max_retries": 3}, None),
)
STRANGE_KEYS = ("row number {}", "0C9F0C9F-{}", "trailing {} ")


class Planted:
    """What was put into the table, as the judge of a trial remembers it."""

    def __init__(self, legacy: CaptionQueue) -> None:
        self._legacy = legacy
        self._number = 0
        self.sound: set[str] = set()
        self.named: dict[str, str] = {}

    def rows(self, count: int, **changes: Any) -> Iterator[dict[str, Any]]:
        """The next rows, a share of them faulty."""
        faults = [*FAULTS, *(() if self._legacy.old_shape else NEWER_FAULTS)]
        for _ in range(count):
            self._number += 1
            row = self._legacy.row(self._number, **changes)
            fault: dict[str, Any] = {}
            reason = None
            if self._number % SHARE == 0:
                at = self._number // SHARE
                kinds = len(faults) + len(STRANGE_KEYS)
                if at % kinds < len(faults):
                    fault, reason = faults[at % kinds]
                else:
                    fault = {"id": STRANGE_KEYS[at % kinds - len(faults)].format(self._number)}
            row |= fault
            if reason is None:
                self.sound.add(row["id"])
            else:
                self.named[row["id"]] = reason
            yield row
