"""What tests of records share."""

from __future__ import annotations

from collections.abc import Callable

from app.distributed import DistributedProcessor
from tests.contract.rows import Rows

MakeProcessor = Callable[..., DistributedProcessor]
LEASE_SECONDS = 30


def numbers(count: int) -> list[dict[str, int]]:
    return [{"n": number} for number in range(count)]


def expire(rows: Rows, *, hours_ago: float = 0.1) -> None:
    """As if the holders had been gone for a while."""
    moment = rows.at(-hours_ago * 3600)
    rows.execute(
        "UPDATE tasks SET lease_until = :moment, started_at = :moment WHERE status = 'PROCESSING'",
        moment=moment,
    )
