"""Who works on our queues, as RQ's own tools see it: `rq info`, rq-dashboard, `Worker.all()`.

The workers' own rows in the database are the truth; this is their shadow in Redis, and the only place where a
stock `rq worker` shows itself.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from rq.defaults import RQ_KEY_PREFIX
from rq.version import VERSION

from app.tasks.model import PRIORITIES, Claim, Priority

DEAD_SECONDS = 180  # a worker that says nothing for that long is listed no more
OURS = "twintrack"  # the field that tells our workers from stock ones
ABANDONED_SECONDS = 90  # as RQ: its monitoring interval and a minute

Call = Callable[[str, Sequence[str], Sequence[Any]], Any]


@dataclass(frozen=True, slots=True)
class RQWorker:
    """A living worker as it last described itself."""

    name: str
    host: str
    pid: int
    state: str
    queues: tuple[str, ...]
    done: int
    born_at: datetime
    seen_at: datetime


@dataclass(frozen=True, slots=True)
class Presence:
    """What a worker of ours says of itself. The times are epoch seconds of the database's clock.

    `finished` and `failed` count its runs since it was last told. `running` is a claim by ticket that has
    been running since `running_since`.
    """

    worker_id: str
    priorities: Sequence[Priority]
    born_at: float
    state: str
    finished: int
    failed: int
    running: Claim | None = None
    running_since: float = 0.0


class WorkerRegistry:
    """RQ's lists of workers, for the queues of one installation."""

    def __init__(self, call: Call, *, queue_prefix: str, in_flight_key: Callable[[str], str]) -> None:
        self._call = call
        self._queue_prefix = queue_prefix
        self._in_flight_key = in_flight_key
        self._names: dict[str, str] = {}

    def name_of(self, worker_id: str) -> str:
        """The name by which RQ knows a worker of this process."""
        return self._names.get(worker_id, worker_id)

    def work_for(self, worker_id: str, name: str) -> None:
        """What `worker_id` does is shown as the work of the RQ worker `name`, which lists itself."""
        self._names[worker_id] = name

    def executions_key(self, worker_id: str) -> str:
        return f"{_worker_key(self.name_of(worker_id))}:executions"

    def stock(self) -> list[RQWorker]:
        """The living workers of our queues that are not ours, in one round trip.

        RQ keeps one that was killed for up to eight minutes. Raises `RedisUnavailable`.
        """
        return [_rq_worker(row) for row in self._call("workers", self._queue_sets(PRIORITIES), [])]

    def present(self, seen: Presence, *, now: float) -> None:
        """List a worker of ours, and what it runs, for `DEAD_SECONDS`. Raises `RedisUnavailable`."""
        execution = execution_id(seen.worker_id)
        name = self.name_of(seen.worker_id)
        claim = seen.running
        job_id = f"t{claim.task_id}-e{claim.epoch}" if claim else ""
        of_run = [""] * 4
        if claim:
            prefix = RQ_KEY_PREFIX
            of_run = [f"{prefix}:job:{job_id}", f"{prefix}:wip:{self._queue_prefix}{claim.priority}"]
            of_run += [f"{prefix}:execution:{job_id}:{execution}", f"{prefix}:executions:{job_id}"]
        keys = [_worker_key(name), self.executions_key(seen.worker_id)]
        keys += [self._in_flight_key(seen.worker_id), *of_run]
        keys += [f"{RQ_KEY_PREFIX}:workers", *self._queue_sets(seen.priorities)]
        arguments = [
            DEAD_SECONDS,
            ABANDONED_SECONDS,
            time_text(now),
            f"{now:.6f}",
            seen.worker_id,
            seen.state,
        ]
        arguments += [seen.finished, seen.failed, execution, job_id]
        arguments += [time_text(seen.running_since), f"{seen.running_since:.6f}", *self._fixed(seen)]
        self._call("present", keys, arguments)

    def leave(self, worker_id: str, priorities: Sequence[Priority]) -> None:
        """Take a worker of ours off RQ's lists. Raises `RedisUnavailable`."""
        if worker_id in self._names:
            return
        key = _worker_key(worker_id)
        keys = [key, f"{key}:executions", f"{RQ_KEY_PREFIX}:workers", *self._queue_sets(priorities)]
        self._call("absent", keys, [])

    def _queue_sets(self, priorities: Sequence[Priority]) -> list[str]:
        return [f"{RQ_KEY_PREFIX}:workers:{self._queue_prefix}{priority}" for priority in priorities]

    def _fixed(self, seen: Presence) -> list[Any]:
        queues = ",".join(f"{self._queue_prefix}{priority}" for priority in seen.priorities)
        fields = {
            OURS: "1",
            "birth": time_text(seen.born_at),
            "queues": queues,
            "pid": os.getpid(),
            "hostname": platform.node(),
            "ip_address": "",
            "version": VERSION,
            "python_version": sys.version,
        }
        return [part for pair in fields.items() for part in pair]


@lru_cache(maxsize=64)
def execution_id(worker_id: str) -> str:
    """RQ's name for one run of a job. A worker runs a ticket once at most, so its own digest will do."""
    return hashlib.blake2b(worker_id.encode(), digest_size=16).hexdigest()


@lru_cache(maxsize=64)
def time_text(epoch_seconds: float) -> str:
    """RQ's own time format."""
    return datetime.fromtimestamp(epoch_seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _worker_key(worker_id: str) -> str:
    return f"{RQ_KEY_PREFIX}:worker:{worker_id}"


def _rq_worker(row: Sequence[bytes]) -> RQWorker:
    key, host, pid, state, queues, finished, failed, birth, heartbeat = (
        part.decode("utf-8", "replace") for part in row
    )
    born_at = _time(birth)
    return RQWorker(
        name=key.removeprefix(_worker_key("")),
        host=host,
        pid=int(pid or 0),
        state=state,
        queues=tuple(queues.split(",")),
        done=int(finished or 0) + int(failed or 0),
        born_at=born_at,
        seen_at=_time(heartbeat) if heartbeat else born_at,
    )


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))
