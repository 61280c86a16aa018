"""Dramatiq on Redis: processes with its eight threads each, results not stored."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from benchmarks.peers import PAYLOAD, Peer, Place
from benchmarks.peers.measure import PLACE_FILE, place_here
from benchmarks.stamps import stamp


@cache
def system(redis_url: str) -> tuple[Any, Any]:
    """The broker and the actor."""
    broker = RedisBroker(url=redis_url)
    dramatiq.set_broker(broker)

    def noop(payload: dict[str, str]) -> None:
        stamp()

    return broker, dramatiq.actor(noop)


if Path(PLACE_FILE).exists():
    broker, _ = system(place_here().redis_url)


class Dramatiq(Peer):
    def __init__(self, place: Place) -> None:
        super().__init__(place)
        _, self.actor = system(place.redis_url)

    def commands(self, workers: int) -> Sequence[list[str]]:
        module = "benchmarks.peers.on_dramatiq:broker"
        return [[sys.executable, "-m", "dramatiq", module, "--processes", str(workers)]]

    def submit(self, count: int) -> None:
        for _ in range(count):
            self.actor.send(PAYLOAD)
