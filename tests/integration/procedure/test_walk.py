"""A procedure's plan, its walk through the phases, cut short and taken up again, and its command."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from app.system import build_system
from app.tasks.errors import DatabaseUnavailable
from app.tasks.model import Priority
from app.tasks.routing import Intake
from app.transfer import runs
from app.transfer.errors import NotPossible, Superseded
from app.transfer.plans import Direction, Limits, Scope, make_plan
from app.transfer.procedure import moving, phases, verbs
from app.transfer.procedure.gates import Gate, Ground, Outcome
from app.transfer.procedure.phases import checklist
from app.transfer.procedure.plan import Phase, make_procedure_plan
from app.transfer.procedure.records import State
from app.transfer.procedure.runner import GateClosed
from app.transfer.records import TransferRecords
from config import Config
from tests.integration.procedure.site import QUICK, Site
from tests.waiting import wait_until

# --- the plan ---------------------------------------------------------------------------------------


def test_a_plan_is_shown_and_only_its_own_hash_begins_it(place: Site) -> None:
    place.submit(3, priority="high")
    code, plan = place.procedure()
    assert (code, plan["move"]["rows"]["high"], plan["choices"]["hybrid_percent"]) == (0, 3, 10)
    assert place.procedure("--plan")[1]["hash"] == plan["hash"]
    code, said = place.procedure("--confirm", "0123456789abcdef")
    assert (code, f"the plan is {plan['hash']} now" in said) == (2, True)
    code, said = place.procedure("--confirm", plan["hash"], "--hold")
    assert (code, "look at it again with --plan" in said) == (2, True)
    assert place.procedure("--status")[0] == 2
    place.system.queue.route(redis_percent=20, priorities=[Priority.LOW])
    assert place.procedure("--plan")[1]["hash"] != plan["hash"]


def test_there_is_no_plan_without_somewhere_to_go(place: Site) -> None:
    place.system.queue.route(redis_percent=100)
    with pytest.raises(NotPossible, match="nothing to migrate"):
        make_procedure_plan(place.system, QUICK)
    place.system.queue.route(redis_percent=0)
    mover = runs.start(
        place.system.queue, make_plan(place.system.store, Direction.DISPATCH, Scope()), Limits()
    )
    with pytest.raises(NotPossible, match=f"transfer {mover.transfer_id} is under way"):
        make_procedure_plan(place.system, QUICK)
    with pytest.raises(NotPossible, match="without Redis"):
        make_procedure_plan(replace(place.system, tickets=None), QUICK)
    code, said = place.procedure("--plan", "--source", "old.toml")
    assert (code, "old.toml" in said) == (2, True)


# --- the walk ------------------------------------------------------------------------------------------


class Walk:
    """Gates that only note that they were tried, in the place of the real ones."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tried: list[str] = []
        self.closed: set[str] = set()
        self.at: dict[str, Any] = {}
        gates = {
            phase: (self.gate(f"{phase.value} once", once=True), self.gate(phase.value)) for phase in Phase
        }
        monkeypatch.setattr("app.transfer.procedure.runner.GATES", gates)

    def gate(self, name: str, **rules: Any) -> Gate:
        def open_it(ground: Ground) -> Outcome:
            self.tried.append(name)
            if name in self.at:
                self.at[name](ground)
            return Outcome(name not in self.closed, f"{name} was tried", "mend it")

        return Gate(name, open_it, **({"acceptable": True} | rules))


@pytest.fixture
def walk(monkeypatch: pytest.MonkeyPatch) -> Walk:
    return Walk(monkeypatch)


def test_the_walk_goes_through_all_phases_in_order(place: Site, walk: Walk) -> None:
    done = place.begin().run()
    assert (done.state, done.phase, done.holder) == (State.COMPLETED, Phase.CLEAN_UP, None)
    assert walk.tried == [f"{phase.value}{more}" for phase in phases.WAY for more in (" once", "")]
    assert all(said["ended_at"] for said in done.record["phases"].values())


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not Phase.ROLLBACK])
def test_a_closed_gate_stops_the_walk_and_the_resume_goes_on_at_its_phase(
    place: Site, walk: Walk, phase: Phase
) -> None:
    walk.closed = {phase.value}
    with pytest.raises(GateClosed, match=f"{phase.value} was tried"):
        place.begin().run()
    found = place.records.latest()
    assert found is not None
    assert (found.state, found.phase, found.error) == (
        State.STOPPED,
        phase,
        f"{phase.value}, {phase.value}: {phase.value} was tried",
    )
    walk.closed, walk.tried = set(), []
    runner = verbs.resume(place.system)
    assert runner is not None
    assert runner.run().state is State.COMPLETED
    assert walk.tried[0] == phase.value  # what was done once is not done again
    assert len(walk.tried) == 1 + 2 * (len(phases.WAY) - phases.WAY.index(phase) - 1)


