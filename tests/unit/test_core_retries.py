"""When a failed task is tried again, and how long it may run."""

from __future__ import annotations

from typing import Any, cast

import pytest
from pydantic import TypeAdapter

from app.tasks.handlers import Handler, HandlerRegistry
from app.tasks.model import Claim, Priority, Track
from app.tasks.runner import Runner
from app.tasks.settings import CoreSettings
from app.tasks.store import Store


def nothing(payload: Any) -> None:
    """A handler that does nothing."""


def job(**rules: Any) -> Handler:
    return Handler("job", nothing, TypeAdapter(Any), **rules)


def runner(handler: Handler | None = None, **settings: Any) -> Runner:
    return Runner(cast(Store, None), HandlerRegistry([handler or job()]), CoreSettings(**settings))


def claim(*, name: str = "job", failures: int = 0, timeout_seconds: int | None = None) -> Claim:
    return Claim(
        7, name, "{}", Priority.NORMAL, 1, 1, 1, failures, Track.REDIS, timeout_seconds=timeout_seconds
    )


@pytest.mark.parametrize("failures", [0, 1, 2, 5, 10, 60, 5000])
def test_the_delay_doubles_up_to_a_cap_and_half_of_it_is_chance(failures: int) -> None:
    run = runner(retry_base_seconds=60, retry_cap_seconds=3600)
    whole = min(3600.0, 60 * 2.0 ** min(failures, 20))
    delays = {run.retry_delay(claim(failures=failures), None) for _ in range(200)}
    assert whole / 2 <= min(delays) < max(delays) <= whole
    assert max(delays) - min(delays) > whole / 4


def test_a_handlers_own_base_comes_before_the_settings() -> None:
    handler = job(retry_base_seconds=2.0)
    run = runner(handler, retry_base_seconds=1000)
    assert 1 <= run.retry_delay(claim(), handler) <= 2
    assert run.retry_delay(claim(), None) >= 500


def test_a_base_of_zero_means_at_once() -> None:
    assert runner(retry_base_seconds=0).retry_delay(claim(failures=9), None) == 0


def test_a_time_limit_is_the_tasks_then_the_handlers_then_its_prioritys_then_the_default() -> None:
    of_priority = {Priority.NORMAL: 3}
    with_rule = runner(
        job(timeout_seconds=2), default_timeout_seconds=4, priority_timeout_seconds=of_priority
    )
    without = runner(default_timeout_seconds=4, priority_timeout_seconds=of_priority)
    limits = [
        with_rule.limit_of(claim(timeout_seconds=1)),
        with_rule.limit_of(claim()),
        without.limit_of(claim()),
        runner(default_timeout_seconds=4).limit_of(claim()),
        without.limit_of(claim(name="of another release")),
    ]
    assert limits == [1, 2, 3, 4, 3]
