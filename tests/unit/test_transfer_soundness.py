"""What makes a row no task, and how much of the payloads is in memory to tell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import TypeAdapter

from app.tasks.handlers import Handler, HandlerRegistry
from app.tasks.store.transfers import Candidate
from app.transfer.soundness import READ_ROWS, Flaw, Soundness


def nothing(payload: Any) -> None:
    """A handler that does nothing."""


def test_payloads_are_read_a_part_at_a_time_and_every_flaw_is_found() -> None:
    rows = [Candidate(number, 1, None, False, "known") for number in range(3 * READ_ROWS + 5)]
    asked: list[int] = []

    def payloads(ids: Sequence[int]) -> dict[int, str]:
        asked.append(len(ids))
        return {task_id: "{}" if task_id % 50 else "{" for task_id in ids}

    soundness = Soundness(
        HandlerRegistry([Handler("known", nothing, TypeAdapter(Any))]), payload_limit_bytes=100
    )
    assert soundness.flaws(rows, payloads) == dict.fromkeys(range(0, len(rows), 50), Flaw.NOT_JSON)
    assert asked == [READ_ROWS, READ_ROWS, READ_ROWS, 5]
