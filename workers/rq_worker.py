"""A worker class for RQ's own command line: `rq worker --worker-class workers.rq_worker.TwintrackWorker …`.

Our tickets are worked by one of our own workers in a child process, in batches, as in a pool. RQ's jobs of
other programs run as RQ runs them, in a child per job, if RQ_ALLOW_FOREIGN_JOBS allows them; else they are
refused unread. Whatever the worker dies of, no job is lost between two lists.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from redis import Redis
from rq import Queue, Worker
from rq.exceptions import DequeueTimeout
from rq.job import Job
from rq.suspension import is_suspended
from rq.utils import as_text

from app.tasks.model import PRIORITIES, Priority
from app.tasks.tickets.manager import KEEP_FOREIGN_SECONDS, Ended, RQQueueManager, connect
from app.tasks.tickets.rq_format import TicketJob, TicketSerializer, parse_job_id
from app.tasks.tickets.scripts import Scripts
from app.tasks.tickets.worker_registry import OURS
from config import Config
from workers.consumers import FOREIGN
from workers.ticket_horse import EXIT_FOREIGN, ORDERLY, TicketHorse

POLL_SECONDS = (0.01, 0.1)  # between two looks at several queues: doubles while nothing comes
LOOK_SECONDS = 0.5  # how soon a job of another program interrupts an idle horse
SUSPENSION_SECONDS = 5.0
CRASH_PAUSE_SECONDS = 1.0

Popped = tuple[str, str]


class TwintrackWorker(Worker):
    """RQ's forking worker, made loss-free over several queues, with our own worker for our own tickets."""

    _max_jobs: int | None = None
    _max_idle: int | None = None
    _tickets_done = 0
    _horse: TicketHorse | None = None
    _foreign_is_next = False

    @cached_property
    def _config(self) -> Config:
        return Config()

    def work(self, *args: Any, **options: Any) -> bool:
        """As RQ's. With `max_jobs`, tickets run one by one, each as a job of its own.

        Raises `ValueError` for queues that this worker may not serve.
        """
        self._max_jobs = options.get("max_jobs")
        self._tickets_done = 0
        self._guard()
        worked = super().work(*args, **options)
        return worked or self._tickets_done > 0

    def _guard(self) -> None:
        ours, foreign = self._our_queues(), self.takes_foreign
        others = [queue.name for queue in self.queues if queue.key not in ours]
        if others and not foreign:
            raise ValueError(
                f"Not queues of Twintrack: {', '.join(others)}. RQ_ALLOW_FOREIGN_JOBS=true serves them, too."
            )
        if ours and not _same_server(self.connection, self._config.RQ_REDIS_URL):
            raise ValueError(
                "This worker's Redis is not that of RQ_REDIS_URL. Start it with -c app.rq_settings."
            )
        if not foreign:
            # maintenance reads job hashes as well, and RQ's default serializer would unpickle them
            self.serializer, self.job_class = TicketSerializer, TicketJob
            for queue in self.queues:
                queue.serializer, queue.job_class = TicketSerializer, TicketJob

    def _our_queues(self) -> dict[str, Priority]:
        """The keys of our own queues, of those that this worker serves, in its order."""
        names = {f"{self._config.RQ_QUEUE_PREFIX}{priority}": priority for priority in PRIORITIES}
        return {queue.key: names[queue.name] for queue in self.queues if queue.name in names}

    # --- what comes next --------------------------------------------------------------------------------

    def dequeue_job_and_maintain_ttl(
        self, timeout: int | None, max_idle_time: int | None = None
    ) -> tuple[Job, Queue] | None:
        """The next job for RQ's own path; tickets are worked on the way."""
        self._max_idle = max_idle_time
        plain, self.queue_class = self.queue_class, _loss_free(self, self.queue_class)
        try:
            while True:
                done = self._tickets_done
                found = super().dequeue_job_and_maintain_ttl(timeout, max_idle_time)
                # a worker that worked tickets meanwhile was not idle
                if found is not None or max_idle_time is None or done == self._tickets_done:
                    return found
        finally:
            self.queue_class = plain

    def pop(self, keys: Sequence[str], timeout: int | None) -> Popped | None:
        """(queue key, job id), with the job in its queue's intermediate list.

        None if there is nothing and `timeout` is None; else raises `DequeueTimeout` after that many seconds.
        """
        ends = None if timeout is None else time.monotonic() + timeout
        if not self.has_horses:
            return self._poll(keys, ends, how="any")
        if ends is not None and self._max_idle is None:
            return self._pop_beside_horse(keys, ends)
        return self._poll(keys, ends, how="first")

    @property
    def has_horses(self) -> bool:
        """False if it works no tickets, or each as a job of its own."""
        return self._max_jobs is None and bool(self._our_queues())

    @property
    def takes_foreign(self) -> bool:
        return self._config.RQ_ALLOW_FOREIGN_JOBS

    def _poll(self, keys: Sequence[str], ends: float | None, *, how: str) -> Popped | None:
        """Look again and again; tickets that come first are worked at once."""
        pause, longest = POLL_SECONDS
        while True:
            found = self._next(keys, how)
            if found is not None and not found[1]:
                if self._drain():
                    continue
                # what stands first may not be claimed now: its queue is paused
                found = self._next(keys, "foreign")
            if found is not None or ends is None:
                return found
            if time.monotonic() >= ends:
                raise DequeueTimeout(0, keys)
            time.sleep(pause)
            pause = min(longest, pause * 2)

    def _drain(self) -> int:
        """Have the waiting tickets worked. Returns how many tasks that were."""
        self._start_horse(until_empty=True)
        before = self._tickets_done
        while self._horse is not None:
            self._watch_horse(LOOK_SECONDS)
        return self._tickets_done - before

    def _pop_beside_horse(self, keys: Sequence[str], ends: float) -> Popped:
        """The horse stays, waits for tickets and works them, until a job of another program comes first."""
        next_suspension_check = 0.0
        while time.monotonic() < ends:
            if time.monotonic() >= next_suspension_check:
                next_suspension_check = time.monotonic() + SUSPENSION_SECONDS
                if is_suspended(self.connection):
                    self._end_horse()
                    self.check_for_suspension(burst=False)
            if self._horse is None:
                found = self._next(keys, "foreign" if self._foreign_is_next else "first")
                self._foreign_is_next = False
                if found is not None and found[1]:
                    return found
                self._start_horse(until_empty=False)
                # its row in the database stands for both
                self.connection.hset(self.key, OURS, "1")
            elif self.takes_foreign:
                self._call_horse_back(keys)
            wait = LOOK_SECONDS if self.takes_foreign else SUSPENSION_SECONDS
            self._watch_horse(max(0.0, min(wait, ends - time.monotonic())))
        raise DequeueTimeout(0, keys)

    def _call_horse_back(self, keys: Sequence[str]) -> None:
        """A job of another program waits: an idle horse would not hear of it."""
        found = self._look(keys)
        if found is None or self._horse is None:
            return
        key, tickets_first = found
        priority = self._our_queues().get(key)
        if priority is not None:
            # it finds the job itself; a busy one does so without a bell
            bell = f"twintrack:{self._config.RQ_QUEUE_PREFIX}bell:{priority}"
            if not self.connection.llen(bell):
                self.connection.rpush(bell, "1")
        elif not tickets_first:
            self._end_horse()

    def _next(self, keys: Sequence[str], how: str) -> Popped | None:
        answer = self._ask(keys, how)
        return None if answer is None else (keys[int(answer[0]) - 1], as_text(answer[1]))

    def _look(self, keys: Sequence[str]) -> tuple[str, int] | None:
        answer = self._ask(keys, "look")
        return None if answer is None else (keys[int(answer[0]) - 1], int(answer[2]))

    def _ask(self, keys: Sequence[str], how: str) -> Any:
        ours = self._our_queues()
        marks = ["1" if key in ours else "0" for key in keys]
        return self._scripts.run([("next_job", keys, [how, *marks])])[0]

    @cached_property
    def _scripts(self) -> Scripts:
        return Scripts(self.connection)

    # --- the horse that works tickets -------------------------------------------------------------------

    def _start_horse(self, *, until_empty: bool) -> None:
        priorities = list(self._our_queues().values())
        self._horse = TicketHorse(self._config, priorities, name=self.name, until_empty=until_empty)
        self._horse_pid = self._horse.pid

    def _watch_horse(self, seconds: float | None) -> None:
        horse = self._horse
        if horse is None or (code := horse.wait(seconds)) is None:
            return
        self._horse, self._horse_pid = None, 0
        self._tickets_done += horse.done
        self._foreign_is_next = code == EXIT_FOREIGN
        if code not in ORDERLY:
            self.log.warning("Worker %s: the process that works tickets ended with %s", self.name, code)
            time.sleep(CRASH_PAUSE_SECONDS)

    def _end_horse(self) -> None:
        if self._horse is not None:
            self._horse.stop()
            self._watch_horse(None)

    def teardown(self) -> None:
        """As RQ's, once the running tasks are over."""
        try:
            self._end_horse()
        finally:
            super().teardown()

    # --- RQ's own path for a job ------------------------------------------------------------------------

    def refuse(self, queue_key: str, job_id: str) -> None:
        """File a job of another program as failed, unread."""
        self.log.warning("Worker %s: refused job %s of another program", self.name, job_id[:80])
        tickets = RQQueueManager(self.connection, prefix=self._config.RQ_QUEUE_PREFIX)
        refused = Ended(job_id, self._our_queues()[queue_key], False, FOREIGN)
        tickets.finish(self.name, [refused], keep_seconds=KEEP_FOREIGN_SECONDS)
        self.connection.lrem(f"{queue_key}:intermediate", 1, job_id)

    def prepare_job_execution(self, job: Job, remove_from_intermediate_queue: bool = False) -> None:
        """As RQ's; with several queues, too, a job that starts leaves the intermediate list."""
        super().prepare_job_execution(job, remove_from_intermediate_queue=True)