def test_a_gate_that_the_plan_accepts_lets_the_walk_pass(place: Site, walk: Walk) -> None:
    walk.closed = {"migrate"}
    done = place.begin(accepted=("migrate",)).run()
    said = done.record["phases"]["migrate"]["gates"]["migrate"]
    assert (said["passed"], said["accepted"], said["said"]) == (
        True,
        True,
        "accepted though migrate was tried",
    )


def test_a_gate_that_stopped_the_walk_can_be_accepted_by_the_resume(place: Site, walk: Walk) -> None:
    walk.closed = {"migrate", "validate"}
    with pytest.raises(GateClosed) as stopped:
        place.begin().run()
    assert stopped.value.outcome.fix == "mend it; or --resume --accept migrate"
    first = verbs.resume(place.system, accepted=["migrate"])
    assert first is not None
    with pytest.raises(NotPossible, match="runs: accept a gate once it has stopped"):
        verbs.resume(place.system, accepted=["validate"])
    with pytest.raises(GateClosed, match="validate was tried"):
        first.run()
    second = verbs.resume(place.system, accepted=["validate"])
    assert second is not None
    done = second.run()
    assert (done.state, done.record["facts"]["accepted"]) == (State.COMPLETED, ["migrate", "validate"])


def test_what_a_gate_raises_closes_it(place: Site, walk: Walk) -> None:
    def fail(_: Ground) -> None:
        raise DatabaseUnavailable("it went away")

    walk.at["hybrid"] = fail
    with pytest.raises(GateClosed, match="it went away"):
        place.begin().run()


def test_an_abort_ends_the_walk_at_its_next_step_and_is_written_down(place: Site, walk: Walk) -> None:
    walk.at["hybrid"] = lambda _: verbs.abort(place.system, reason="changed our mind")
    with pytest.raises(Superseded):
        place.begin().run()
    found = place.records.latest()
    assert found is not None
    assert (found.state, found.error) == (State.ABORTED, "changed our mind")
    assert "aborted | in the phase hybrid: changed our mind" in (place.folder / "history.md").read_text()
    with pytest.raises(NotPossible, match="no procedure is open"):
        verbs.abort(place.system, reason="again")


