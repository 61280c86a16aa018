"""Celery on Redis, results ignored: one prefork worker with child processes, or several solo workers."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from celery import Celery

from benchmarks.peers import PAYLOAD, Peer, Place
from benchmarks.peers.measure import PLACE_FILE, place_here
from benchmarks.stamps import stamp


@cache
def system(redis_url: str) -> tuple[Any, Any]:
    """The app and its task."""
    app = Celery("bench", broker=redis_url)

    def noop(payload: dict[str, str]) -> None:
        stamp()

    return app, app.task(name="bench.noop", ignore_result=True)(noop)


if Path(PLACE_FILE).exists():
    app, _ = system(place_here().redis_url)


class CeleryPrefork(Peer):
    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.app, self.task = system(place.redis_url)

    def commands(self, workers: int) -> Sequence[list[str]]:
        return [self.command("--pool", "prefork", "--concurrency", str(workers))]

    def command(self, *options: str) -> list[str]:
        quiet = ["--loglevel", "ERROR", "--without-gossip", "--without-mingle"]
        return [
            sys.executable,
            "-m",
            "celery",
            "-A",
            "benchmarks.peers.on_celery",
            "worker",
            *quiet,
            *options,
        ]

    def submit(self, count: int) -> None:
        for _ in range(count):
            self.task.delay(PAYLOAD)

    def close(self) -> None:
        self.app.close()


class CelerySolo(CeleryPrefork):
    def commands(self, workers: int) -> Sequence[list[str]]:
        return [self.command("--pool", "solo", "-n", f"solo{number}@%h") for number in range(workers)]
