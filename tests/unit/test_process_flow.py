"""The command that processes a flow: what its parent does beside its processes."""

from __future__ import annotations

from typing import Any

from scripts.process_flow import Figures


def test_counting_takes_a_small_share_of_the_time_and_is_done_at_once_when_it_matters() -> None:
    seconds, counts = [0.0], 0

    def count() -> dict[str, Any]:
        nonlocal counts
        counts += 1
        seconds[0] += 2.0  # a flow of millions
        return {"completed_records": 10 * counts, "failed_records": 0}

    figures = Figures(count, clock=lambda: seconds[0])
    moved = 0
    while seconds[0] < 400:
        moved += figures.look()
        seconds[0] += 0.5
    assert 5 <= counts <= 11
    assert (moved, figures.ended) == (counts - 1, 10 * counts)
    assert figures.look(at_once=True)
    assert not figures.look()
