"""Must show: idle processes ask next to nothing, and start what comes at once all the same.

An idle worker looks by itself every 24 s and an idle sweeper every 20 s. What starts within the deadlines
here was rung for.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import select, text

from app.tasks.model import Priority, Status
from app.tasks.schema import tasks
from tests.acceptance.conftest import StackMaker
from tests.acceptance.stack import Stack
from tests.servers import MariaDbServer, PostgresServer, RedisServer
from tests.waiting import wait_until

WELL_BEFORE_A_LOOK_SECONDS = 15


@pytest.fixture(scope="module")
def poller(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One poller and its sweeper on PostgreSQL, without Redis, both asleep and listening. For all tests here:
    a pool takes seconds to start, and sleepers are what they need."""
    with postgres_server.database() as database_url:
        stack = Stack(tmp_path_factory.mktemp("poller"), database_url, None, RQ_ENABLED=False)
        try:
            stack.start_pool(workers=1)
            wait_until(lambda: listeners(stack) == 2, deadline_seconds=60, what="two processes to listen")
            yield stack
        finally:
            stack.close()


LISTENERS = "FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN %'"


def listeners(stack: Stack) -> int:
    database = stack.system.store.database
    return len(database.read(lambda on: on.execute(text(f"SELECT pid {LISTENERS}")).all()))


def submit_and_await(stack: Stack, *, times: int) -> None:
    """Task after task, each into an idle pool."""
    for _ in range(times):
        stack.system.queue.submit(stack.ledger_request())
        await_all(stack)


def await_all(stack: Stack) -> None:
    """Until no task is left, before anybody would look by himself."""
    total = stack.count(*Status)
    stack.wait_until_ended(total, deadline_seconds=WELL_BEFORE_A_LOOK_SECONDS)


def test_a_sleeping_poller_hears_of_each_task_by_notify(poller: Stack) -> None:
    submit_and_await(poller, times=5)


def test_a_poller_whose_connection_of_notices_is_cut_listens_again(poller: Stack) -> None:
    submit_and_await(poller, times=1)
    cut = text(f"SELECT pg_terminate_backend(pid) {LISTENERS}")
    database = poller.system.store.database
    for _ in range(2):
        database.read(lambda on: on.execute(cut).all())
        submit_and_await(poller, times=1)
        wait_until(lambda: listeners(poller) == 2, deadline_seconds=60, what="both to listen again")
        submit_and_await(poller, times=1)


def test_every_verb_that_lets_a_task_wait_in_the_database_wakes_the_poller(poller: Stack) -> None:
    queue = poller.system.queue
    queue.submit_many([poller.ledger_request() for _ in range(3)])
    await_all(poller)
    failed = queue.submit(poller.ledger_request(fail_first=True))  # comes again by itself: retried, then due
    await_all(poller)
    assert poller.starts()[failed.task_id] == 2
    queue.pause([Priority.LOW])
    moved = queue.submit(poller.ledger_request(priority="low"))
    queue.reprioritise(moved.task_id, Priority.HIGH)
    await_all(poller)
    queue.submit(poller.ledger_request(priority="low"))
    queue.resume([Priority.LOW])
    await_all(poller)


def test_a_task_that_is_due_soon_wakes_the_sleeping_sweeper_and_starts_on_time(poller: Stack) -> None:
    submit_and_await(poller, times=1)
    due = datetime.now(UTC) + timedelta(seconds=2)
    submitted = poller.system.queue.submit(poller.ledger_request(run_at=due))
    assert submitted.status is Status.SCHEDULED
    await_all(poller)
    task = poller.system.store.queries.task(submitted.task_id)
    assert task.started_at is not None
    assert timedelta(0) <= task.started_at - due


def test_a_row_that_somebody_held_when_the_poller_looked_starts_once_it_is_free(
    mariadb_server: MariaDbServer, redis_server: RedisServer, redis_url: str, make_stack: StackMaker
) -> None:
    """A claim passes over locked rows: that it won nothing is no proof that nothing waits. The sweeper, which
    rings again for what it sees waiting, is frozen where it holds no row that this test will write."""
    with mariadb_server.database() as database_url:
        stack = make_stack(database_url, redis_url, RQ_HYBRID_MODE=True, RQ_ROLLOUT_PERCENT=0)
        stack.start_pool(workers=1)
        submit_and_await(stack, times=1)
        queue, store = stack.system.queue, stack.system.store
        named = wait_until(lambda: store.registry.lock_holder("sweeper"), deadline_seconds=60, what="it")
        sweeper = int(str(named).split(":")[1])
        wait_until(
            lambda: is_frozen_in_no_transaction(sweeper, mariadb_server),
            deadline_seconds=60,
            what="the sweeper to be stopped between two transactions",
        )
        queue.waking.due()  # the frozen one's wait is over, too: who waits now is a worker
        wait_until(lambda: has_heard(redis_server, workers=2), deadline_seconds=60, what="both to sleep")
        queue.pause([Priority.LOW])
        submitted = queue.submit(stack.ledger_request(priority="low"))
        with store.database.engine.begin() as holder:
            holder.execute(select(tasks.c.id).where(tasks.c.id == submitted.task_id).with_for_update())
            queue.resume([Priority.LOW])
            wait_until(lambda: has_heard(redis_server, workers=2), deadline_seconds=60, what="a look by all")
            assert stack.count(Status.QUEUED) == 1
        await_all(stack)


