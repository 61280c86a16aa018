"""An installation of many rows and tickets, with faults planted in it, by plain SQL and plain Redis commands.

What is planted is known by key and class, so that a verification can be held against it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgpack
import redis
from sqlalchemy import Connection, Engine, text

from app.tasks.model import PRIORITIES, Ticket
from app.tasks.tickets import RQQueueManager
from app.transfer.digests import TimeLimits

SHARE_WAITING = 70  # percent of the rows that are moved; the others have ended
FIRST_ID = 5_000_000_000
ROWS_AT_ONCE = 2_000
NAMES = ("test.noop", "test.other", "test.slow")
LIMITS = TimeLimits(3600, {"test.slow": 77})


@dataclass(frozen=True, slots=True)
class Planted:
    """Where a fault is, as the verifier must name it."""

    fault: str
    key: str


class Field:
    """Rows that waited in the database, some of which are then moved to Redis, and what is planted there."""

    def __init__(self, engine: Engine, client: redis.Redis, *, seed: int = 1) -> None:
        self._engine = engine
        self._client = client
        self._random = random.Random(seed)
        self.queues: dict[int, list[str]] = {rank: [] for rank in range(4)}
        self.waiting: list[int] = []
        self.ended: list[int] = []
        self._ranks: dict[int, int] = {}
        self._names: dict[int, str] = {}
        self._used: set[int] = set()

    # --- before the move ----------------------------------------------------------------------------

    def sow(self, rows: int) -> None:
        """Rows with ascending ids: most wait in the database at epoch 1, the others have ended."""
        ids = range(FIRST_ID, FIRST_ID + 3 * rows, 3)
        for start in range(0, rows, ROWS_AT_ONCE):
            values = [self._row(task_id) for task_id in ids[start : start + ROWS_AT_ONCE]]
            with self._engine.begin() as on:
                _insert(on, values)

    def _row(self, task_id: int) -> dict[str, Any]:
        waits = self._random.randrange(100) < SHARE_WAITING
        rank = self._ranks[task_id] = self._random.choice((0, 1, 2, 2, 2, 3))
        name = self._names[task_id] = self._random.choice(NAMES)
        (self.waiting if waits else self.ended).append(task_id)
        moment = "2026-03-01 10:00:00.000000"
        return {
            "id": task_id,
            "name": name,
            "status": "QUEUED" if waits else "COMPLETED",
            "priority": rank,
            "payload": f'{{"number": {task_id}, "text": "Gr\u00fc\u00dfe \U0001f600 {"x" * 120}"}}',
            "user_id": self._random.choice((None, "anna", "")),
            "created_at": moment,
            "waiting_since": moment if waits else None,
            "attempt": 0 if waits else 1,
        }

    # --- the move -----------------------------------------------------------------------------------

    def move(self, tickets: RQQueueManager) -> None:
        """All waiting rows to Redis, the rows by plain SQL."""
        with self._engine.begin() as on:
            statement = "UPDATE tasks SET status = 'DISPATCHED', epoch = 2 WHERE status = 'QUEUED'"
            on.execute(text(statement))
        made = [Ticket(i, 2, PRIORITIES[self._ranks[i]], self._names[i]) for i in self.waiting]
        tickets.push(made)
        for task_id in self.waiting:
            self.queues[self._ranks[task_id]].append(job_of(task_id))

    # --- faults -------------------------------------------------------------------------------------

    def plant(self, count: int) -> list[Planted]:
        """As many faults, of all classes in turn, each on a row of its own."""
        planters = self._planters()
        with self._engine.begin() as on:
            planted = [plant(on) for _, plant in zip(range(count), _round_about(planters), strict=False)]
        self._write_queues()
        return planted

    def _planters(self) -> Sequence[Callable[[Connection], Planted]]:
        return (
            *(self._missing, self._doubled, self._wrong_queue, self._wrong_epoch, self._wrong_function),
            *(self._wrong_arguments, self._wrong_timeout, self._ended, self._changed, self._vanished),
            *(self._inverted, self._foreign, self._queued, self._serializer, self._hollow, self._orphan),
        )

    def _victim(self, among: Sequence[int] | None = None) -> int:
        """A row that nothing was planted on; its neighbours in the queue stay as they are, too."""
        ids = self.waiting if among is None else among
        while True:
            place = self._random.randrange(2, len(ids) - 2)
            if not self._used & set(ids[place - 2 : place + 3]):
                self._used.add(ids[place])
                return ids[place]

    def _queue_of(self, task_id: int) -> list[str]:
        return self.queues[self._ranks[task_id]]

    def _missing(self, on: Connection) -> Planted:
        victim = self._victim()
        self._queue_of(victim).remove(job_of(victim))
        return Planted("missing ticket", str(victim))

    def _doubled(self, on: Connection) -> Planted:
        victim = self._victim()
        self._queue_of(victim).append(job_of(victim))
        return Planted("doubled ticket", str(victim))

    def _wrong_queue(self, on: Connection) -> Planted:
        victim = self._victim()
        self._queue_of(victim).remove(job_of(victim))
        rank = (self._ranks[victim] + 1) % 4
        self.queues[rank].append(job_of(victim))
        self._client.hset(f"rq:job:{job_of(victim)}", "origin", PRIORITIES[rank].value)
        return Planted("wrong queue", str(victim))

    def _wrong_epoch(self, on: Connection) -> Planted:
        victim = self._victim()
        other = job_of(victim, self._random.choice((1, 3, 7)))
        queue = self._queue_of(victim)
        queue[queue.index(job_of(victim))] = other
        self._client.rename(f"rq:job:{job_of(victim)}", f"rq:job:{other}")
        return Planted("wrong epoch", str(victim))

    def _wrong_function(self, on: Connection) -> Planted:
        return self._with_data("wrong function", ["os.system", None, ["true"], {}])

    def _wrong_arguments(self, on: Connection) -> Planted:
        return self._with_data("wrong arguments", ["app.jobs.run_ticket", None, [4711, 2], {}])

    def _with_data(self, fault: str, call: list[Any]) -> Planted:
        victim = self._victim()
        self._client.hset(f"rq:job:{job_of(victim)}", "data", b"\x01" + msgpack.packb(call))
        return Planted(fault, str(victim))

    def _serializer(self, on: Connection) -> Planted:
        victim = self._victim()
        self._client.hset(f"rq:job:{job_of(victim)}", "data", b"\x80\x04K\x01.")
        return Planted("wrong serializer", str(victim))

    def _wrong_timeout(self, on: Connection) -> Planted:
        victim = self._victim()
        self._client.hset(f"rq:job:{job_of(victim)}", "timeout", "180")
        return Planted("wrong time-out", str(victim))

    def _hollow(self, on: Connection) -> Planted:
        victim = self._victim()
        self._client.delete(f"rq:job:{job_of(victim)}")
        return Planted("ticket without envelope", str(victim))

    def _ended(self, on: Connection) -> Planted:
        return self._with_status(on, "CANCELLED", "ticket for an ended row")

    def _queued(self, on: Connection) -> Planted:
        return self._with_status(on, "QUEUED", "ticket for a queued row")

    def _with_status(self, on: Connection, status: str, fault: str) -> Planted:
        victim = self._victim()
        on.execute(text("UPDATE tasks SET status = :s WHERE id = :id"), {"s": status, "id": victim})
        return Planted(fault, str(victim))

    def _changed(self, on: Connection) -> Planted:
        victim = self._victim(self._random.choice((self.waiting, self.ended)))
        column, value = self._random.choice((("payload", "{}"), ("user_id", "eve"), ("max_retries", 9)))
        statement = text(f"UPDATE tasks SET {column} = :value WHERE id = :id")
        on.execute(statement, {"value": value, "id": victim})
        return Planted("changed row", str(victim))

    def _vanished(self, on: Connection) -> Planted:
        victim = self._victim(self.ended)
        on.execute(text("DELETE FROM tasks WHERE id = :id"), {"id": victim})
        return Planted("vanished row", str(victim))

    def _inverted(self, on: Connection) -> Planted:
        """Two neighbours of one push change places."""
        while True:
            victim = self._victim()
            queue = self._queue_of(victim)
            place = queue.index(job_of(victim))
            ahead = queue[place - 1] if place else ""
            other = int(ahead[1:].partition("-")[0]) if ahead.endswith("-e2") else 0
            if other and other not in self._used and self._same_push(ahead, job_of(victim)):
                self._used.add(other)
                queue[place - 1], queue[place] = queue[place], queue[place - 1]
                return Planted("order inversion", str(other))
            self._used.discard(victim)

    def _same_push(self, *job_ids: str) -> bool:
        return len({self._client.hget(f"rq:job:{job_id}", "pushed_at") for job_id in job_ids}) == 1

    def _foreign(self, on: Connection) -> Planted:
        key = f"{self._random.getrandbits(64):016x}"
        self.queues[self._random.randrange(4)].append(key)
        return Planted("foreign key", key)

    def _orphan(self, on: Connection) -> Planted:
        nobody = FIRST_ID + 1 + 3 * len(self._used)
        self._used.add(nobody)
        self.queues[2].append(job_of(nobody))
        return Planted("orphan ticket", str(nobody))

    def _write_queues(self) -> None:
        for rank, entries in self.queues.items():
            key = f"rq:queue:{PRIORITIES[rank].value}"
            self._client.delete(key)
            for start in range(0, len(entries), 5_000):
                self._client.rpush(key, *entries[start : start + 5_000])


def time_limit(ticket: Ticket) -> int:
    """As the system's parts know it, from the same rules."""
    return LIMITS.of(ticket.name, ticket.priority.rank, ticket.timeout_seconds)


def job_of(task_id: int, epoch: int = 2) -> str:
    return f"t{task_id}-e{epoch}"


def _insert(on: Connection, rows: Sequence[dict[str, Any]]) -> None:
    names = list(rows[0])
    marks = ", ".join(f":{name}" for name in names)
    on.execute(text(f"INSERT INTO tasks ({', '.join(names)}) VALUES ({marks})"), list(rows))


def _round_about(planters: Sequence[Callable[[Connection], Planted]]) -> Iterator[Any]:
    while True:
        yield from planters
