"""The forecast: a steady pace gives a narrow band, an uneven one a wide one, a standstill none."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from app.transfer.forecast import Step, forecast

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


def steps(*rows: int, every: float = 1.0) -> list[Step]:
    return [Step(BEGAN + timedelta(seconds=number * every), so_many) for number, so_many in enumerate(rows)]


def test_a_steady_pace_is_carried_on_with_hardly_a_band() -> None:
    seen = forecast(steps(*range(0, 1001, 100)), left=500, now=BEGAN + timedelta(seconds=10))
    assert round(seen.rows_per_second) == 100
    assert seen.seconds is not None
    assert seen.least_seconds is not None
    assert seen.most_seconds is not None
    assert abs(seen.seconds - 5) < 0.01
    assert seen.most_seconds - seen.least_seconds < 0.01


def test_an_uneven_pace_widens_the_band_around_the_likely_time() -> None:
    seen = forecast(steps(0, 10, 210, 230, 430, 440, 600, 610), left=600, now=BEGAN + timedelta(seconds=7))
    assert seen.seconds is not None
    assert seen.least_seconds is not None
    assert seen.least_seconds < seen.seconds
    assert seen.most_seconds is None or seen.most_seconds > seen.seconds + 0.5


def test_only_the_time_of_late_counts() -> None:
    long_ago = steps(0, 50_000, 50_000)
    later = BEGAN + timedelta(seconds=100)
    assert forecast(long_ago, left=10, now=later).seconds is None
    assert forecast(long_ago, left=10, now=later).rows_per_second == 0


def test_nothing_moved_is_no_forecast() -> None:
    assert forecast([], left=10, now=BEGAN).seconds is None
    assert forecast(steps(5), left=10, now=BEGAN).seconds is None


def test_a_pace_that_may_as_well_be_zero_has_no_upper_end() -> None:
    seen = forecast(steps(0, 0, 0, 0, 0, 100), left=100, now=BEGAN + timedelta(seconds=5))
    assert seen.seconds is not None
    assert seen.most_seconds is None
