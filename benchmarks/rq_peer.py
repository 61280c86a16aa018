"""Stock RQ under measurement: the same payload, the same number of worker processes, no durable record."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import redis
from rq import Queue

from benchmarks.jobs import noop
from benchmarks.ours import DRAIN_DEADLINE_SECONDS, PAYLOAD, ROOT

WORKER_CLASSES = {"RQ Worker": "rq.Worker", "RQ SimpleWorker": "rq.SimpleWorker"}


def submit_one_by_one(url: str, count: int) -> float:
    """`enqueue` calls a second from one thread."""
    queue = Queue("bench", connection=redis.Redis.from_url(url))
    began = time.perf_counter()
    for _ in range(count):
        queue.enqueue(noop, PAYLOAD)
    rate = count / (time.perf_counter() - began)
    queue.empty()  # type: ignore[no-untyped-call]
    return rate


def drain(url: str, count: int, *, workers: int, worker_class: str) -> float:
    """Jobs a second from the start of burst workers, less the time that such workers take to come and go
    with nothing to do, until the last has left."""
    empty = _burst(url, workers, worker_class)
    queue = Queue("bench", connection=redis.Redis.from_url(url))
    jobs = [Queue.prepare_data(noop, (PAYLOAD,), result_ttl=500) for _ in range(count)]
    queue.enqueue_many(jobs)
    return count / max(0.001, _burst(url, workers, worker_class) - empty)


def _burst(url: str, workers: int, worker_class: str) -> float:
    rq = str(Path(sys.executable).with_name("rq"))
    command = [sys.executable, rq, "worker", "--burst", "--quiet", "-u", url, "-w", worker_class, "bench"]
    environment = {"PATH": os.defpath, "PYTHONPATH": str(ROOT)}
    began = time.perf_counter()
    processes = [
        subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
        for _ in range(workers)
    ]
    for process in processes:
        process.wait(DRAIN_DEADLINE_SECONDS)
    return time.perf_counter() - began
