"""The fallback: pollers take over while Redis is away, and everything returns when it is back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis

from app.tasks.healing import Healed, Sweeper
from app.tasks.model import PRIORITIES, Priority, Status
from app.tasks.queue import TaskQueue
from app.tasks.settings import CoreSettings
from app.tasks.store import Store
from app.tasks.tickets import RedisHealth, RQQueueManager, connect
from tests.clocks import Clock
from tests.contract.parts import HANDLERS, request
from tests.contract.rows import Rows
from tests.servers import RedisServer

PATIENCE = 30.0
RETURN = 5.0


class Setting:
    """A sweeper whose Redis the test may kill, and whose clock moves when the test says so."""

    def __init__(self, store: Store, rows: Rows, server: RedisServer) -> None:
        self.store, self.rows, self.server = store, rows, server
        self.clock = Clock()
        self.client = connect(server.url, answer_seconds=30)  # a slow answer is no outage: the killed refuse
        self.tickets = RQQueueManager(self.client, health=RedisHealth(clock=self.clock))
        self.queue, self.sweeper = self.started(fallback_enabled=True)

    def started(self, **settings: Any) -> tuple[TaskQueue, Sweeper]:
        chosen = CoreSettings(fallback_after_seconds=PATIENCE, return_after_seconds=RETURN, **settings)
        queue = TaskQueue(self.store, HANDLERS, self.tickets, chosen)
        return queue, Sweeper(queue, holder="the sweeper", clock=self.clock)

    def step(self, *, after: float = 0.0) -> Healed:
        self.clock.now += after
        healed = self.sweeper.step()
        assert healed is not None
        return healed

    def steps(self, seconds: float) -> list[str]:
        """A step a second; the notes of all."""
        return [note for _ in range(round(seconds)) for note in self.step(after=1).notes]

    def fall_back(self) -> None:
        self.server.kill9()
        assert self.steps(PATIENCE) == ["fallback began"]

    def queue_list(self) -> list[str]:
        with redis.Redis.from_url(self.server.url, decode_responses=True) as raw:
            return list(raw.lrange("rq:queue:normal", 0, -1))

    @property
    def recorded(self) -> set[bool]:
        found = self.rows.execute("SELECT fallback FROM routing")
        return {bool(row.fallback) for row in found}


@pytest.fixture
def setting(sqlite_store: Store, sqlite_rows: Rows, private_redis: RedisServer) -> Iterator[Setting]:
    made = Setting(sqlite_store, sqlite_rows, private_redis)
    yield made
    made.client.close()


def test_the_fallback_begins_within_the_limit_and_not_with_the_first_failed_call(setting: Setting) -> None:
    ids = [setting.queue.submit(request()).task_id for _ in range(3)]
    setting.step()
    setting.server.kill9()
    assert setting.steps(PATIENCE / 2) == []
    assert setting.recorded == {False}
    assert setting.steps(PATIENCE / 2) == ["fallback began"]
    assert setting.recorded == {True}
    assert {setting.rows.status(task_id) for task_id in ids} == {"QUEUED"}
    claims = setting.store.claims.queued(holder="a poller", limit=9, lease_seconds=30)
    assert [claim.task_id for claim in claims] == ids


def test_a_short_outage_changes_nothing(setting: Setting) -> None:
    setting.queue.submit(request())
    setting.step()
    setting.server.kill9()
    assert setting.steps(PATIENCE / 2) == []
    setting.server.start()
    assert setting.steps(PATIENCE) == []
    assert setting.recorded == {False}
    assert setting.rows.count("DISPATCHED") == 1


def test_submissions_and_moves_go_by_the_database_during_the_fallback(setting: Setting) -> None:
    setting.fall_back()
    assert setting.queue.submit(request()).status is Status.QUEUED
    due = setting.rows.put("SCHEDULED", run_at=setting.rows.at(-1))
    retried = setting.rows.put("FAILED")
    setting.queue.retry(retried)
    setting.step(after=1)
    assert {setting.rows.status(task_id) for task_id in (due, retried)} == {"QUEUED"}


def test_when_redis_is_back_for_a_while_everything_returns_with_one_valid_ticket_each(
    setting: Setting,
) -> None:
    before = [setting.queue.submit(request()).task_id for _ in range(3)]
    setting.step()
    setting.fall_back()
    during = setting.queue.submit(request()).task_id
    setting.server.start()  # with its old data: three tickets that are stale now
    assert len(setting.queue_list()) == 3
    assert setting.steps(RETURN - 1) == []
    assert setting.steps(3) == ["fallback ended"]
    assert setting.recorded == {False}
    assert setting.queue_list() == [*(f"t{task_id}-e3" for task_id in before), f"t{during}-e2"]
    answer = setting.store.claims.tickets([(i, 3) for i in before], holder="w", lease_seconds=30)
    assert len(answer.won) == 3


def test_the_return_begins_with_an_empty_queue_however_many_tickets_are_stale(setting: Setting) -> None:
    setting.queue.submit_many([request() for _ in range(400)])
    setting.step()
    setting.fall_back()
    setting.server.start()
    while "fallback ended" not in setting.step(after=1).notes:
        assert len(setting.queue_list()) == 400
    assert len(setting.queue_list()) == 400
    assert {job_id.partition("-")[2] for job_id in setting.queue_list()} == {"e3"}


def test_a_redis_that_comes_and_goes_does_not_end_the_fallback(setting: Setting) -> None:
    setting.fall_back()
    for _ in range(2):
        setting.server.start()
        assert setting.steps(RETURN - 2) == []
        setting.server.kill9()
        assert setting.steps(3) == []
    assert setting.recorded == {True}


def test_a_task_that_runs_goes_on_through_the_fallback_and_back(setting: Setting) -> None:
    running = setting.rows.put("PROCESSING", lease_until=setting.rows.at(600))
    before = setting.rows.row(running)
    setting.fall_back()
    setting.server.start()
    setting.steps(RETURN + 3)
    assert setting.rows.row(running) == before


def test_rows_that_are_still_on_their_way_to_the_database_are_not_forgotten_by_the_return(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More rows than one step recalls: the queue is cleared only when the last of them has left it."""
    monkeypatch.setattr("app.tasks.healing.BATCHES_PER_PASS", 1)
    monkeypatch.setattr("app.tasks.healing.BATCH", 4)
    setting.rows.put("DISPATCHED", count=90, waiting_since=setting.rows.at(-5))
    setting.fall_back()
    assert setting.rows.count("DISPATCHED") > 20
    setting.server.start()
    still_there = 90
    while setting.rows.scalar("SELECT fallback FROM routing WHERE priority = 2"):
        still_there = setting.rows.count("DISPATCHED")
        setting.step(after=RETURN)
    assert still_there <= 4  # the last batch goes in the step that ends it
    for _ in range(30):
        setting.step(after=RETURN)
    assert (setting.rows.count("DISPATCHED"), len(setting.queue_list())) == (90, 90)
    assert len(set(setting.queue_list())) == 90


