"""How a move holds itself back for submissions: by what a probe takes alone, and beside a batch."""

from __future__ import annotations

import pytest

from app.tasks.errors import DatabaseUnavailable
from app.transfer.courtesy import FIRST_SHARE, FRESH_PROBES, LOOK_SECONDS, SMALLEST_SHARE, Courtesy


class Servers:
    """A clock that only probes and batches move. A probe takes `alone` seconds, or `beside` a batch."""

    def __init__(self, *, alone: float, beside: float) -> None:
        self.now, self.alone, self.beside = 0.0, alone, beside
        self.busy = False

    def clock(self) -> float:
        return self.now

    def probe(self) -> None:
        self.now += self.beside if self.busy else self.alone


def courtesy_of(servers: Servers, rise: float | None = 20.0) -> Courtesy:
    return Courtesy(servers.probe, rise_percent=rise, clock=servers.clock)


def move(servers: Servers, courtesy: Courtesy, *, batches: int, batch_seconds: float = 0.02) -> None:
    """Batches as the share lets them, with probes beside each and between them."""
    for _ in range(batches):
        with courtesy.at_work():
            servers.busy = True
            courtesy.ask()
            servers.now += batch_seconds
            servers.busy = False
        while (wait := courtesy.wait_seconds) > 0:
            courtesy.ask()
            servers.now += min(wait, 0.03)


def test_where_submissions_feel_nothing_the_move_ends_up_at_full_speed() -> None:
    servers = Servers(alone=0.002, beside=0.002)
    courtesy = courtesy_of(servers)
    assert courtesy.share == FIRST_SHARE
    move(servers, courtesy, batches=400)
    for _ in range(60):
        for _ in range(FRESH_PROBES):
            courtesy.ask()
        servers.now += LOOK_SECONDS
        assert courtesy.wait_seconds >= 0
    assert courtesy.share == 1
    assert courtesy.reason is None


def test_where_they_feel_it_the_move_works_for_a_small_share_of_the_time() -> None:
    servers = Servers(alone=0.002, beside=0.02)
    courtesy = courtesy_of(servers)
    move(servers, courtesy, batches=200)
    assert SMALLEST_SHARE <= courtesy.share < 0.2
    assert "of the time: p95 of a submission" in str(courtesy.reason)


def test_load_that_is_not_ours_costs_no_share() -> None:
    servers = Servers(alone=0.002, beside=0.002)
    courtesy = courtesy_of(servers)
    move(servers, courtesy, batches=10)
    before = courtesy.share
    servers.alone = servers.beside = 0.05  # everything is slow, with us and without us
    move(servers, courtesy, batches=200)
    assert courtesy.share > before


def test_the_next_batch_waits_while_one_is_on_its_way_and_then_as_the_share_says() -> None:
    servers = Servers(alone=0.002, beside=0.002)
    courtesy = courtesy_of(servers)
    with courtesy.at_work():
        assert courtesy.wait_seconds > 0
        servers.now += 1.0
    assert courtesy.wait_seconds == pytest.approx(1 / FIRST_SHARE - 1)
    servers.now += 1 / FIRST_SHARE
    assert courtesy.wait_seconds == 0


def test_without_a_limit_nothing_waits_and_no_probe_is_sent() -> None:
    servers = Servers(alone=0.002, beside=0.02)
    courtesy = courtesy_of(servers, rise=None)
    with courtesy, courtesy.at_work():
        servers.now += 1.0
        assert courtesy.wait_seconds == 0
    assert (courtesy.wait_seconds, servers.now, courtesy.reason) == (0, 1.0, None)


def test_a_probe_that_cannot_ask_says_nothing() -> None:
    def away() -> None:
        raise DatabaseUnavailable("gone")

    courtesy = Courtesy(away, rise_percent=20)
    with courtesy:
        pass
    assert courtesy.reason is None
    assert courtesy.wait_seconds == 0
