"""taskiq on a Redis list and on Redis streams; an async task, results not stored."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from taskiq_redis import ListQueueBroker, RedisStreamBroker

from benchmarks.peers import PAYLOAD, Peer, Place
from benchmarks.peers.measure import PLACE_FILE, place_here
from benchmarks.stamps import stamp

BROKERS = {"list_broker": ListQueueBroker, "stream_broker": RedisStreamBroker}


@cache
def system(redis_url: str, kind: str) -> tuple[Any, Any]:
    """A broker and its task."""
    # without a time-out of its own redis-py gives up a blocking pop after some seconds, and its task is lost
    broker = BROKERS[kind](redis_url, queue_name=kind, socket_timeout=None)

    async def noop(payload: dict[str, str]) -> None:
        stamp()

    return broker, broker.register_task(noop, task_name="bench.noop")


if Path(PLACE_FILE).exists():
    list_broker, _ = system(place_here().redis_url, "list_broker")
    stream_broker, _ = system(place_here().redis_url, "stream_broker")


class TaskiqList(Peer):
    kind: ClassVar[str] = "list_broker"

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.broker, self.task = system(place.redis_url, self.kind)
        self.loop = asyncio.new_event_loop()

    def prepare(self) -> None:
        self.loop.run_until_complete(self.broker.startup())

    def commands(self, workers: int) -> Sequence[list[str]]:
        module = f"benchmarks.peers.on_taskiq:{self.kind}"
        quiet = ["--log-level", "ERROR"]
        return [[sys.executable, "-m", "taskiq", "worker", module, "--workers", str(workers), *quiet]]

    def submit(self, count: int) -> None:
        async def send() -> None:
            for _ in range(count):
                await self.task.kiq(PAYLOAD)

        self.loop.run_until_complete(send())

    def close(self) -> None:
        self.loop.run_until_complete(self.broker.shutdown())
        self.loop.close()


class TaskiqStream(TaskiqList):
    kind = "stream_broker"
