"""Servers that stop, freeze, lose their data or have no memory left."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
import redis

from app.tasks.errors import RedisUnavailable
from app.tasks.model import PRIORITIES, Priority, Ticket
from app.tasks.tickets import RQQueueManager, connect
from app.tasks.tickets.manager import Ended
from tests.servers import RedisServer
from tests.waiting import wait_until

WORKER = "here:1"


def several(first: int, count: int) -> list[Ticket]:
    return [Ticket(n, 1, Priority.NORMAL, "test.noop") for n in range(first, first + count)]


@pytest.fixture
def own(private_redis: RedisServer) -> Iterator[RQQueueManager]:
    """Queues in a server that the test may stop. A slow answer is none that fails."""
    client = connect(private_redis.url, answer_seconds=30)
    yield RQQueueManager(client)
    client.close()


def test_a_restart_is_a_new_incarnation_even_if_no_data_was_lost(
    private_redis: RedisServer, own: RQQueueManager
) -> None:
    own.push(several(1, 3))
    before = own.look(Priority.NORMAL)
    private_redis.stop()
    private_redis.start()
    after = own.look(Priority.NORMAL)
    assert after.job_ids == before.job_ids
    assert after.incarnation != before.incarnation


def test_an_older_snapshot_is_a_new_incarnation(private_redis: RedisServer, own: RQQueueManager) -> None:
    own.push(several(1, 1))
    own.look(Priority.NORMAL)
    private_redis.stop()
    data, copy = private_redis.folder / "appendonlydir", private_redis.folder / "snapshot"
    shutil.copytree(data, copy)
    private_redis.start()
    own.push(several(2, 1))
    newest = own.look(Priority.NORMAL)
    private_redis.kill9()
    shutil.rmtree(data)
    shutil.copytree(copy, data)
    private_redis.start()
    restored = own.look(Priority.NORMAL)
    assert restored.job_ids == {"t1-e1"}
    assert restored.incarnation != newest.incarnation


def test_a_connection_that_a_restart_has_cut_heals_without_a_failed_call(
    private_redis: RedisServer, own: RQQueueManager
) -> None:
    own.push(several(1, 1))
    private_redis.stop()
    private_redis.start()
    own.push(several(2, 1))
    assert own.lengths()[Priority.NORMAL] == 2
    assert own.health.away_seconds == 0


def test_a_killed_server_is_away_for_every_call_and_back_with_the_first_answer(
    private_redis: RedisServer, own: RQQueueManager
) -> None:
    own.push(several(1, 1))
    (taken,) = own.take(WORKER, PRIORITIES, 1)
    private_redis.kill9()
    calls = (
        lambda: own.push(several(2, 1)),
        lambda: own.take(WORKER, PRIORITIES, 1),
        lambda: own.finish(WORKER, [Ended(taken.job_id, taken.priority, True)]),
        lambda: own.give_back(WORKER, [taken]),
        lambda: own.look(Priority.LOW),
        lambda: own.remove(Priority.LOW, ["t1-e1"]),
        lambda: own.clear(Priority.LOW),
        lambda: own.leave(WORKER),
        lambda: own.bells.wait([own.bells.due], seconds=0.1),
        own.lengths,
        own.memory,
    )
    for call in calls:
        with pytest.raises(RedisUnavailable):
            call()
    assert not own.ping()
    assert own.health.away_seconds > 0
    private_redis.start()
    assert own.ping()
    assert own.health.away_seconds == 0


def test_a_frozen_server_is_away_after_the_time_for_an_answer(
    private_redis: RedisServer, own: RQQueueManager
) -> None:
    own.push(several(1, 1))
    private_redis.freeze()
    with connect(private_redis.url, answer_seconds=0.5) as client, pytest.raises(RedisUnavailable):
        RQQueueManager(client).lengths()
    private_redis.thaw()
    wait_until(own.ping, deadline_seconds=60, what="the thawed server answers")
    assert own.lengths()[Priority.NORMAL] == 1


def test_without_memory_no_ticket_is_pushed_but_those_that_are_there_are_worked_off(
    private_redis: RedisServer, own: RQQueueManager
) -> None:
    own.push(several(1, 3))
    with redis.Redis.from_url(private_redis.url) as client:
        client.config_set("maxmemory", "100kb")
        with pytest.raises(RedisUnavailable, match="memory"):
            own.push(several(4, 1))
        assert own.health.worth_a_try
        taken = own.take(WORKER, PRIORITIES, 2)
        assert [one.reference for one in taken] == [(1, 1), (2, 1)]
        own.finish(WORKER, [Ended(taken[0].job_id, taken[0].priority, True)])
        own.give_back(WORKER, taken[1:])
        assert own.lengths()[Priority.NORMAL] == 2
        client.config_set("maxmemory", "0")
    own.push(several(4, 1))
    assert own.look(Priority.NORMAL).job_ids == {"t2-e1", "t3-e1", "t4-e1"}


def test_a_server_that_cannot_save_and_refuses_writes_counts_as_away(
    private_redis: RedisServer, own: RQQueueManager
) -> None:
    with redis.Redis.from_url(private_redis.url) as client:
        client.config_set("save", "3600 1")
        (private_redis.folder / "dump.rdb").mkdir()  # nothing can be renamed over a folder
        client.set("x", 1)
        client.bgsave()
        wait_until(
            lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err",
            deadline_seconds=60,
            what="saving fails",
        )
    with pytest.raises(RedisUnavailable):
        own.push(several(1, 1))
    assert own.health.away_seconds > 0
    assert not own.ping()
    private_redis.kill9()  # in good order it would not go without saving
