"""`python -m benchmarks.peers.measure NAME`: one peer's figures as JSON, printed from its own environment.

The workers have started, have run tasks and wait. Then they are frozen (SIGSTOP) while the queue is filled,
and the clock runs from their thaw to the last task's stamp. Standard library only, but for the peer itself.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.counters import redis_calls
from benchmarks.peers import PEERS, Peer, Place
from benchmarks.processes import cpu_seconds, memory, session_of, signal_all, tree_of
from benchmarks.stamps import Stamps

START_SECONDS = 60.0
SETTLE_SECONDS = 1.0
DRAIN_SECONDS = 120.0
IDLE_SECONDS = (0.05, 0.3)
LATENCY_TASKS = 40
SUBMIT_TASKS = 1_000
BULK_TASKS = 10_000
WARM_UP = 20
PLACE_FILE = "place.json"


@dataclass(frozen=True, slots=True)
class Workers:
    """A peer's running worker processes; each command leads a session of its own."""

    leaders: Sequence[int]
    count: int
    """Of processes that run tasks."""

    def pids(self) -> list[int]:
        return [pid for leader in self.leaders for pid in session_of(leader)]

    def freeze(self) -> None:
        signal_all(self.pids(), signal.SIGSTOP)

    def thaw(self) -> None:
        signal_all(self.pids(), signal.SIGCONT)


def place_here() -> Place:
    """The place whose folder is the working directory: how a worker's module finds its server."""
    settings = json.loads(Path(PLACE_FILE).read_text())
    return Place(Path.cwd(), settings["redis_url"], settings["postgres_url"])


@contextmanager
def running(peer: Peer, stamps: Stamps, count: int) -> Iterator[Workers]:
    """The peer's workers, all of which have run a task; killed at the end."""
    with (peer.place.folder / "workers.log").open("ab") as log:
        started = [
            subprocess.Popen(
                _dying_with_us(command),
                cwd=peer.place.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            for command in peer.commands(count)
        ]
        workers = Workers([process.pid for process in started], count)
        try:
            _warm_up(peer, stamps, count)
            yield workers
        finally:
            workers.thaw()
            signal_all(workers.pids(), signal.SIGKILL)
            for process in started:
                process.wait()


def _dying_with_us(command: list[str]) -> list[str]:
    wrapper = shutil.which("setpriv")
    return [wrapper, "--pdeathsig", "KILL", "--", *command] if wrapper else command


def _warm_up(peer: Peer, stamps: Stamps, count: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while len({pid for _, pid in stamps.since(0)} if stamps.count() else ()) < count:
        if time.monotonic() > deadline:
            log = (peer.place.folder / "workers.log").read_text(errors="replace")[-2000:]
            raise TimeoutError(f"the workers did not start:\n{log}")
        peer.submit(WARM_UP)
        time.sleep(0.2)
    begun = -1
    while begun != stamps.count():  # until the last of the warm-up has been run
        begun = stamps.count()
        time.sleep(SETTLE_SECONDS)


def drain(peer: Peer, workers: Workers, stamps: Stamps, count: int, server: int) -> dict[str, float]:
    """Tasks a second, and what a task costs: seconds of CPU per 1,000, Redis commands; megabytes per worker.
    `server` is the process id of the server that it uses."""
    before = stamps.count()
    workers.freeze()
    peer.submit_bulk(count)
    cpu, server_cpu = cpu_seconds(workers.pids()), cpu_seconds(tree_of(server))
    calls = redis_calls(peer.place.redis_url)
    opened = time.monotonic_ns()
    workers.thaw()
    stamps.wait_for(before + count, deadline_seconds=DRAIN_SECONDS)
    ended = max(moment for moment, _ in stamps.since(before))
    pids = workers.pids()
    used = memory(pids)
    return {
        "drain": count / ((ended - opened) / 1e9),
        "cpu": (cpu_seconds(pids) - cpu) * 1000 / count,
        "server_cpu": (cpu_seconds(tree_of(server)) - server_cpu) * 1000 / count,
        "redis_commands": redis_calls(peer.place.redis_url).since(calls).commands / count,
        "pss": used.pss / workers.count,
        "uss": used.uss / workers.count,
    }


def latencies(peer: Peer, stamps: Stamps, count: int) -> list[float]:
    """Milliseconds from the call of submit to the task's first line, on workers that have been idle for a
    random while."""
    found = []
    for _ in range(count):
        time.sleep(random.uniform(*IDLE_SECONDS))
        number = stamps.count()
        began = time.monotonic_ns()
        peer.submit(1)
        stamps.wait_for(number + 1, deadline_seconds=30)
        found.append((stamps.since(number)[0][0] - began) / 1e6)
    return found


def rate(peer: Peer, count: int, *, bulk: bool = False) -> float:
    """Submissions a second."""
    began = time.perf_counter()
    if bulk:
        peer.submit_bulk(count)
    else:
        peer.submit(count)
    return count / (time.perf_counter() - began)


def main(arguments: Sequence[str] | None = None) -> int:
    given = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # by way of every `finally`
    listed = PEERS[given.name]
    settings = {"redis_url": given.redis, "postgres_url": given.postgres}
    (given.folder / PLACE_FILE).write_text(json.dumps(settings))
    peer = listed.load()(Place(given.folder, **settings))
    try:
        peer.prepare()
        print(json.dumps(measure(peer, given, listed.tasks)))
    finally:
        peer.close()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=PEERS)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--redis", required=True)
    parser.add_argument("--postgres", required=True)
    parser.add_argument("--server-pid", type=int, required=True, help="of the server that the peer uses")
    parser.add_argument("--parts", required=True, help="submit, drain, latency; with commas between")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--share", type=float, default=1.0, help="of the usual number of tasks")
    return parser


def measure(peer: Peer, given: argparse.Namespace, tasks: int) -> dict[str, object]:
    """The figures of the parts that were asked for."""
    stamps = Stamps(peer.place.folder)
    parts = given.parts.split(",")
    figures: dict[str, object] = {}
    if "drain" in parts or "latency" in parts:
        with running(peer, stamps, given.workers) as workers:
            if "latency" in parts:
                figures["latencies"] = latencies(peer, stamps, max(10, int(LATENCY_TASKS * given.share)))
            if "drain" in parts:
                count = max(200, int(tasks * given.share))
                figures |= drain(peer, workers, stamps, count, given.server_pid)
    if "submit" in parts:
        peer.submit(20)  # connections
        figures["submit"] = rate(peer, max(200, int(SUBMIT_TASKS * given.share)))
        if peer.has_bulk:
            figures["bulk"] = rate(peer, max(2_000, int(BULK_TASKS * given.share)), bulk=True)
    return figures


if __name__ == "__main__":
    sys.exit(main())