def _loss_free(worker: TwintrackWorker, queue_class: type[Queue]) -> type[Queue]:
    """The queue class with pops that keep a job in a list at every moment."""

    class LossFree(queue_class):  # type: ignore[misc, valid-type]
        @classmethod
        def lpop(cls, queue_keys: Sequence[str], timeout: int | None, connection: Any = None) -> Any:
            return worker.pop(queue_keys, timeout)

        @classmethod
        def lmove(cls, connection: Any, queue_key: str, timeout: int | None) -> Any:
            if not worker.has_horses:
                return super().lmove(connection, queue_key, timeout)
            return worker.pop([queue_key], timeout)

        @classmethod
        def _fetch_dequeued_job(cls, connection: Any, queue_key: str, job_id: str, **options: Any) -> Any:
            if parse_job_id(job_id) is not None:
                options |= {"job_class": TicketJob, "serializer": TicketSerializer}
            elif not worker.takes_foreign:
                return worker.refuse(queue_key, job_id)
            return super()._fetch_dequeued_job(connection, queue_key, job_id, **options)

    return LossFree


def _same_server(connection: Redis, url: str) -> bool:
    """True if both are the same database of the same server, as far as their settings tell."""
    names = ("host", "port", "path", "db")
    mine, theirs = (
        {name: client.connection_pool.connection_kwargs.get(name) for name in names}
        for client in (connection, connect(url))
    )
    defaults = {"db": 0, "port": 6379}
    return all((mine[n] or defaults.get(n)) == (theirs[n] or defaults.get(n)) for n in names)