def is_frozen_in_no_transaction(process: int, server: MariaDbServer) -> bool:
    """Stop the process; where a transaction is open then, which may be its own, let it go on again."""
    os.kill(process, signal.SIGSTOP)
    wait_until(lambda: _state(process) == "T", deadline_seconds=60, what="the process to stop")
    # not innodb_trx: it is a cache that whoever reads it often keeps from being refreshed
    ((_, _, told),) = server.execute("SHOW ENGINE INNODB STATUS")
    if not any(line.startswith("---TRANSACTION") and ", ACTIVE" in line for line in told.splitlines()):
        return True
    os.kill(process, signal.SIGCONT)
    return False


def _state(process: int) -> str:
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]


def has_heard(server: RedisServer, *, workers: int) -> bool:
    """Whether nobody has a ring before him, and so many wait for the next one."""
    client = server.client()
    unheard = [key for key in client.scan_iter("twintrack:*bell:*") if not key.endswith(b"due")]
    return not unheard and client.info("clients")["blocked_clients"] == workers


def test_pollers_beside_redis_are_woken_by_its_bells(
    mariadb_server: MariaDbServer, redis_url: str, make_stack: StackMaker
) -> None:
    with mariadb_server.database() as database_url:
        stack = make_stack(database_url, redis_url, RQ_HYBRID_MODE=True, RQ_ROLLOUT_PERCENT=0)
        stack.start_pool(workers=1)
        submit_and_await(stack, times=3)
        due = datetime.now(UTC) + timedelta(seconds=1)
        stack.system.queue.submit(stack.ledger_request(run_at=due))
        await_all(stack)


def test_redis_workers_wake_for_rows_after_a_flip_and_for_tickets_after_the_next(
    mariadb_server: MariaDbServer, redis_url: str, make_stack: StackMaker
) -> None:
    """Nobody polls beside them: the worker keeps the promise of both tracks."""
    with mariadb_server.database() as database_url:
        stack = make_stack(database_url, redis_url)
        stack.start_pool(workers=1)
        submit_and_await(stack, times=1)
        stack.system.queue.recall()
        submit_and_await(stack, times=2)
        stack.system.queue.dispatch()
        submit_and_await(stack, times=2)


def test_a_pipe_beside_a_sqlite_database_is_the_bell_of_its_pollers(
    tmp_path: Path, make_stack: StackMaker
) -> None:
    stack = make_stack(f"sqlite:///{tmp_path / 'test.db'}", None, RQ_ENABLED=False)
    stack.start_pool(workers=1)
    submit_and_await(stack, times=3)


def test_an_idle_pool_asks_next_to_nothing(
    mariadb_server: MariaDbServer, redis_server: RedisServer, redis_url: str, make_stack: StackMaker
) -> None:
    """Over five seconds; `make bench ONLY=idle` counts whole minutes."""
    with mariadb_server.database() as database_url:
        stack = make_stack(database_url, redis_url)
        stack.start_pool(workers=2)
        submit_and_await(stack, times=1)
        asleep = _Quiet(mariadb_server, redis_server, seconds=5)
        wait_until(asleep.looked, deadline_seconds=60, what="five seconds without a task")
        assert asleep.statements <= 24
        assert asleep.commands <= 60


class _Quiet:
    """What the servers were asked in the last of the stretches of so many seconds."""

    def __init__(self, mariadb: MariaDbServer, redis: RedisServer, *, seconds: float) -> None:
        self._mariadb, self._redis = mariadb, redis
        self._length = timedelta(seconds=seconds)
        self._skip = 1  # what was still to be told of the task
        self._begin()
        self.statements = self.commands = 0

    def looked(self) -> bool:
        if datetime.now(UTC) - self._began < self._length:
            return False
        questions, commands = self._counts()
        self.statements, self.commands = questions - self._questions, commands - self._commands
        self._skip -= 1
        self._begin()
        return self._skip < 0

    def _begin(self) -> None:
        self._began = datetime.now(UTC)
        self._questions, self._commands = self._counts()

    def _counts(self) -> tuple[int, int]:
        questions = int(self._mariadb.execute("SHOW GLOBAL STATUS LIKE 'Questions'")[0][1])
        return questions, int(self._redis.client().info("stats")["total_commands_processed"])
