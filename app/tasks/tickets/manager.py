"""RQQueueManager: the queues in Redis. Push, take, finish, look; all in scripts of one round trip.

Raises `RedisUnavailable` and nothing of the driver. What is in Redis is a hint: the caller's rows are the
truth, so a call whose answer was lost may be repeated or forgotten.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel
from rq.defaults import RQ_KEY_PREFIX

from app.tasks.errors import RedisUnavailable
from app.tasks.model import PRIORITIES, Priority, Status, Ticket, Track
from app.tasks.tickets.bells import BOUND as BELL_BOUND
from app.tasks.tickets.bells import Bells
from app.tasks.tickets.health import RedisHealth
from app.tasks.tickets.rq_format import pack_call, pack_error, pack_result, parse_job_id, ticket_result
from app.tasks.tickets.scripts import Call, Scripts
from app.tasks.tickets.worker_registry import WorkerRegistry, execution_id, time_text

CONNECT_SECONDS = 1.0
ANSWER_SECONDS = 3.0
PUSH_CHUNK = 500
KEEP_SECONDS = 500
KEPT_ENTRIES = 1000
KEEP_FOREIGN_SECONDS = 365 * 86_400  # as RQ keeps failed jobs
KEEP_TAKEN_SECONDS = 8 * 86_400  # longer than any task may run
WINDOW = 100_000


def connect(url: str, *, answer_seconds: float = ANSWER_SECONDS) -> redis.Redis:
    """A client for `redis://`, `rediss://`, `unix://` or `sentinel://host:port,…/service/db`.

    Does not connect. Raises `ValueError` for a URL that names none of them.
    """
    options: dict[str, Any] = {
        "socket_connect_timeout": CONNECT_SECONDS,
        "socket_timeout": answer_seconds,
        # one fresh try heals a pooled connection that a restart has cut; more would only hide an outage
        "retry": Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
    }
    if url.startswith(("redis+sentinel://", "sentinel://")):
        hosts, _, path = url.partition("://")[2].partition("/")
        service, _, number = path.partition("/")
        pairs = [(host, int(port or 26379)) for host, _, port in (h.partition(":") for h in hosts.split(","))]
        sentinel: Any = Sentinel(pairs, sentinel_kwargs=options)  # type: ignore[no-untyped-call]
        master: redis.Redis = sentinel.master_for(service or "mymaster", db=int(number or 0), **options)
        return master
    return redis.Redis.from_url(url, **options)


@dataclass(frozen=True, slots=True)
class Taken:
    """A ticket in this worker's in-flight list. `reference` is None for an id that is not ours."""

    job_id: str
    priority: Priority
    reference: tuple[int, int] | None


class Ended(NamedTuple):
    """How a ticket's run ended, for RQ's registries. `ok` None: a ticket worth nothing, not to be filed.

    `error` says why if it failed. The times are epoch seconds of the database's clock; 0 stands for now.
    """

    job_id: str
    priority: Priority
    ok: bool | None
    error: str = ""
    started_at: float = 0.0
    ended_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Look:
    """A queue as one script saw it. `head_pushed_at` is the database's clock, epoch seconds."""

    incarnation: int
    length: int
    head_pushed_at: float | None
    job_ids: frozenset[str]


@dataclass(frozen=True, slots=True)
class Overflow:
    """A queue whose window is full: from the task id `start` on, rows may wait without a ticket."""

    start: int
    length: int


@dataclass(frozen=True, slots=True)
class Refilled:
    """What a refill did: tickets pushed, and the lowest id that was refused while the last rows were read."""

    pushed: int
    late: int | None = None


