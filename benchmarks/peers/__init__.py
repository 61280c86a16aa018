"""Other task systems, measured as this one is: the same task, payload, number of processes and clock.

`measure.py` runs one of them in a Python environment of its own and prints what it saw. A peer is a small
class: how its workers are started, how a task is sent. It is used as its own documents say, with the choice
that makes it fastest where they leave one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

PAYLOAD = {"text": "y" * 188}  # 200 bytes of JSON


@dataclass(frozen=True, slots=True)
class Place:
    """Where a peer works: private servers and a folder, the working directory of its workers."""

    folder: Path
    redis_url: str
    postgres_url: str


class Peer(ABC):
    """One system. Its workers import the module that holds it, so modules connect lazily."""

    has_bulk: ClassVar[bool] = False

    def __init__(self, place: Place) -> None:
        self.place = place

    def prepare(self) -> None:  # noqa: B027  # most need nothing
        """Create tables or streams."""

    @abstractmethod
    def commands(self, workers: int) -> Sequence[list[str]]:
        """Command lines of the worker processes, `workers` processes that run tasks in all."""

    @abstractmethod
    def submit(self, count: int) -> None:
        """Send tasks one after the other from one thread."""

    def submit_bulk(self, count: int) -> None:
        """Send many in the library's own way; one by one if it has none."""
        self.submit(count)

    def close(self) -> None:  # noqa: B027  # most need nothing
        """Let go of connections."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A peer of the table: where its class is, and what it keeps when a server or a worker dies."""

    module: str
    class_name: str
    durability: str
    tasks: int
    """Tasks per drain: several seconds of its work."""
    stock: bool = False
    """Runs in the project's own environment, which has it anyway."""
    server: str = "redis"

    def load(self) -> type[Peer]:
        """Import the class; for the peer's own environment. Raises `ImportError`."""
        module: Any = __import__(f"benchmarks.peers.{self.module}", fromlist=[self.class_name])
        found: type[Peer] = getattr(module, self.class_name)
        return found


PEERS = {
    "RQ Worker": Listed("on_rq", "ForkingRq", "nothing", 1_500, stock=True),
    "RQ SimpleWorker": Listed("on_rq", "SimpleRq", "nothing", 6_000, stock=True),
    "Huey": Listed("on_huey", "Huey", "nothing, no ack", 40_000),
    "taskiq list": Listed("on_taskiq", "TaskiqList", "nothing, no ack", 20_000),
    "taskiq streams": Listed("on_taskiq", "TaskiqStream", "nothing, ack", 20_000),
    "Dramatiq": Listed("on_dramatiq", "Dramatiq", "nothing, ack", 15_000),
    "Celery prefork": Listed("on_celery", "CeleryPrefork", "nothing, early ack", 8_000),
    "Celery solo": Listed("on_celery", "CelerySolo", "nothing, early ack", 12_000),
    "pgqueuer": Listed("on_pgqueuer", "PgQueuer", "row, fsync", 40_000, server="postgres"),
    "procrastinate": Listed("on_procrastinate", "Procrastinate", "row, fsync", 5_000, server="postgres"),
}
