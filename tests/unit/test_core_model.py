"""The model's tables agree with each other and with the page that prints them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from app.tasks.model import (
    ACTIVE,
    ENDED,
    PRIORITIES,
    TRANSITIONS,
    WAITING,
    Priority,
    Status,
    Ticket,
    Track,
)

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "states.md").read_text()
NOT_DRAWN = {"operator's retry", "reprioritise"}


def table_under(heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, without its head."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_page_prints_exactly_the_transitions_of_the_model() -> None:
    expected = [
        [
            edge.verb,
            ", ".join(source.value if source else "(new)" for source in edge.sources),
            ", ".join(edge.targets),
            edge.guard,
            "yes" if edge.new_epoch else "no",
        ]
        for edge in TRANSITIONS
    ]
    assert table_under("Transitions") == expected


def test_the_page_explains_every_status() -> None:
    assert [row[0] for row in table_under("Statuses")] == [status.value for status in Status]
    assert all(row[1] for row in table_under("Statuses"))


def test_the_picture_draws_exactly_the_transitions_of_the_model() -> None:
    drawn = set()
    for source, target, verbs in re.findall(r"^    (\S+) --> (\w+): (.+)$", PAGE, re.MULTILINE):
        drawn |= {(source, target, verb) for verb in verbs.split(", ")}
    expected = {
        (source.value if source else "[*]", target.value, edge.verb)
        for edge in TRANSITIONS
        if edge.verb not in NOT_DRAWN
        for source in edge.sources
        for target in edge.targets
    }
    assert drawn == expected


def test_every_verb_has_one_edge() -> None:
    verbs = [edge.verb for edge in TRANSITIONS]
    assert len(set(verbs)) == len(verbs)


def test_each_status_but_the_first_and_last_can_be_entered_and_left() -> None:
    entered = {target for edge in TRANSITIONS for target in edge.targets}
    left = {source for edge in TRANSITIONS for source in edge.sources if source}
    assert entered == set(Status)
    assert set(Status) - left == {Status.COMPLETED}


def test_only_claims_lead_to_processing_and_only_from_a_claimable_status() -> None:
    claims = [edge for edge in TRANSITIONS if Status.PROCESSING in edge.targets]
    assert {edge.sources for edge in claims} == {(Status.QUEUED,), (Status.DISPATCHED,)}


def test_a_move_between_waiting_statuses_draws_a_new_epoch() -> None:
    for edge in TRANSITIONS:
        if set(edge.targets) & set(WAITING):
            assert edge.new_epoch, edge.verb


def test_the_groups_of_statuses_share_nothing() -> None:
    assert set(ACTIVE) == {*WAITING, Status.PROCESSING}
    assert not set(ACTIVE) & set(ENDED)
    assert set(Status) - set(ACTIVE) - set(ENDED) == {Status.QUARANTINED}


@pytest.mark.parametrize(("rank", "word"), list(enumerate(["urgent", "high", "normal", "low"])))
def test_priorities_rank_in_order_of_service(rank: int, word: str) -> None:
    priority = Priority(word)
    assert priority.rank == rank
    assert Priority.of_rank(rank) is priority
    assert PRIORITIES[rank] is priority


def test_each_track_has_its_waiting_status() -> None:
    assert Track.REDIS.waiting_status is Status.DISPATCHED
    assert Track.DATABASE.waiting_status is Status.QUEUED


def test_a_ticket_is_named_by_its_task_and_epoch() -> None:
    assert Ticket(42, 7, Priority.LOW, "test.noop").job_id == "t42-e7"
