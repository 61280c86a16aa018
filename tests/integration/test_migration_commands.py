"""The commands that move tasks, as an operator calls them: exit codes, JSON, and what they say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.system import build_system
from app.tasks.errors import DatabaseUnavailable
from app.tasks.model import Priority
from app.tasks.store.routing import RoutingTable
from app.transfer import runs
from app.transfer.mover import Mover
from app.transfer.plans import Direction, Limits, Scope, make_plan
from app.transfer.records import TransferRecords
from config import Config
from scripts.migration import (
    migrate_database_tasks_to_rq,
    migrate_rq_to_database,
    set_mode,
    submit_test_tasks,
    test_hybrid_task_submission,
    wait_for_running,
)
from tests.integration.place import IN_THE_DATABASE, Place, sqlite_in

MIGRATE, ROLL_BACK = migrate_database_tasks_to_rq.main, migrate_rq_to_database.main


@pytest.fixture
def place(tmp_path: Path, redis_url: str) -> Iterator[Place]:
    place = Place(
        DATABASE_URL=sqlite_in(tmp_path), RQ_REDIS_URL=redis_url, VAR_DIR=str(tmp_path), **IN_THE_DATABASE
    )
    yield place
    place.close()


def test_a_migration_there_and_back_says_what_it_moved(place: Place) -> None:
    place.submit(30, priority="high")
    code, plan = place.call(MIGRATE, "--dry-run")
    assert (code, plan["total"], plan["rows"]["high"]) == (0, 30, 30)
    assert place.rows.count("QUEUED") == 30
    code, done = place.call(MIGRATE, "--plan", plan["hash"])
    assert (code, done["state"], done["totals"]["marked"]) == (0, "completed", 30)
    assert place.rows.count("DISPATCHED") == 30
    code, again = place.call(MIGRATE)
    assert (code, again["this_run"]["moved"]) == (0, 0)
    code, back = place.call(ROLL_BACK)
    assert (code, back["state"], back["this_run"]["moved"]) == (0, "completed", 30)
    assert place.rows.count("QUEUED") == 30


def test_a_plan_that_is_another_now_is_not_run(place: Place) -> None:
    place.submit(3)
    code, said = place.call(MIGRATE, "--plan", "0123456789abcdef")
    assert code == 2
    assert "look at it again" in said
    assert place.rows.count("QUEUED") == 3


def test_quarantined_rows_are_a_problem_that_the_exit_code_tells(place: Place) -> None:
    place.rows.put(name="never.heard")
    code, done = place.call(MIGRATE, "--priority", "normal")
    assert (code, done["totals"]["quarantined"]) == (1, 1)


def test_a_second_migration_is_refused_and_names_the_first(place: Place) -> None:
    plan = make_plan(place.system.store, Direction.DISPATCH, Scope())
    mover = runs.start(place.system.queue, plan, Limits())
    code, said = place.call(MIGRATE)
    assert code == 2
    assert f"transfer {mover.transfer_id} has these priorities" in said
    code, told = place.call(MIGRATE, "--pause")
    assert (code, told["state"]) == (0, "paused")
    code, told = place.call(MIGRATE, "--abort")
    assert (code, told["state"]) == (0, "aborted")
    assert place.call(MIGRATE)[0] == 0


def test_without_redis_a_migration_cannot_begin_and_nothing_is_recorded(place: Place) -> None:
    place.settings["RQ_REDIS_URL"] = "redis://127.0.0.1:1/0"
    place.submit(2)
    code, said = place.call(MIGRATE)
    assert (code, said.strip()) == (2, "Redis does not answer: nothing was begun")
    assert place.call(MIGRATE, "--status")[0] == 2
    place.rows.execute("UPDATE tasks SET status = 'DISPATCHED'")
    assert place.call(ROLL_BACK)[0] == 0
    assert place.rows.count("QUEUED") == 2


def test_a_paused_migration_whose_process_lives_is_told_to_go_on(place: Place) -> None:
    plan = make_plan(place.system.store, Direction.DISPATCH, Scope())
    runs.start(place.system.queue, plan, Limits())
    place.rows.execute("UPDATE transfers SET holder = 'elsewhere:1:1'")
    assert place.call(MIGRATE, "--pause")[1]["state"] == "paused"
    code, told = place.call(MIGRATE, "--resume")
    assert (code, told["state"], told["holder"]) == (0, "running", "elsewhere:1:1")
    code, said = place.call(MIGRATE, "--resume")
    assert code == 2
    assert "run by elsewhere:1:1, which is alive" in said
    assert place.call(MIGRATE, "--pause")[1]["state"] == "paused"
    code, said = place.call(MIGRATE, "--resume", "--rate", "10")
    assert code == 2
    assert "resume it without others" in said


def test_a_resume_of_one_that_ends_at_once_where_it_lives_shows_its_end(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.start(place.system.queue, make_plan(place.system.store, Direction.DISPATCH, Scope()), Limits())
    place.rows.execute("UPDATE transfers SET holder = 'elsewhere:1:1'")
    assert place.call(MIGRATE, "--pause")[1]["state"] == "paused"
    resume = TransferRecords.resume

    def resume_and_end(records: TransferRecords, transfer_id: int) -> bool:
        resumed = resume(records, transfer_id)
        records.complete(transfer_id, holder="elsewhere:1:1")
        return resumed

    monkeypatch.setattr(TransferRecords, "resume", resume_and_end)
    code, told = place.call(MIGRATE, "--resume")
    assert (code, told["state"]) == (0, "completed")


def cut_short(place: Place, *options: str) -> int:
    """A migration that failed and can be resumed; its number."""
    with pytest.MonkeyPatch.context() as failing:
        failing.setattr(Mover, "_bring", lambda *_: (_ for _ in ()).throw(DatabaseUnavailable("it is gone")))
        assert place.call(MIGRATE, *options)[0] == 2
    code, told = place.call(MIGRATE, "--status")
    assert (code, told["state"]) == (1, "failed")
    return int(told["transfer"])


def test_a_resume_goes_by_its_own_limits_unless_it_is_given_others(place: Place) -> None:
    place.submit(30)
    cut_short(place, "--rate", "5000", "--batch-size", "7")
    code, told = place.call(MIGRATE, "--resume", "--batch-size", "20")
    assert (code, told["state"]) == (0, "completed")
    assert (told["limits"]["rows_per_second"], told["limits"]["batch_rows"]) == (5000, 20)
    assert told["totals"]["batches"] == 2


def test_of_several_open_ones_the_scope_or_the_number_says_which(place: Place) -> None:
    place.submit(3, priority="high")
    place.submit(4, priority="low")
    first = cut_short(place, "--priority", "high")
    second = cut_short(place, "--priority", "low")
    code, said = place.call(MIGRATE, "--resume")
    assert code == 2
    assert f"{second} of low, {first} of high" in said
    code, said = place.call(MIGRATE, "--resume", "--priority", "normal")
    assert code == 2
    assert "no open dispatch to go on with of normal" in said
    code, told = place.call(MIGRATE, "--resume", "--priority", "high")
    assert (code, told["transfer"], told["this_run"]["moved"]) == (0, first, 3)
    assert place.call(ROLL_BACK, "--resume", "--transfer", str(second))[0] == 2
    code, told = place.call(MIGRATE, "--resume", "--transfer", str(second), "--plan", told["plan"])
    assert code == 2
    code, told = place.call(MIGRATE, "--resume", "--transfer", str(second))
    assert (code, told["transfer"], told["this_run"]["moved"]) == (0, second, 4)


def test_only_what_can_be_resumed_says_so(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as failing:
        failing.setattr(Mover, "_bring", lambda *_: (_ for _ in ()).throw(DatabaseUnavailable("it is gone")))
        code, said = place.call(MIGRATE)
    assert (code, said.strip()) == (2, "Not complete: it is gone. Transfer 1 can be resumed")
    assert place.call(MIGRATE, "--resume")[1]["state"] == "completed"
    with monkeypatch.context() as failing:
        failing.setattr(RoutingTable, "refresh", lambda _: (_ for _ in ()).throw(DatabaseUnavailable("gone")))
        assert place.call(set_mode.main) == (2, "Not complete: gone\n")


def test_nothing_is_said_to_be_aborted_that_had_ended_before(place: Place) -> None:
    code, told = place.call(MIGRATE)
    assert (code, told["state"]) == (0, "completed")
    code, said = place.call(MIGRATE, "--abort", "--transfer", str(told["transfer"]))
    assert (code, said.strip()) == (2, f"transfer {told['transfer']} has ended: there is nothing to abort")


def test_there_is_nothing_to_resume_where_nothing_was_cut_short(place: Place) -> None:
    code, said = place.call(MIGRATE, "--resume")
    assert code == 2
    assert "no open dispatch" in said


def test_a_planned_rollback_tells_what_remains(place: Place) -> None:
    place.submit(4)
    place.call(MIGRATE)
    code, told = place.call(ROLL_BACK, "--planned", "--drain-seconds", "0")
    assert (code, told["status"], told["remaining"], told["recalled"]) == (0, "rollback_completed", 0, 4)


def test_a_mode_is_set_and_shown(place: Place) -> None:
    assert place.call(set_mode.main)[1]["low"]["redis_percent"] == 0
    code, told = place.call(set_mode.main, "hybrid", "--percent", "30", "--priority", "low")
    assert (code, told["low"]["redis_percent"], told["high"]["redis_percent"]) == (0, 30, 0)
    assert place.call(set_mode.main, "redis")[1]["high"]["redis_percent"] == 100
    code, said = place.call(set_mode.main, "redis", "--percent", "30")
    assert (code, said.strip()) == (2, "--percent is for hybrid mode; redis means 100")


def test_a_mode_for_all_priorities_is_one_change_and_forgets_the_shares_of_names(place: Place) -> None:
    place.call(MIGRATE, "--name", "test.noop", "--priority", "low")
    assert place.call(set_mode.main)[1]["low"]["name_percents"] == {"test.noop": 100}
    assert place.call(set_mode.main, "hybrid", "--priority", "low")[1]["low"]["name_percents"] != {}
    before = place.system.store.routing.refresh()[Priority.LOW].version
    assert place.call(set_mode.main, "database")[1]["low"]["name_percents"] == {}
    assert place.system.store.routing.refresh()[Priority.LOW].version == before + 1


def test_no_mode_is_set_beside_a_transfer(place: Place) -> None:
    mover = runs.start(
        place.system.queue, make_plan(place.system.store, Direction.DISPATCH, Scope()), Limits()
    )
    code, said = place.call(set_mode.main, "database")
    assert (code, f"transfer {mover.transfer_id} has urgent" in said) == (2, True)


def test_a_start_with_changed_settings_leaves_the_routing_to_a_transfer_while_there_is_redis(
    place: Place,
) -> None:
    def percents_after_a_start(**settings: str) -> set[int]:
        system = build_system(Config.for_tests(**place.settings | settings))
        system.prepare()
        system.close()
        return {route.redis_percent for route in place.system.store.routing.refresh().values()}

    plan = make_plan(place.system.store, Direction.DISPATCH, Scope())
    mover = runs.start(place.system.queue, plan, Limits())
    assert percents_after_a_start(RQ_HYBRID_MODE="false") == {0}
    assert TransferRecords(place.system.store.database).abort(mover.transfer_id, reason="enough")
    assert percents_after_a_start(RQ_HYBRID_MODE="false") == {100}
    runs.start(place.system.queue, plan, Limits())
    assert percents_after_a_start(RQ_ENABLED="false") == {0}


def test_a_mode_needs_a_routing_and_says_how_to_get_one(place: Place) -> None:
    place.rows.execute("DELETE FROM routing")
    code, said = place.call(set_mode.main, "redis")
    assert code == 2
    assert "no routing yet for urgent, high, normal, low: start" in said


def test_waiting_for_running_tasks_ends_at_once_or_names_the_stuck_ones(place: Place) -> None:
    assert place.call(wait_for_running.main)[0] == 0
    task_id = place.rows.put("PROCESSING")
    code, told = place.call(wait_for_running.main, "--limit", "0.1")
    assert (code, told["running"]) == (1, 1)
    assert told["tasks"][0]["id"] == task_id
    assert told["tasks"][0]["holder"] == "the old worker"
    assert place.call(wait_for_running.main, "--priority", "low")[0] == 0


def test_test_tasks_are_submitted_and_removed_without_a_trace(place: Place) -> None:
    place.submit(2)
    code, told = place.call(submit_test_tasks.main, "--count", "30", "--priority", "low")
    assert (code, told["accepted"], told["statuses"]) == (0, 30, {"QUEUED": 30})
    running = place.rows.execute("SELECT MIN(id) FROM tasks WHERE priority = 3")[0][0]
    place.rows.change(running, status="PROCESSING", token=1, holder="a worker", lease_until=place.rows.at(30))
    code, told = place.call(submit_test_tasks.main, "--remove")
    assert (code, told) == (1, {"cancelled": 29, "deleted": 29, "left": 1})
    place.rows.change(running, status="COMPLETED", token=None)
    assert place.call(submit_test_tasks.main, "--remove")[0] == 0
    assert place.rows.count() == 2


def test_the_hybrid_trial_names_tasks_that_nobody_completes(place: Place) -> None:
    code, told = place.call(test_hybrid_task_submission.main, "--count", "1", "--limit", "0")
    assert (code, told["submitted"], told["completed"]) == (1, {"QUEUED": 4}, 0)
    assert set(told["not_completed"].values()) == {"QUEUED"}