def test_a_disabled_fallback_never_begins(setting: Setting) -> None:
    setting.queue, setting.sweeper = setting.started(fallback_enabled=False)
    setting.queue.submit(request())
    setting.server.kill9()
    assert setting.steps(3 * PATIENCE) == []
    assert (setting.recorded, setting.rows.count("DISPATCHED")) == ({False}, 1)


def test_a_fallback_that_was_disabled_meanwhile_still_ends(setting: Setting) -> None:
    setting.queue.submit(request())
    setting.fall_back()
    setting.sweeper.leave()
    setting.queue, setting.sweeper = setting.started(fallback_enabled=False)
    setting.server.start()
    assert setting.steps(RETURN + 3) == ["fallback ended"]
    assert (setting.recorded, setting.rows.count("DISPATCHED")) == ({False}, 1)


def test_where_nothing_goes_by_redis_its_absence_is_no_matter(setting: Setting) -> None:
    setting.store.routing.change(redis_percent=0)
    setting.server.kill9()
    assert setting.steps(2 * PATIENCE) == []
    assert setting.recorded == {False}


def test_one_name_that_goes_by_redis_is_reason_enough(setting: Setting) -> None:
    setting.store.routing.change([Priority.LOW], redis_percent=0, name_percents={"test.noop": 100})
    setting.store.routing.change([p for p in PRIORITIES if p is not Priority.LOW], redis_percent=0)
    setting.fall_back()
    assert setting.recorded == {True}


def test_while_redis_is_away_the_rest_of_the_healing_goes_on(setting: Setting) -> None:
    setting.server.kill9()
    setting.step()
    setting.rows.put("SCHEDULED", run_at=setting.rows.at(-1))
    setting.rows.put("QUEUED")
    assert setting.step(after=1).due == 1
    assert setting.step(after=5).moved == 1