class RQQueueManager:
    """The four queues of one Redis, with their `bells`. `time_limit` gives a ticket's RQ time-out in seconds;
    `connect_bell(seconds)` makes a client whose answers may take that long."""

    def __init__(
        self,
        client: redis.Redis,
        *,
        connect_bell: Callable[[float], redis.Redis] | None = None,
        prefix: str = "",
        window: int = WINDOW,
        health: RedisHealth | None = None,
        time_limit: Callable[[Ticket], int] = lambda ticket: ticket.timeout_seconds or 3600,
        database_clock: Callable[[], float] = time.time,
    ) -> None:
        self.client = client
        self.health = health or RedisHealth()
        self.bells = Bells(client, self._call, connect=connect_bell, prefix=prefix, health=self.health)
        self.prefix = prefix
        self.window = window
        self._time_limit = time_limit
        self.database_clock = database_clock
        self._job_prefix = f"{RQ_KEY_PREFIX}:job:"
        self._marker_key = f"twintrack:{prefix}marker"
        self._scripts = Scripts(client)
        self.workers = WorkerRegistry(self._call, queue_prefix=prefix, in_flight_key=self.in_flight_key)

    # --- keys ---------------------------------------------------------------------------------------

    def queue_name(self, priority: Priority) -> str:
        return f"{self.prefix}{priority}"

    def queue_key(self, priority: Priority) -> str:
        """The real list key, as `redis-cli llen` takes it."""
        return f"{RQ_KEY_PREFIX}:queue:{self.queue_name(priority)}"

    def bell_key(self, priority: Priority) -> str:
        return self.bells.of(Track.REDIS, priority).key

    def overflow_key(self, priority: Priority) -> str:
        return f"twintrack:{self.prefix}overflow:{priority}"

    def in_flight_key(self, worker_id: str) -> str:
        return f"twintrack:{self.prefix}inflight:{worker_id}"

    # --- pushing ------------------------------------------------------------------------------------

    def push(self, tickets: Sequence[Ticket], *, front: bool = False, missing_only: bool = False) -> int:
        """Append tickets to their queues in the given order, or put them before all others in that order.

        With `missing_only`, what has a hash already is left out. Returns how many were pushed: at the end of
        a queue the window is the limit, and what is refused there is pushed by the refiller when its turn has
        come. Raises `RedisUnavailable`, also when Redis is out of memory: the sweeper pushes again later.
        """
        groups: dict[Priority, list[Ticket]] = defaultdict(list)
        for ticket in tickets:
            groups[ticket.priority].append(ticket)
        how = "front" if front else "missing" if missing_only else "end"
        pushed = 0
        for priority, group in groups.items():
            chunks = [group[start : start + PUSH_CHUNK] for start in range(0, len(group), PUSH_CHUNK)]
            for chunk in reversed(chunks) if front else chunks:
                pushed += self._push_chunk(priority, chunk, how).pushed
        return pushed

    def refill(
        self, priority: Priority, tickets: Sequence[Ticket], *, start: int, next_start: int, last: bool
    ) -> Refilled | None:
        """Push, at the end, tickets of the rows that follow the overflow's `start`, if they have none.

        The overflow begins at `next_start` then; with `last` it is over. At most `PUSH_CHUNK` at a time.
        None: somebody else has moved its start, and nothing was done. Raises `RedisUnavailable`.
        """
        refilled = self._push_chunk(priority, tickets, "refill", (start, next_start, int(last)))
        return None if refilled.pushed < 0 else refilled

    def _push_chunk(
        self, priority: Priority, tickets: Sequence[Ticket], how: str, place: tuple[int, int, int] = (0, 0, 0)
    ) -> Refilled:
        now = self.database_clock()
        arguments: list[Any] = [self.queue_name(priority), self._job_prefix, time_text(now), f"{now:.6f}"]
        arguments += [KEEP_SECONDS, BELL_BOUND, how, self.window, *place]
        if how == "front":
            tickets = tickets[::-1]
        limits: dict[tuple[str, int | None], int] = {}  # most tickets of a chunk have the same one
        for ticket in tickets:
            task_id, epoch, _, name, timeout = ticket
            limit = limits.get((name, timeout))
            if limit is None:
                limit = limits[name, timeout] = self._time_limit(ticket)
            arguments += (ticket.job_id, pack_call(task_id, epoch), limit, name)
        keys = [f"{RQ_KEY_PREFIX}:queues", self.queue_key(priority), self.bell_key(priority)]
        pushed, late = self._call("push", [*keys, self.overflow_key(priority)], arguments)
        return Refilled(int(pushed), int(late) if late else None)

    # --- the window ---------------------------------------------------------------------------------

    def overflows(self) -> dict[Priority, Overflow]:
        """The queues whose rows do not all have a ticket. For the refiller: what was refused counts in."""
        keys = [self.overflow_key(priority) for priority in PRIORITIES]
        keys += [self.queue_key(priority) for priority in PRIORITIES]
        answer = self._call("overflow", keys, [])
        found = list(zip(PRIORITIES, answer[::2], answer[1::2], strict=True))
        for priority, start, _ in found:
            if start and not start.isdigit():
                self.close_overflow(priority)  # rows behind a spoilt mark are found by their missing tickets
        return {priority: Overflow(int(at), int(length)) for priority, at, length in found if at.isdigit()}

    def open_overflow(self, priority: Priority, start: int) -> None:
        """Rows from this id on are found to have no ticket: they are for the refiller."""
        with self.health.watch():
            self.client.hsetnx(self.overflow_key(priority), "from", str(start))

    def close_overflow(self, priority: Priority) -> None:
        """No row of this queue is DISPATCHED any more."""
        with self.health.watch():
            self.client.delete(self.overflow_key(priority))

    # --- a worker's calls -----------------------------------------------------------------------------

    def take(self, worker_id: str, priorities: Sequence[Priority], count: int) -> list[Taken]:
        """Move up to `count` tickets, in strict order of the priorities, to the in-flight list."""
        keys = [self.in_flight_key(worker_id), *(self.queue_key(priority) for priority in priorities)]
        return _taken(self._call("take", keys, [count]), priorities)

    def turn(
        self, worker_id: str, ended: Sequence[Ended], priorities: Sequence[Priority], count: int
    ) -> list[Taken]:
        """`finish` and `take` in one round trip."""
        if not ended:
            return self.take(worker_id, priorities, count)
        arguments = self._finish_arguments(worker_id, ended, KEEP_SECONDS)
        keys = [self.in_flight_key(worker_id), *(self.queue_key(priority) for priority in priorities)]
        calls = [("finish", self._finish_keys(worker_id), arguments), ("take", keys, [count])]
        return _taken(self._call_all(calls)[1], priorities)

    def finish(self, worker_id: str, ended: Sequence[Ended], *, keep_seconds: int = KEEP_SECONDS) -> None:
        """Take ended tickets out of flight and file them where RQ's tools look."""
        if ended:
            arguments = self._finish_arguments(worker_id, ended, keep_seconds)
            self._call("finish", self._finish_keys(worker_id), arguments)

    def _finish_keys(self, worker_id: str) -> list[str]:
        return [self.in_flight_key(worker_id), self.workers.executions_key(worker_id)]

    def _finish_arguments(self, worker_id: str, ended: Sequence[Ended], keep_seconds: int) -> list[Any]:
        now = self.database_clock()
        arguments: list[Any] = [self._job_prefix, f"{RQ_KEY_PREFIX}:results:", f"{RQ_KEY_PREFIX}:"]
        arguments += [int(now) + keep_seconds, keep_seconds, KEPT_ENTRIES]
        arguments += [self.workers.name_of(worker_id), execution_id(worker_id)]
        groups: dict[tuple[Any, ...], list[Any]] = defaultdict(list)
        for ticket in ended:
            word, packed = _filing(ticket)
            group = groups[word, ticket.priority, ticket.started_at or now, ticket.ended_at or now]
            group += (ticket.job_id, packed)
        for (word, priority, began, over), tickets in groups.items():
            arguments += [word, self.queue_name(priority), time_text(began), f"{began:.6f}"]
            arguments += [time_text(over), f"{over:.6f}", len(tickets) // 2, *tickets]
        return arguments

    def give_back(self, worker_id: str, taken: Sequence[Taken]) -> None:
        """Return tickets that were taken but not claimed to the head of their queues."""
        groups: dict[Priority, list[str]] = defaultdict(list)
        for ticket in taken:
            groups[ticket.priority].append(ticket.job_id)
        for priority, job_ids in groups.items():
            self._call("give_back", [self.in_flight_key(worker_id), self.queue_key(priority)], job_ids)

    def in_flight(self, worker_id: str) -> list[tuple[int, int]]:
        """(id, epoch) of what a worker has taken and not ended, oldest first; foreign ids are left out."""
        with self.health.watch():
            job_ids: Any = self.client.lrange(self.in_flight_key(worker_id), 0, -1)
        return [pair for job_id in job_ids if (pair := parse_job_id(job_id)) is not None]

    def close(self) -> None:
        self.client.close()
        self.bells.close()

    def leave(self, worker_id: str) -> None:
        """Delete a worker's in-flight list: what it still names is found again through the rows."""
        with self.health.watch():
            self.client.delete(self.in_flight_key(worker_id))

    # --- looking ------------------------------------------------------------------------------------

    def look(self, priority: Priority, *, first: int = 0, last: int = -1) -> Look:
        """The queue and the server's incarnation in one script; `first` to `last` bound the ids returned."""
        keys = [self.queue_key(priority), self._marker_key]
        arguments = [first, last, secrets.token_hex(8), self._job_prefix]
        marker, run_id, replication_id, length, pushed_at, ids = self._call("look", keys, arguments)
        return Look(
            incarnation=_incarnation(marker, run_id, replication_id),
            length=int(length),
            head_pushed_at=float(pushed_at) if pushed_at else None,
            job_ids=frozenset(_text(job_id) for job_id in ids),
        )

    def lengths(self) -> dict[Priority, int]:
        """Tickets waiting per queue: `LLEN` of the real keys."""
        with self.health.watch():
            pipeline = self.client.pipeline(transaction=False)
            for priority in PRIORITIES:
                pipeline.llen(self.queue_key(priority))
            return dict(zip(PRIORITIES, map(int, pipeline.execute()), strict=True))

    def memory(self) -> tuple[int, int]:
        """(used, maximum) bytes; maximum 0 means no limit."""
        with self.health.watch():
            info: dict[str, Any] = self.client.info("memory")
        return int(info["used_memory"]), int(info.get("maxmemory", 0))

    def ping(self) -> bool:
        """True if Redis answers; counts as a call for the health."""
        try:
            with self.health.watch():
                return bool(self.client.ping())
        except RedisUnavailable:
            return False

    # --- clearing -------------------------------------------------------------------------------------

    def remove(self, priority: Priority, job_ids: Iterable[str], *, from_the_head: bool = False) -> int:
        """Take tickets out of a queue wherever they stand. Returns how many were there.

        Each is searched for through the whole queue; `from_the_head` only until it was found once.
        """
        ids = list(job_ids)
        if not ids:
            return 0
        arguments = [self._job_prefix, KEEP_TAKEN_SECONDS, int(from_the_head), *ids]
        return int(self._call("remove", [self.queue_key(priority)], arguments))

    def clear(self, priority: Priority) -> int:
        """Delete all tickets of a queue, in chunks. Returns how many there were."""
        removed = 0
        key = self.queue_key(priority)
        while True:
            with self.health.watch():
                ids: Any = self.client.lpop(key, 1000) or []
                if not ids:
                    return removed
                self.client.unlink(*(f"{self._job_prefix}{_text(job_id)}" for job_id in ids))
            removed += len(ids)

    def _call(self, script: str, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        return self._call_all([(script, keys, arguments)])[0]

    def _call_all(self, calls: Sequence[Call]) -> list[Any]:
        with self.health.watch():
            return self._scripts.run(calls)


def _filing(ticket: Ended) -> tuple[str, bytes]:
    """The word for how it ended, and the return value or the error as RQ packs it."""
    if ticket.ok is None:
        return "gone", b""
    if not ticket.ok:
        return "failed", pack_error(ticket.error)
    reference = parse_job_id(ticket.job_id)
    return "finished", pack_result(ticket_result(reference[0], Status.COMPLETED)) if reference else b""


def _taken(flat: Sequence[Any], priorities: Sequence[Priority]) -> list[Taken]:
    return [
        Taken(_text(job_id), priorities[int(position) - 1], parse_job_id(job_id))
        for position, job_id in zip(flat[::2], flat[1::2], strict=True)
    ]


def _incarnation(*parts: bytes | str) -> int:
    """63 bits of a hash over marker, run id and replication id; never 0, which means unconfirmed."""
    digest = hashlib.blake2b("|".join(map(_text, parts)).encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 1) or 1


def _text(value: bytes | str) -> str:
    # an id that somebody else pushed may be any bytes, and must not stop the worker that takes it
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value
