"""The records of procedures on three databases: one open at a time, one holder, steered by its state."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from app.tasks.store import Store
from app.transfer.errors import NotPossible, Superseded
from app.transfer.holders import is_dead
from app.transfer.plans import Direction, Scope, make_plan
from app.transfer.procedure.plan import Choices, Phase, ProcedurePlan
from app.transfer.procedure.records import ProcedureRecords, State
from tests.contract.parts import MakeStore
from tests.contract.rows import Rows


@pytest.fixture
def store(rows: Rows, make_store: MakeStore) -> Store:
    return make_store(rows, redis_percent=0)


@pytest.fixture
def plan(store: Store) -> ProcedurePlan:
    return ProcedurePlan(Choices(accepted=("quarantine",)), make_plan(store, Direction.DISPATCH, Scope()))


@pytest.fixture
def procedures(store: Store) -> ProcedureRecords:
    return ProcedureRecords(store.database)


def test_a_plan_is_read_as_it_was_written_and_its_hash_names_the_choices(plan: ProcedurePlan) -> None:
    again = ProcedurePlan.of_json(plan.to_json())
    assert again == plan
    assert again.hash == plan.hash
    assert ProcedurePlan(Choices(hold=True), plan.move).hash != plan.hash
    assert ProcedurePlan(plan.choices, plan.move, {"low": 10}).hash != plan.hash


def test_a_second_procedure_is_refused_while_one_is_open(
    plan: ProcedurePlan, procedures: ProcedureRecords
) -> None:
    first = procedures.begin(plan, holder="me")
    with pytest.raises(NotPossible, match=f"procedure {first.procedure_id} is running"):
        procedures.begin(plan, holder="you")
    procedures.end(first.procedure_id, State.STOPPED, holder="me", error="a gate")
    with pytest.raises(NotPossible, match="is stopped"):
        procedures.begin(plan, holder="you")
    assert procedures.abort(first.procedure_id, reason="no more")
    assert not procedures.abort(first.procedure_id, reason="no more")
    assert procedures.begin(plan, holder="you").state is State.RUNNING


def test_of_four_that_begin_at_once_one_does(plan: ProcedurePlan, procedures: ProcedureRecords) -> None:
    begun: list[int] = []
    refused: list[str] = []

    def begin(holder: str) -> None:
        try:
            begun.append(procedures.begin(plan, holder=holder).procedure_id)
        except NotPossible as error:
            refused.append(str(error))

    threads = [threading.Thread(target=begin, args=(f"holder {number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(begun), len(refused)) == (1, 3)


def test_it_is_taken_only_from_one_who_is_gone(
    plan: ProcedurePlan, procedures: ProcedureRecords, rows: Rows
) -> None:
    number = procedures.begin(plan, holder="elsewhere:1:1").procedure_id
    rows.execute("UPDATE procedures SET lease_until = :at", at=rows.at(3600))
    with pytest.raises(NotPossible, match="which is alive"):
        procedures.take(number, holder="me", is_dead=is_dead)
    assert procedures.take(number, holder="me", is_dead=lambda _: True).holder == "me"
    with pytest.raises(Superseded):
        procedures.save(number, holder="elsewhere:1:1", phase=Phase.MIGRATE, record={})
    with pytest.raises(Superseded):
        procedures.beat(number, holder="elsewhere:1:1")
    rows.execute("UPDATE procedures SET lease_until = created_at")
    assert procedures.take(number, holder="you", is_dead=lambda _: False).holder == "you"


def test_a_rollback_takes_it_from_a_living_process_and_keeps_what_is_known(
    plan: ProcedurePlan, procedures: ProcedureRecords
) -> None:
    number = procedures.begin(plan, holder="me").procedure_id
    record: dict[str, Any] = {
        "phases": {"prepare": {"gates": {}}},
        "facts": {"baseline": "here", "recall": 3},
    }
    procedures.save(number, holder="me", phase=Phase.MIGRATE, record=record)
    procedures.end(number, State.COMPLETED, holder="me")
    seized = procedures.seize(number, holder="you", phase=Phase.ROLLBACK, wanted={"planned": True})
    assert (seized.state, seized.phase, seized.ended_at) == (State.RUNNING, Phase.ROLLBACK, None)
    assert seized.record["facts"] == {"baseline": "here", "return": {"planned": True}}
    with pytest.raises(Superseded):
        procedures.state(number, holder="me")


def test_pause_and_resume_are_states_that_the_holder_sees(
    plan: ProcedurePlan, procedures: ProcedureRecords
) -> None:
    number = procedures.begin(plan, holder="me").procedure_id
    assert procedures.pause(number)
    assert not procedures.pause(number)
    assert procedures.beat(number, holder="me") is State.PAUSED
    assert procedures.resume(number)
    assert not procedures.resume(number)
    assert procedures.state(number, holder="me") is State.RUNNING


def test_who_lost_it_ends_nothing(plan: ProcedurePlan, procedures: ProcedureRecords) -> None:
    number = procedures.begin(plan, holder="me").procedure_id
    procedures.seize(number, holder="you", phase=Phase.ROLLBACK, wanted={})
    procedures.end(number, State.COMPLETED, holder="me")
    assert procedures.get(number).state is State.RUNNING
    found = procedures.latest((State.RUNNING,))
    assert found is not None
    assert found.procedure_id == number
    with pytest.raises(NotPossible):
        procedures.get(number + 1)
