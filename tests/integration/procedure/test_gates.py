"""The gates of a procedure, each closed for its own reason."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.tasks.errors import DatabaseUnavailable
from app.tasks.model import Priority, Status
from app.tasks.routing import Intake
from app.transfer import performance
from app.transfer.performance import Performance
from app.transfer.plans import Direction
from app.transfer.preflight import Grade, preflight
from app.transfer.procedure import finishing, moving, preparing, returning
from app.transfer.procedure.gates import Outcome, judged, rules_hold
from app.transfer.records import TransferRecords
from app.transfer.sampling import Sampler
from app.transfer.trials import Followed
from config import ROOT
from tests.integration.old_workers import STUBBORN, running
from tests.integration.procedure.site import Site
from tests.legacy_tables import CaptionQueue


def closed(outcome: Outcome, *words: str) -> bool:
    """It did not open, says so in these words, and what to do next."""
    return not outcome.passed and bool(outcome.fix) and all(word in outcome.said for word in words)


def test_preflight_closes_for_a_failed_check(place: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    assert preparing.check_preflight(place.ground()).passed
    wrong = preflight(place.system)[0]
    failed = replace(wrong, grade=Grade.FAIL, said="too old", fix="upgrade")
    monkeypatch.setattr(preparing, "preflight", lambda _: [failed])
    assert closed(preparing.check_preflight(place.ground()), "too old")


def test_rules_close_for_a_row_that_breaks_one(place: Site) -> None:
    assert rules_hold(place.ground()).passed
    task_id = place.rows.put("FAILED", error=None)
    assert closed(rules_hold(place.ground()), "error", str(task_id))


def test_backup_and_baseline_are_read_back(place: Site) -> None:
    place.submit(5)
    assert "5 rows recorded" in preparing.record_baseline(place.ground()).said
    assert preparing.make_backup(place.ground()).passed
    assert preparing.make_backup(place.ground()).passed  # beside the first one
    assert {"backup", "backup-2", "baseline"} == {path.name for path in (place.folder / "files").iterdir()}


def test_the_share_closes_under_a_fallback(place: Site) -> None:
    assert preparing.share_tracks(place.ground(hybrid_percent=25)).passed
    assert place.system.store.routing.refresh()[Priority.LOW].redis_percent == 25
    place.system.store.routing.change([Priority.HIGH], fallback=True)
    assert closed(preparing.share_tracks(place.ground()), "high", "fallen back")


def test_trials_close_if_nobody_works_or_submission_is_refused(place: Site) -> None:
    assert closed(preparing.try_both_tracks(place.ground()), "0 of 100 test tasks completed")
    assert closed(finishing.tasks_end(place.ground()), "0 of 20")
    place.system.queue.pause_intake(reason="closed", mode=Intake.REFUSE)
    assert closed(finishing.tasks_end(place.ground()), "refused")


def trial(place: Site, completed: int, **left: int) -> Followed:
    """Test tasks of which some completed, as their rows say, and others are where these statuses say."""
    place.rows.put("COMPLETED", count=completed)
    statuses = [Status(name) for name, count in left.items() for _ in range(count)]
    accepted = {"DISPATCHED": completed + len(statuses)}
    return Followed(accepted, [], completed, dict(enumerate(statuses)))


def test_trials_are_no_backlog_of_their_own_and_a_track_without_workers_is_none(place: Site) -> None:
    ground = place.ground()
    ended = Sampler(place.system).take().ended
    stuck = trial(place, 3, DISPATCHED=2)
    registry = place.system.store.registry
    registry.arrive("poller", host="here", pid=1, track="database", queues=["low"])
    assert closed(judged(ground, stuck, ended_before=ended), "no worker of the track redis")
    registry.arrive("redis", host="here", pid=2, track="redis", queues=["low"])
    assert closed(judged(ground, stuck, ended_before=ended), "3 of 5")
    assert closed(judged(ground, stuck, ended_before=ended + 9), "3 of 5")  # a purge took some meanwhile
    place.rows.put("COMPLETED", count=4)
    outcome = judged(ground, stuck, ended_before=ended)
    assert (outcome.passed, "of which 4 ended" in outcome.said) == (True, True)


def test_trials_that_somebody_removed_have_not_come_to_their_end(place: Site) -> None:
    removed = Followed({"DISPATCHED": 5}, [], 2, {})
    assert not removed.good
    assert closed(judged(place.ground(), removed, ended_before=0), "2 of 5", "3 are gone")


def test_the_watch_closes_without_workers_and_under_a_fallback(place: Site) -> None:
    assert closed(preparing.watch_both_tracks(place.ground()), "no worker lives")
    place.system.store.routing.change([Priority.HIGH], fallback=True)
    assert closed(preparing.watch_both_tracks(place.ground(hybrid_seconds=0.1)), "Redis was away")


def test_running_tasks_close_only_under_a_hold(place: Site) -> None:
    place.rows.put("PROCESSING", name="test.noop")
    assert moving.wait_for_running(place.ground()).passed
    assert closed(moving.wait_for_running(place.ground(hold=True)), "1 tasks still run")


def test_a_hold_is_ours_or_an_operators(place: Site) -> None:
    assert moving.hold_submissions(place.ground()).said == "submission stays open"
    moving.hold_submissions(place.ground(hold=True))
    assert {route.intake for route in place.system.store.routing.refresh().values()} == {Intake.HOLD}
    assert finishing.open_submission(place.ground()).said == "submission is open"
    place.system.queue.pause_intake(reason="an operator's", mode=Intake.HOLD)
    assert "not by us" in moving.hold_submissions(place.ground(hold=True)).said
    assert "stays so" in finishing.open_submission(place.ground()).said


def test_a_hold_is_written_down_before_it_begins_and_ended_though_the_first_try_failed(
    place: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Any) -> None:
        raise DatabaseUnavailable("it went away")

    ground, kept = place.ground(hold=True), []
    routing = place.system.store.routing
    ground.keep = lambda: kept.append((ground.facts["held"], {r.intake for r in routing.refresh().values()}))
    moving.hold_submissions(ground)
    assert kept == [(True, {Intake.OPEN})]
    # as after a kill: who goes on knows the hold as its own
    assert "new tasks are held" in moving.hold_submissions(place.ground(hold=True)).said
    with monkeypatch.context() as broken:
        broken.setattr(type(place.system.queue), "resume_intake", fail)
        with pytest.raises(DatabaseUnavailable):
            finishing.open_submission(ground)
    assert finishing.open_submission(ground).said == "submission is open"


def test_the_move_sends_verified_canaries_first_and_counts_to_zero(place: Site) -> None:
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


def test_a_transfer_is_written_down_and_a_pause_heeded_before_it_moves_a_row(place: Site) -> None:
    place.submit(3)
    ground, seen = place.ground(), []
    ground.keep = lambda: seen.append(("kept", ground.facts["transfer"] > 0))
    ground.check = lambda: seen.append(("checked", place.rows.count("DISPATCHED")))
    assert moving.move(ground).passed
    assert seen[:2] == [("kept", True), ("checked", 0)]


def test_the_move_closes_if_a_canary_is_not_clean_and_goes_on_when_it_is(
    place: Site, monkeypatch: pytest.MonkeyPatch
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


def test_an_old_systems_rows_become_tasks_before_the_move(place: Site) -> None:
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


def test_the_move_closes_if_redis_is_away(place: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    place.submit(3)
    assert place.system.tickets is not None
    monkeypatch.setattr(type(place.system.tickets), "ping", lambda _: False)
    assert closed(moving.move(place.ground()), "Redis does not answer")


def test_quarantine_closes_for_a_row_that_was_put_aside(place: Site) -> None:
    place.rows.put(name="never.heard")
    ground = place.ground()
    assert moving.move(ground).passed
    assert closed(moving.none_quarantined(ground), "1 rows are in quarantine")


def test_rows_put_aside_are_known_to_the_quarantine_and_open_it_once_somebody_has_decided(
    place: Site,
) -> None:
    legacy = CaptionQueue(place.rows.engine)
    legacy.put([legacy.row(1), legacy.row(2, settings_json="{")])
    source = str(ROOT / "mappings" / "caption_tasks.toml")
    ground = place.ground(source=source, alter=True, old_workers_stopped=True)
    first = moving.import_rows(ground)
    assert "1 rows of caption_generation_tasks have become tasks, 0 are queued, 1 put aside" in first.said
    assert moving.move(ground).passed
    assert closed(moving.none_quarantined(ground), "1 rows are in quarantine")
    assert moving.import_rows(ground).said == first.said  # as after a resume: no other import begins
    [task_id] = place.rows.execute("SELECT id FROM tasks WHERE status = 'QUARANTINED'")[0]
    place.system.queue.retry(task_id)
    assert moving.none_quarantined(ground).passed


def test_the_verification_closes_for_a_row_left_behind(place: Site) -> None:
    place.submit(4)
    ground = place.ground()
    assert moving.move(ground).passed
    assert moving.all_verified(ground).passed
    place.rows.execute(
        "UPDATE tasks SET status = 'QUEUED', confirmed_in = 0 WHERE id = (SELECT MIN(id) FROM tasks)"
    )
    assert closed(moving.all_verified(ground), "MISMATCH", "move-2.html")
    assert "row left behind" in (place.folder / "files" / "move-2.html").read_text()


def test_old_workers_close_if_they_do_not_stop(place: Site, tmp_path: Path) -> None:
    with running(STUBBORN) as process:
        file = tmp_path / "worker.pid"
        file.write_text(str(process.pid))
        assert moving.stop_old_workers(place.ground()).passed
        ground, looks = place.ground(pid_files=(str(file),)), []
        ground.check = lambda: looks.append(process.poll())
        assert closed(moving.stop_old_workers(ground), str(process.pid))
        assert looks  # whoever pauses is heeded while they take their time
    assert moving.stop_old_workers(ground).passed


def test_the_routing_closes_for_a_paused_queue_and_a_fallback(place: Site) -> None:
    ground = place.ground()
    assert finishing.route_all_by_redis(ground).passed
    place.system.queue.pause([Priority.LOW])
    assert closed(finishing.route_all_by_redis(ground), "low")
    place.system.queue.resume([Priority.LOW])
    place.system.store.routing.change([Priority.HIGH], fallback=True)
    assert closed(finishing.route_all_by_redis(ground), "high")


def test_the_database_closes_while_a_task_waits_there(place: Site) -> None:
    ground = place.ground()
    assert finishing.nothing_in_the_database(ground).passed
    place.submit(2)
    assert closed(finishing.nothing_in_the_database(ground), "2 tasks wait")


def test_performance_closes_for_what_is_missed(place: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Performance(50, 0, 0.4, 0.5, 20, 20, None)
    monkeypatch.setattr(performance, "validate", lambda _: slow)
    assert closed(finishing.fast_enough(place.ground()), "0.400 s")
    monkeypatch.setattr(performance, "validate", lambda _: replace(slow, mean_seconds=0.01))
    assert finishing.fast_enough(place.ground()).passed


def test_test_tasks_close_while_one_runs(place: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finishing, "TIDY_SECONDS", 0.2)
    task_id = place.rows.put("PROCESSING", name="test.noop", idempotency_key="test-tasks:a:1")
    assert closed(finishing.remove_trials(place.ground()), "1 test tasks still run")
    place.rows.execute("DELETE FROM tasks WHERE id = :id", id=task_id)
    assert finishing.remove_trials(place.ground()).passed


def test_the_way_back_closes_if_its_routing_is_changed_meanwhile(place: Site) -> None:
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


def test_a_planned_rollback_is_written_down_before_it_moves_a_row(place: Site) -> None:
    place.submit(3)
    ground, kept = place.ground(), []
    assert moving.move(ground).passed
    ground.keep = lambda: kept.append((ground.facts["recall"] > 0, place.rows.count("DISPATCHED")))
    ground.facts["return"] = {"planned": True, "drain_seconds": 0.0}
    assert returning.recall(ground).passed
    assert (kept, place.rows.count("QUEUED")) == ([(True, 3)], 3)
