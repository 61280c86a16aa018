"""Which queues a worker visits, and in which order."""

from __future__ import annotations

from collections import Counter

import pytest
from click.testing import CliRunner

from app.tasks.model import PRIORITIES
from workers.__main__ import main
from workers.visiting import Visits

URGENT, HIGH, NORMAL, LOW = PRIORITIES


def test_without_a_word_all_queues_are_served_in_strict_order() -> None:
    rounds = Visits.parse(None, None).rounds()
    assert [rounds.next() for _ in range(3)] == [list(PRIORITIES)] * 3


def test_named_queues_are_served_in_the_order_in_which_they_were_named() -> None:
    assert Visits.parse("low, urgent", None).rounds().next() == [LOW, URGENT]


def test_in_a_round_each_queue_comes_first_as_often_as_its_weight_says() -> None:
    rounds = Visits.parse(None, "urgent=8,high=4,normal=2,low=1").rounds()
    first = Counter(rounds.next()[0] for _ in range(15 * 4))
    assert first == {URGENT: 32, HIGH: 16, NORMAL: 8, LOW: 4}


def test_a_weighted_visit_is_spread_over_the_round() -> None:
    rounds = Visits.parse(None, "urgent=2,low=2").rounds()
    assert [rounds.next()[0] for _ in range(4)] == [URGENT, LOW, URGENT, LOW]


def test_behind_the_first_the_others_follow_so_that_an_empty_queue_holds_nobody_up() -> None:
    rounds = Visits.parse("urgent,normal,low", "low=5,urgent=1,normal=1").rounds()
    assert rounds.next() == [LOW, URGENT, NORMAL]
    assert all(sorted(rounds.next()) == sorted([LOW, URGENT, NORMAL]) for _ in range(20))


def test_weights_alone_name_the_queues() -> None:
    assert Visits.parse(None, "low=1,urgent=3").priorities == (URGENT, LOW)


@pytest.mark.parametrize(
    ("queues", "weights", "named"),
    [
        ("urgent,soon", None, "'soon'"),
        ("urgent,urgent", None, "twice"),
        (" , ", None, "names no queue"),
        (None, "urgent", "weight of urgent"),
        (None, "urgent=0", "weight of urgent"),
        (None, "urgent=1.5", "weight of urgent"),
        (None, "urgent=-1", "weight of urgent"),
        (None, "later=1", "'later'"),
        ("urgent,low", "urgent=1", "low"),
        ("urgent", "urgent=1,high=2", "high"),
    ],
)
def test_a_wrong_word_is_named_and_nothing_starts(
    queues: str | None, weights: str | None, named: str
) -> None:
    given = {"--queues": queues, "--weights": weights}
    words = [word for name, value in given.items() if value is not None for word in (name, value)]
    answer = CliRunner().invoke(main, words)
    assert answer.exit_code == 2
    assert named in answer.output


def test_every_priority_can_be_named() -> None:
    assert Visits.parse(",".join(PRIORITIES), None).priorities == PRIORITIES
