"""The procedure's gates, each closed for its own reason; and its walk, cut short and taken up again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from app.system import System, build_system
from app.tasks.errors import DatabaseUnavailable
from app.tasks.model import Priority
from app.tasks.routing import Intake
from app.tasks.submission import TaskRequest
from app.transfer import performance
from app.transfer.errors import NotPossible, Superseded
from app.transfer.performance import Performance
from app.transfer.plans import Direction, Limits, Scope, make_plan
from app.transfer.preflight import Grade, preflight
from app.transfer.procedure import finishing, moving, phases, preparing, returning, verbs
from app.transfer.procedure.gates import Gate, Ground, Outcome, rules_hold
from app.transfer.procedure.phases import checklist
from app.transfer.procedure.plan import Choices, Phase, make_procedure_plan
from app.transfer.procedure.records import ProcedureRecords, State
from app.transfer.procedure.runner import GateClosed, Runner
from app.transfer.records import TransferRecords
from app.transfer.runs import start
from config import ROOT, Config
from scripts.migration.run_migration import main
from tests.contract.rows import Rows
from tests.legacy_tables import CaptionQueue
from tests.waiting import wait_until

STUBBORN = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
QUICK = Choices(hybrid_seconds=0, trial_seconds=0.2, running_seconds=0.2, patience_seconds=3)


class Place:
    """An installation in database mode, without workers."""

    def __init__(self, settings: dict[str, str], system: System, rows: Rows, folder: Path) -> None:
        self.settings, self.system, self.rows, self.folder = settings, system, rows, folder
        self.facts: dict[str, Any] = {}

    def ground(self, **choices: Any) -> Ground:
        """For one gate by itself."""
        plan = make_procedure_plan(self.system, replace(QUICK, **choices))
        return Ground(
            system=self.system,
            plan=plan,
            facts=self.facts,
            check=lambda: None,
            keep=lambda: None,
            watcher=lambda moving: None,
            folder=self.folder / "files",
            history=self.folder / "history.md",
            subject="a test",
        )

    def submit(self, count: int = 1, **fields: Any) -> None:
        self.system.queue.submit_many([TaskRequest("test.noop", {}, **fields) for _ in range(count)])

    def begin(self, **choices: Any) -> Runner:
        wanted = replace(QUICK, history=str(self.folder / "history.md"), **choices)
        plan = make_procedure_plan(self.system, wanted)
        return verbs.begin(self.system, plan, confirmed=plan.hash)

    @property
    def records(self) -> ProcedureRecords:
        return ProcedureRecords(self.system.store.database)

    def call(self, *arguments: str) -> tuple[int, Any]:
        done = CliRunner().invoke(main, [*arguments, "--json"], env=dict(self.settings))
        text = done.output
        return done.exit_code, json.loads(text) if text.startswith("{") else text


@pytest.fixture
def place(tmp_path: Path, redis_url: str) -> Iterator[Place]:
    settings = {
        "DATABASE_URL": f"sqlite:///{tmp_path / 'tasks.db'}",
        "RQ_REDIS_URL": redis_url,
        "VAR_DIR": str(tmp_path / "var"),
        "RQ_HYBRID_MODE": "true",
        "RQ_ROLLOUT_PERCENT": "0",
    }
    system = build_system(Config.for_tests(**settings))
    system.prepare()
    rows = Rows(settings["DATABASE_URL"], system.store.database)
    before = signal.getsignal(signal.SIGTERM)
    yield Place(settings, system, rows, tmp_path)
    signal.signal(signal.SIGTERM, before)
    rows.close()
    system.close()


# --- the plan ---------------------------------------------------------------------------------------


def test_a_plan_is_shown_and_only_its_own_hash_begins_it(place: Place) -> None:
    place.submit(3, priority="high")
    code, plan = place.call()
    assert (code, plan["move"]["rows"]["high"], plan["choices"]["hybrid_percent"]) == (0, 3, 10)
    assert place.call("--plan")[1]["hash"] == plan["hash"]
    code, said = place.call("--confirm", "0123456789abcdef")
    assert (code, f"the plan is {plan['hash']} now" in said) == (2, True)
    code, said = place.call("--confirm", plan["hash"], "--hold")
    assert (code, "look at it again with --plan" in said) == (2, True)
    assert place.call("--status")[0] == 2
    place.system.queue.route(redis_percent=20, priorities=[Priority.LOW])
    assert place.call("--plan")[1]["hash"] != plan["hash"]


def test_there_is_no_plan_without_somewhere_to_go(place: Place) -> None:
    place.system.queue.route(redis_percent=100)
    with pytest.raises(NotPossible, match="nothing to migrate"):
        make_procedure_plan(place.system, QUICK)
    place.system.queue.route(redis_percent=0)
    mover = start(place.system.queue, make_plan(place.system.store, Direction.DISPATCH, Scope()), Limits())
    with pytest.raises(NotPossible, match=f"transfer {mover.transfer_id} is under way"):
        make_procedure_plan(place.system, QUICK)
    with pytest.raises(NotPossible, match="without Redis"):
        make_procedure_plan(replace(place.system, tickets=None), QUICK)
    code, said = place.call("--plan", "--source", "old.toml")
    assert (code, "old.toml" in said) == (2, True)


# --- each gate is closed for its reason ---------------------------------------------------------------


def closed(outcome: Outcome, *words: str) -> bool:
    """It did not open, says so in these words, and what to do next."""
    return not outcome.passed and bool(outcome.fix) and all(word in outcome.said for word in words)


def test_preflight_closes_for_a_failed_check(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    assert preparing.check_preflight(place.ground()).passed
    wrong = preflight(place.system)[0]
    failed = replace(wrong, grade=Grade.FAIL, said="too old", fix="upgrade")
    monkeypatch.setattr(preparing, "preflight", lambda _: [failed])
    assert closed(preparing.check_preflight(place.ground()), "too old")


def test_rules_close_for_a_row_that_breaks_one(place: Place) -> None:
    assert rules_hold(place.ground()).passed
    task_id = place.rows.put("FAILED", error=None)
    assert closed(rules_hold(place.ground()), "error", str(task_id))


def test_backup_and_baseline_are_read_back(place: Place) -> None:
    place.submit(5)
    assert "5 rows recorded" in preparing.record_baseline(place.ground()).said
    assert preparing.make_backup(place.ground()).passed
    assert preparing.make_backup(place.ground()).passed  # beside the first one
    assert {"backup", "backup-2", "baseline"} == {path.name for path in (place.folder / "files").iterdir()}


def test_the_share_closes_under_a_fallback(place: Place) -> None:
    assert preparing.share_tracks(place.ground(hybrid_percent=25)).passed
    assert place.system.store.routing.refresh()[Priority.LOW].redis_percent == 25
    place.system.store.routing.change([Priority.HIGH], fallback=True)
    assert closed(preparing.share_tracks(place.ground()), "high", "fallen back")


def test_trials_close_if_nobody_works_or_submission_is_refused(place: Place) -> None:
    assert closed(preparing.try_both_tracks(place.ground()), "0 of 100 test tasks completed")
    assert closed(finishing.tasks_end(place.ground()), "0 of 20")
    place.system.queue.pause_intake(reason="closed", mode=Intake.REFUSE)
    assert closed(finishing.tasks_end(place.ground()), "refused")


def test_the_watch_closes_without_workers_and_under_a_fallback(place: Place) -> None:
    assert closed(preparing.watch_both_tracks(place.ground()), "no worker lives")
    place.system.store.routing.change([Priority.HIGH], fallback=True)
    assert closed(preparing.watch_both_tracks(place.ground(hybrid_seconds=0.1)), "Redis was away")


def test_running_tasks_close_only_under_a_hold(place: Place) -> None:
    place.rows.put("PROCESSING", name="test.noop")
    assert moving.wait_for_running(place.ground()).passed
    assert closed(moving.wait_for_running(place.ground(hold=True)), "1 tasks still run")


def test_a_hold_is_ours_or_an_operators(place: Place) -> None:
    assert moving.hold_submissions(place.ground()).said == "submission stays open"
    moving.hold_submissions(place.ground(hold=True))
    assert {route.intake for route in place.system.store.routing.refresh().values()} == {Intake.HOLD}
    assert finishing.open_submission(place.ground()).said == "submission is open"
    place.system.queue.pause_intake(reason="an operator's", mode=Intake.HOLD)
    assert "not by us" in moving.hold_submissions(place.ground(hold=True)).said
    assert "stays so" in finishing.open_submission(place.ground()).said


def test_the_move_sends_verified_canaries_first_and_counts_to_zero(place: Place) -> None:
    place.submit(140)
    ground = place.ground()
    outcome = moving.move(ground)
    assert (outcome.passed, "140 rows moved" in outcome.said) == (True, True)
    assert [look["rows"] for look in place.facts["canaries"]] == [1, 10, 100]
    assert "1 clean, 10 clean, 100 clean" in moving.canaries_proven(ground).said
    assert moving.move(ground).passed  # complete before: nothing is moved twice
    last = TransferRecords(place.system.store.database).latest(Direction.DISPATCH)
    assert last is not None
    assert last.transfer_id == place.facts["transfer"]


def test_the_move_closes_if_a_canary_is_not_clean_and_goes_on_when_it_is(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.submit(30)
    ground = place.ground()
    with monkeypatch.context() as broken:
        broken.setattr(moving, "verified", lambda *_, **__: Outcome(False, "MISMATCH: 1 fault", "see to it"))
        assert closed(moving.move(ground), "after 1 canaries", "MISMATCH")
    assert place.system.store.routing.refresh()[Priority.NORMAL].redis_percent == 0
    assert moving.move(ground).passed
    assert [look["rows"] for look in place.facts["canaries"]] == [1, 1, 10, 18]
    assert place.rows.count("QUEUED") == 0


def test_an_old_systems_rows_become_tasks_before_the_move(place: Place) -> None:
    legacy = CaptionQueue(place.rows.engine)
    keys = legacy.put(legacy.row(number) for number in range(12))
    source = str(ROOT / "mappings" / "caption_tasks.toml")
    assert moving.import_rows(place.ground()).said == "the rows are tasks of ours already"
    assert closed(moving.import_rows(place.ground(source=source)), "--old-workers-stopped")
    ground = place.ground(source=source, alter=True, old_workers_stopped=True)
    assert "12 rows of caption_generation_tasks have become tasks" in moving.import_rows(ground).said
    assert place.rows.count("QUEUED") == len(keys)
    assert moving.move(ground).passed
    assert place.rows.count("DISPATCHED") == len(keys)


def test_the_move_closes_if_redis_is_away(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.submit(3)
    assert place.system.tickets is not None
    monkeypatch.setattr(type(place.system.tickets), "ping", lambda _: False)
    assert closed(moving.move(place.ground()), "Redis does not answer")


def test_quarantine_closes_for_a_row_that_was_put_aside(place: Place) -> None:
    place.rows.put(name="never.heard")
    ground = place.ground()
    assert moving.move(ground).passed
    assert closed(moving.none_quarantined(ground), "1 rows are in quarantine")


def test_the_verification_closes_for_a_row_left_behind(place: Place) -> None:
    place.submit(4)
    ground = place.ground()
    assert moving.move(ground).passed
    assert moving.all_verified(ground).passed
    place.rows.execute(
        "UPDATE tasks SET status = 'QUEUED', confirmed_in = 0 WHERE id = (SELECT MIN(id) FROM tasks)"
    )
    assert closed(moving.all_verified(ground), "MISMATCH", "move-2.html")
    assert "row left behind" in (place.folder / "files" / "move-2.html").read_text()


def test_old_workers_close_if_they_do_not_stop(place: Place, tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            file = tmp_path / "worker.pid"
            file.write_text(str(process.pid))
            assert moving.stop_old_workers(place.ground()).passed
            ground = place.ground(pid_files=(str(file),))
            assert closed(moving.stop_old_workers(ground), str(process.pid))
        finally:
            process.kill()
    assert moving.stop_old_workers(ground).passed


def test_the_routing_closes_for_a_paused_queue_and_a_fallback(place: Place) -> None:
    ground = place.ground()
    assert finishing.route_all_by_redis(ground).passed
    place.system.queue.pause([Priority.LOW])
    assert closed(finishing.route_all_by_redis(ground), "low")
    place.system.queue.resume([Priority.LOW])
    place.system.store.routing.change([Priority.HIGH], fallback=True)
    assert closed(finishing.route_all_by_redis(ground), "high")


def test_the_database_closes_while_a_task_waits_there(place: Place) -> None:
    ground = place.ground()
    assert finishing.nothing_in_the_database(ground).passed
    place.submit(2)
    assert closed(finishing.nothing_in_the_database(ground), "2 tasks wait")


def test_performance_closes_for_what_is_missed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Performance(50, 0, 0.4, 0.5, 20, 20, None)
    monkeypatch.setattr(performance, "validate", lambda _: slow)
    assert closed(finishing.fast_enough(place.ground()), "0.400 s")
    monkeypatch.setattr(performance, "validate", lambda _: replace(slow, mean_seconds=0.01))
    assert finishing.fast_enough(place.ground()).passed


def test_test_tasks_close_while_one_runs(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finishing, "TIDY_SECONDS", 0.2)
    task_id = place.rows.put("PROCESSING", name="test.noop", idempotency_key="test-tasks:a:1")
    assert closed(finishing.remove_trials(place.ground()), "1 test tasks still run")
    place.rows.execute("DELETE FROM tasks WHERE id = :id", id=task_id)
    assert finishing.remove_trials(place.ground()).passed


def test_the_way_back_closes_if_its_routing_is_changed_meanwhile(place: Place) -> None:
    place.submit(6)
    ground = place.ground()
    assert moving.move(ground).passed
    assert "6 rows brought back" in returning.recall(ground).said
    assert returning.routed_back(ground).passed
    assert returning.all_back(ground).passed
    place.system.queue.route(redis_percent=30, priorities=[Priority.LOW])
    assert closed(returning.routed_back(ground), "low")
    place.rows.change(place.rows.execute("SELECT MIN(id) FROM tasks")[0][0], status="DISPATCHED")
    assert closed(returning.all_back(ground), "MISMATCH")


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


def test_the_walk_goes_through_all_phases_in_order(place: Place, walk: Walk) -> None:
    done = place.begin().run()
    assert (done.state, done.phase, done.holder) == (State.COMPLETED, Phase.CLEAN_UP, None)
    assert walk.tried == [f"{phase.value}{more}" for phase in phases.WAY for more in (" once", "")]
    assert all(said["ended_at"] for said in done.record["phases"].values())


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not Phase.ROLLBACK])
def test_a_closed_gate_stops_the_walk_and_the_resume_goes_on_at_its_phase(
    place: Place, walk: Walk, phase: Phase
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


def test_a_gate_that_the_plan_accepts_lets_the_walk_pass(place: Place, walk: Walk) -> None:
    walk.closed = {"migrate"}
    done = place.begin(accepted=("migrate",)).run()
    said = done.record["phases"]["migrate"]["gates"]["migrate"]
    assert (said["passed"], said["accepted"], said["said"]) == (
        True,
        True,
        "accepted though migrate was tried",
    )


def test_what_a_gate_raises_closes_it(place: Place, walk: Walk) -> None:
    def fail(_: Ground) -> None:
        raise DatabaseUnavailable("it went away")

    walk.at["hybrid"] = fail
    with pytest.raises(GateClosed, match="it went away"):
        place.begin().run()


def test_an_abort_ends_the_walk_at_its_next_step_and_is_written_down(place: Place, walk: Walk) -> None:
    walk.at["hybrid"] = lambda _: verbs.abort(place.system, reason="changed our mind")
    with pytest.raises(Superseded):
        place.begin().run()
    found = place.records.latest()
    assert found is not None
    assert (found.state, found.error) == (State.ABORTED, "changed our mind")
    assert "aborted | in the phase hybrid: changed our mind" in (place.folder / "history.md").read_text()
    with pytest.raises(NotPossible, match="no procedure is open"):
        verbs.abort(place.system, reason="again")


def test_a_hold_ends_when_the_walk_stops_or_is_aborted(place: Place, walk: Walk) -> None:
    walk.at["migrate once"] = moving.hold_submissions
    walk.closed = {"migrate"}
    with pytest.raises(GateClosed):
        place.begin(hold=True).run()
    assert {route.intake for route in place.system.store.routing.refresh().values()} == {Intake.OPEN}


def test_a_rollback_takes_the_walk_away_from_the_process_that_is_on_it(place: Place, walk: Walk) -> None:
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


def test_a_paused_walk_waits_and_goes_on(place: Place, walk: Walk) -> None:
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


def test_a_walk_that_was_killed_in_any_phase_is_taken_up_there(place: Place, walk: Walk) -> None:
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


def _walk_until_killed(place: Place, walk: Walk, phase: Phase, *, first: bool) -> None:
    """Never returns. The child has connections of its own."""
    walk.at = {phase.value: lambda _: os.kill(os.getpid(), signal.SIGKILL)}
    try:
        system = build_system(Config.for_tests(**place.settings))
        mine = Place(place.settings, system, place.rows, place.folder)
        runner = mine.begin() if first else verbs.resume(system)
        assert runner is not None
        runner.run()
    finally:
        os._exit(3)


# --- the command ---------------------------------------------------------------------------------------


def test_the_command_stops_at_a_closed_gate_and_says_what_to_do_next(place: Place) -> None:
    options = ("--hybrid-seconds", "0", "--trial-seconds", "0.2", "--history", str(place.folder / "h.md"))
    plan = place.call("--plan", *options)[1]
    code, said = place.call("--confirm", plan["hash"], *options)
    assert (code, said["stopped"]["gate"]) == (1, "both tracks")
    assert "workers live" in said["stopped"]["fix"]
    code, status = place.call("--status")
    assert (code, status["state"], status["phase"]) == (1, "stopped", "hybrid")
    met = {line["criterion"]: line["met"] for line in status["checklist"]}
    assert met["A backup of every table exists, and its checksums hold"] is True
    assert met["Both tracks worked side by side"] is False
    assert met["No row was put aside"] is None
    assert place.call("--pause")[0] == 2
    code, told = place.call("--abort")
    assert (code, told["state"]) == (0, "aborted")
    assert place.call("--resume")[0] == 2
    code, told = place.call("--rollback", "--patience", "3")
    assert (code, told["state"]) == (0, "rolled back")
    assert {route.redis_percent for route in place.system.store.routing.refresh().values()} == {0}
    assert place.call("--plan", "--confirm", "x")[0] == 2


def test_there_is_nothing_to_roll_back_where_nothing_was_begun(place: Place) -> None:
    code, said = place.call("--rollback")
    assert (code, "there is no procedure to roll back" in said) == (2, True)


def test_a_rollback_works_while_redis_is_dead(place: Place) -> None:
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
