"""The protocol's model: the promises hold in every reachable state, and each rule of the protocol is needed.

A small share; `make model` searches all of it. docs/model.md says what is modelled.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from app.tasks.model import Status
from tests.model import state
from tests.model.configurations import CONFIGURATIONS, MUTANTS, NOT_TAKEN, SMALL
from tests.model.search import TABLE, search
from tests.model.state import STATUSES, Rules, Scenario


@pytest.mark.parametrize("name", SMALL)
def test_every_reachable_state_keeps_the_promises_and_finds_an_end(name: str) -> None:
    verdict = search(CONFIGURATIONS[name])
    assert (verdict.wrong, verdict.trace) == ("", [])
    assert verdict.states > 1000


@pytest.mark.parametrize("name", MUTANTS)
def test_a_protocol_without_one_of_its_rules_breaks_a_promise(name: str) -> None:
    mutant = MUTANTS[name]
    verdict = search(mutant.scenario())
    assert verdict.wrong.startswith(mutant.caught_by), verdict.wrong
    assert verdict.trace  # a person can read how


@pytest.mark.parametrize("name", MUTANTS)
def test_the_same_world_with_that_rule_keeps_its_promises(name: str) -> None:
    assert search(MUTANTS[name].clean()).wrong == ""


def test_a_mutant_differs_from_the_protocol() -> None:
    assert [name for name, mutant in MUTANTS.items() if mutant.scenario() == mutant.clean()] == []


def test_every_rule_has_a_mutant() -> None:
    changed = {rule for mutant in MUTANTS.values() for rule in mutant.rules}
    assert changed == {field.name for field in fields(Rules)}


def test_the_edges_that_no_configuration_takes_are_edges_of_the_table() -> None:
    known = {(verb, source, target) for verb, source, target, _ in TABLE}
    assert set(NOT_TAKEN) <= known


def test_a_verb_that_the_table_has_is_modelled_or_named_as_not_modelled() -> None:
    sources = "".join(path.read_text() for path in Path(__file__).parent.glob("[a-z]*.py"))
    named = {verb for verb, *_ in NOT_TAKEN}
    missing = {verb for verb, *_ in TABLE if f'"{verb}"' not in sources} - named
    assert missing == set()


def test_the_shortest_way_to_a_stuck_state_is_told_in_words() -> None:
    mutant = MUTANTS["tickets in flight count as present"]
    trace = search(mutant.scenario()).trace
    assert trace[-1].startswith("... and now: task 0 DISPATCHED")
    assert any("is killed" in step for step in trace)


def test_a_world_in_which_nobody_works_is_stuck() -> None:
    verdict = search(Scenario(workers=(), sweepers=1))
    assert verdict.wrong.startswith("P4: stuck")


def test_every_status_of_the_product_has_its_number() -> None:
    assert [STATUSES[getattr(state, status.name)] for status in Status] == list(Status)
    assert STATUSES[state.ABSENT] is None
