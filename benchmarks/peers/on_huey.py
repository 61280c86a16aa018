"""Huey: one consumer with worker processes, results not stored (the task returns none)."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from huey import RedisHuey

from benchmarks.peers import PAYLOAD, Peer, Place
from benchmarks.peers.measure import PLACE_FILE, place_here
from benchmarks.stamps import stamp


@cache
def system(redis_url: str) -> tuple[Any, Any]:
    """Huey and its task."""
    huey = RedisHuey("bench", url=redis_url)

    def noop(payload: dict[str, str]) -> None:
        stamp()

    return huey, huey.task()(noop)


# the consumer names this variable
if Path(PLACE_FILE).exists():
    huey, _ = system(place_here().redis_url)


class Huey(Peer):
    def __init__(self, place: Place) -> None:
        super().__init__(place)
        _, self.task = system(place.redis_url)

    def commands(self, workers: int) -> Sequence[list[str]]:
        consumer = str(Path(sys.executable).with_name("huey_consumer"))
        options = ["-w", str(workers), "-k", "process", "--quiet", "--disable-health-check"]
        return [[sys.executable, consumer, "benchmarks.peers.on_huey.huey", *options]]

    def submit(self, count: int) -> None:
        for _ in range(count):
            self.task(PAYLOAD)
