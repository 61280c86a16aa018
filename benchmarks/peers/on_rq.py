"""Stock RQ: `rq worker` with the forking Worker, its default, and with SimpleWorker."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import redis
from rq import Queue

from benchmarks.peers import PAYLOAD, Peer, Place
from benchmarks.stamps import stamp


def noop(payload: dict[str, str]) -> None:
    """The measured task."""
    stamp()


class ForkingRq(Peer):
    """One fork per job."""

    has_bulk = True
    worker_class: ClassVar[str] = "rq.Worker"

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.queue = Queue("bench", connection=redis.Redis.from_url(place.redis_url))

    def commands(self, workers: int) -> Sequence[list[str]]:
        rq = str(Path(sys.executable).with_name("rq"))
        command = [sys.executable, rq, "worker", "--quiet", "-u", self.place.redis_url]
        return [[*command, "-w", self.worker_class, "bench"]] * workers

    def submit(self, count: int) -> None:
        for _ in range(count):
            self.queue.enqueue(noop, PAYLOAD)

    def submit_bulk(self, count: int) -> None:
        self.queue.enqueue_many([Queue.prepare_data(noop, (PAYLOAD,), result_ttl=500) for _ in range(count)])


class SimpleRq(ForkingRq):
    """Jobs run in the worker's own process."""

    worker_class = "rq.SimpleWorker"
