"""The overview that the page draws: its figures, and what making it costs."""

from __future__ import annotations

from app.web.pages import CACHE_PER_COST, CACHE_SECONDS, OverviewCache


class Making:
    """Makes overviews, each of which takes `cost` seconds of a clock of its own."""

    def __init__(self, cost: float) -> None:
        self.cost = cost
        self.time = 100.0
        self.made = 0

    def clock(self) -> float:
        return self.time

    def make(self) -> dict[str, int]:
        self.time += self.cost
        self.made += 1
        return {"number": self.made}


def test_viewers_share_an_overview_for_half_a_second() -> None:
    making = Making(cost=0.01)
    cache = OverviewCache(clock=making.clock)
    assert cache.get(making.make) == cache.get(making.make) == {"number": 1}
    making.time += CACHE_SECONDS + 0.01
    assert cache.get(making.make) == {"number": 2}


def test_an_overview_that_takes_long_is_made_less_often() -> None:
    making = Making(cost=3.0)
    cache = OverviewCache(clock=making.clock)
    cache.get(making.make)
    making.time += CACHE_PER_COST * making.cost - 0.1
    cache.get(making.make)
    assert making.made == 1
    making.time += 0.2
    cache.get(making.make)
    assert making.made == 2
