"""The routing as a value: tracks, who may claim, and when a pause of intake is over."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from app.tasks.ids import IdSource
from app.tasks.model import Priority, Status, Track
from app.tasks.routing import Intake, Route

NOW = datetime(2026, 7, 1, 12, tzinfo=UTC)
IDS = IdSource().take(200)


def route(**rules: object) -> Route:
    return Route(Priority.LOW, 1, **({"redis_percent": 100} | rules))  # type: ignore[arg-type]


def tracks(rule: Route, name: str = "test.noop") -> set[Track]:
    return {rule.track_of(task_id, name) for task_id in IDS}


def test_all_nothing_and_a_share() -> None:
    assert tracks(route(redis_percent=100)) == {Track.REDIS}
    assert tracks(route(redis_percent=0)) == {Track.DATABASE}
    assert tracks(route(redis_percent=50)) == set(Track)


def test_a_names_own_share_comes_before_the_prioritys() -> None:
    rule = route(redis_percent=100, name_percents={"slow": 0})
    assert tracks(rule, "slow") == {Track.DATABASE}
    assert tracks(rule, "quick") == {Track.REDIS}


def test_a_fallback_comes_before_every_share() -> None:
    rule = route(redis_percent=100, name_percents={"quick": 100}, fallback=True)
    assert tracks(rule, "quick") == {Track.DATABASE}
    assert rule.waiting_status(IDS[0], "quick") is Status.QUEUED


@pytest.mark.parametrize(
    ("rules", "redis", "database"),
    [
        ({}, True, True),
        ({"paused": True}, False, False),
        ({"fenced_track": Track.REDIS}, False, True),
        ({"fenced_track": Track.DATABASE}, True, False),
        ({"fallback": True}, True, True),
    ],
)
def test_who_may_claim(rules: dict[str, object], redis: bool, database: bool) -> None:
    rule = route(**rules)
    assert (rule.may_claim(Track.REDIS), rule.may_claim(Track.DATABASE)) == (redis, database)


@pytest.mark.parametrize("mode", [Intake.HOLD, Intake.REFUSE])
def test_a_pause_of_intake_lasts_to_its_end_and_without_one_for_ever(mode: Intake) -> None:
    limited = route(intake=mode, intake_until=NOW)
    assert limited.intake_at(NOW - timedelta(microseconds=1)) is mode
    assert limited.intake_at(NOW) is Intake.OPEN
    assert route(intake=mode).intake_at(NOW + timedelta(days=9999)) is mode
    assert route().intake_at(NOW) is Intake.OPEN
