"""The breaker: when Redis counts as away, and who may try again."""

from __future__ import annotations

import pytest
import redis
from redis import exceptions

from app.tasks.errors import RedisUnavailable
from app.tasks.tickets import RedisHealth
from tests.clocks import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def health(clock: Clock) -> RedisHealth:
    return RedisHealth(retry_seconds=1.0, clock=clock)


def fail(health: RedisHealth, error: Exception | None = None) -> None:
    with pytest.raises(RedisUnavailable), health.watch():
        raise error or redis.ConnectionError("refused")


def answer(health: RedisHealth) -> None:
    with health.watch():
        pass


def test_a_server_that_answers_is_up_since_the_first_moment(health: RedisHealth, clock: Clock) -> None:
    clock.now += 7
    answer(health)
    assert (health.away_seconds, health.up_seconds, health.worth_a_try) == (0, 7, True)


def test_an_outage_counts_from_its_first_failed_call(health: RedisHealth, clock: Clock) -> None:
    fail(health)
    clock.now += 20
    fail(health)
    clock.now += 5
    assert (health.away_seconds, health.up_seconds) == (25, 0)


def test_after_a_failure_one_try_per_second_is_worth_it(health: RedisHealth, clock: Clock) -> None:
    fail(health)
    seen = []
    for seconds in (0.0, 0.9, 0.1):
        clock.now += seconds
        seen.append(health.worth_a_try)
    assert seen == [False, False, True]
    fail(health)
    assert not health.worth_a_try


def test_the_first_answer_ends_the_outage_and_starts_the_time_of_being_up(
    health: RedisHealth, clock: Clock
) -> None:
    fail(health)
    clock.now += 40
    answer(health)
    clock.now += 3
    answer(health)
    assert (health.away_seconds, health.up_seconds, health.worth_a_try) == (0, 3, True)


def test_a_second_outage_counts_from_its_own_first_failure(health: RedisHealth, clock: Clock) -> None:
    fail(health)
    clock.now += 40
    answer(health)
    clock.now += 10
    fail(health)
    clock.now += 2
    assert health.away_seconds == 2


@pytest.mark.parametrize(
    "error",
    [
        redis.ConnectionError("refused"),
        redis.TimeoutError("slow"),
        exceptions.BusyLoadingError("loading"),
        exceptions.AuthenticationError("wrong password"),
        exceptions.ReadOnlyError("a replica"),
        exceptions.MasterDownError("no master"),
        exceptions.ResponseError("MISCONF cannot save: writes are refused"),
        exceptions.ResponseError("NOREPLICAS not enough good replicas to write"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_server_that_cannot_be_used_counts_as_away(error: Exception, health: RedisHealth) -> None:
    fail(health, error)
    assert not health.worth_a_try


@pytest.mark.parametrize(
    "error",
    [
        exceptions.OutOfMemoryError("command not allowed when used memory > 'maxmemory'"),
        exceptions.ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value"),
        exceptions.NoPermissionError("no rights"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_call_that_the_server_refuses_is_no_outage_and_no_error_of_the_driver(
    error: Exception, health: RedisHealth, clock: Clock
) -> None:
    fail(health)
    clock.now += 5
    fail(health, error)
    assert (health.away_seconds, health.worth_a_try) == (0, True)


def test_an_error_of_ours_passes_uncounted(health: RedisHealth) -> None:
    with pytest.raises(KeyError), health.watch():
        raise KeyError("ours")
    assert health.worth_a_try
