"""procrastinate: processes of ten coroutines each, an async task."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import procrastinate

from benchmarks.peers import PAYLOAD, Peer, Place
from benchmarks.peers.measure import PLACE_FILE, place_here
from benchmarks.stamps import stamp

CONCURRENCY = "10"


def system(connector: Any) -> tuple[procrastinate.App, Any]:
    """The app and its task."""
    made = procrastinate.App(connector=connector)

    async def noop(payload: dict[str, str]) -> None:
        stamp()

    return made, made.task(name="bench.noop")(noop)


@cache
def _of_workers(url: str) -> procrastinate.App:
    return system(procrastinate.PsycopgConnector(conninfo=url))[0]


if Path(PLACE_FILE).exists():
    app = _of_workers(place_here().postgres_url)


class Procrastinate(Peer):
    has_bulk = True

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        connector = procrastinate.SyncPsycopgConnector(conninfo=place.postgres_url)
        self.app, self.task = system(connector)
        self.app.open()

    def prepare(self) -> None:
        self.app.schema_manager.apply_schema()

    def commands(self, workers: int) -> Sequence[list[str]]:
        module = "benchmarks.peers.on_procrastinate.app"
        options = ["worker", "--concurrency", CONCURRENCY]
        return [[sys.executable, "-m", "procrastinate", f"--app={module}", *options]] * workers

    def submit(self, count: int) -> None:
        for _ in range(count):
            self.task.defer(payload=PAYLOAD)

    def submit_bulk(self, count: int) -> None:
        self.task.batch_defer(*[{"payload": PAYLOAD} for _ in range(count)])

    def close(self) -> None:
        self.app.close()