def test_a_transfer_that_begins_while_somebody_aborts_is_aborted_too(
    place: Site, walk: Walk, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.submit(3)
    walk.at["migrate"] = moving.move
    begin = runs.start

    def begin_beside_an_operator(*arguments: Any, **options: Any) -> Any:
        mover = begin(*arguments, **options)
        verbs.abort(place.system, reason="changed our mind")
        return mover

    monkeypatch.setattr(runs, "start", begin_beside_an_operator)
    with pytest.raises(Superseded):
        place.begin().run()
    transfer = TransferRecords(place.system.store.database).latest()
    assert transfer is not None
    assert (transfer.state.value, place.rows.count("QUEUED")) == ("aborted", 3)
    assert {route.transfer_id for route in place.system.store.routing.refresh().values()} == {None}


def test_a_hold_ends_when_the_walk_stops_or_is_aborted(place: Site, walk: Walk) -> None:
    walk.at["migrate once"] = moving.hold_submissions
    walk.closed = {"migrate"}
    with pytest.raises(GateClosed):
        place.begin(hold=True).run()
    assert {route.intake for route in place.system.store.routing.refresh().values()} == {Intake.OPEN}


def test_a_rollback_takes_the_walk_away_from_the_process_that_is_on_it(place: Site, walk: Walk) -> None:
    def seize(_: Ground) -> None:
        number = place.records.latest().procedure_id  # type: ignore[union-attr]
        place.records.seize(number, holder="another", phase=Phase.ROLLBACK, wanted={})

    walk.at["validate"] = seize
    with pytest.raises(Superseded):
        place.begin().run()
    walk.tried = []
    done = verbs.roll_back(place.system, priorities=[Priority.LOW]).run()
    assert (done.state, walk.tried) == (State.ROLLED_BACK, ["rollback once", "rollback"])
    assert done.record["facts"]["return"]["priorities"] == ["low"]


def test_a_paused_walk_waits_and_goes_on(place: Site, walk: Walk) -> None:
    walk.at["hybrid"] = lambda _: verbs.pause(place.system)
    paused: list[bool] = []

    def let_it_go_on() -> None:
        wait_until(lambda: place.records.latest([State.PAUSED]), deadline_seconds=60, what="the pause")
        paused.append("migrate" not in walk.tried)
        assert verbs.resume(place.system) is None

    runner = place.begin()
    with ThreadPoolExecutor(1) as operator:
        resumed = operator.submit(let_it_go_on)
        done = runner.run()
        resumed.result(60)
    assert (done.state, paused) == (State.COMPLETED, [True])


def test_a_walk_that_was_killed_in_any_phase_is_taken_up_there(place: Site, walk: Walk) -> None:
    """A child is killed in each phase, one after the other; each next one goes on where the last one was."""
    for number, phase in enumerate(phases.WAY):
        child = os.fork()
        if child == 0:
            _walk_until_killed(place, walk, phase, first=number == 0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        found = place.records.latest()
        assert found is not None
        assert (found.state, found.phase, verbs.is_stuck(found)) == (State.RUNNING, phase, True)
    runner = verbs.resume(place.system)
    assert runner is not None
    done = runner.run()
    assert done.state is State.COMPLETED
    assert walk.tried == ["clean up"]
    assert all(line.met is not False for line in checklist(done))


def _walk_until_killed(place: Site, walk: Walk, phase: Phase, *, first: bool) -> None:
    """Never returns. The child has connections of its own."""
    walk.at = {phase.value: lambda _: os.kill(os.getpid(), signal.SIGKILL)}
    try:
        mine = Site(place.folder, **place.settings)
        runner = mine.begin() if first else verbs.resume(mine.system)
        assert runner is not None
        runner.run()
    finally:
        os._exit(3)


# --- the command ---------------------------------------------------------------------------------------


def test_the_command_stops_at_a_closed_gate_and_says_what_to_do_next(place: Site) -> None:
    options = ("--hybrid-seconds", "0", "--trial-seconds", "0.2", "--history", str(place.folder / "h.md"))
    plan = place.procedure("--plan", *options)[1]
    code, said = place.procedure("--confirm", plan["hash"], *options)
    assert (code, said["stopped"]["gate"]) == (1, "both tracks")
    assert "workers live" in said["stopped"]["fix"]
    code, status = place.procedure("--status")
    assert (code, status["state"], status["phase"]) == (1, "stopped", "hybrid")
    met = {line["criterion"]: line["met"] for line in status["checklist"]}
    assert met["A backup of every table exists, and its checksums hold"] is True
    assert met["Both tracks worked side by side"] is False
    assert met["No row was put aside"] is None
    assert place.procedure("--pause")[0] == 2
    code, told = place.procedure("--abort")
    assert (code, told["state"]) == (0, "aborted")
    assert place.procedure("--resume")[0] == 2
    code, told = place.procedure("--rollback", "--patience", "3")
    assert (code, told["state"]) == (0, "rolled back")
    assert {route.redis_percent for route in place.system.store.routing.refresh().values()} == {0}
    assert place.procedure("--plan", "--confirm", "x")[0] == 2


def test_there_is_nothing_to_roll_back_where_nothing_was_begun(place: Site) -> None:
    code, said = place.procedure("--rollback")
    assert (code, "there is no procedure to roll back" in said) == (2, True)


def test_a_rollback_works_while_redis_is_dead(place: Site) -> None:
    place.submit(9)
    ground, runner = place.ground(), place.begin()
    assert moving.move(ground).passed
    dead = build_system(Config.for_tests(**place.settings | {"RQ_REDIS_URL": "redis://127.0.0.1:1/0"}))
    done = verbs.roll_back(dead).run()
    dead.close()
    assert done.state is State.ROLLED_BACK
    said = done.record["phases"]["rollback"]["gates"]
    assert "9 rows brought back" in said["recall"]["said"]
    assert "Redis was not asked" in said["verified back"]["said"]
    assert place.rows.count("QUEUED") == 9
    with pytest.raises(Superseded):
        runner.run()
