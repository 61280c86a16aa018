"""The migration page's endpoints: what they tell of a procedure, how they steer it, and who may."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import text

from app.system import System
from app.transfer.plans import Direction
from app.transfer.procedure import verbs
from app.transfer.procedure.gates import Gate, Ground, Outcome
from app.transfer.procedure.moving import move
from app.transfer.procedure.plan import Choices, Phase, make_procedure_plan
from app.transfer.procedure.records import ProcedureRecords, State
from app.transfer.procedure.runner import GateClosed
from app.transfer.records import TransferRecords
from app.transfer.runs import start
from app.web import parts
from tests.web.support import ADMIN, ADMIN_TOKEN, API_TOKEN, BROWSER, SUBMITTER, MakeApp, submit, system_of

STATE = "/admin/migration/state"
QUICK = Choices(patience_seconds=3)


@dataclass
class Seen:
    """An app in database mode with Redis beside it, and what its entrance was asked to start."""

    app: Flask
    client: FlaskClient
    system: System
    started: list[str]
    folder: Path

    def state(self) -> dict[str, Any]:
        self.app.extensions.pop("twintrack.migration", None)  # what was kept for half a second
        answer = self.client.get(STATE, headers=ADMIN)
        assert answer.status_code == 200, answer.get_data(as_text=True)
        found: dict[str, Any] = answer.get_json()
        return found

    def post(self, verb: str, **body: Any) -> tuple[int, dict[str, Any]]:
        answer = self.client.post(f"/admin/migration/{verb}", json=body or None, headers=ADMIN)
        return answer.status_code, answer.get_json()

    def begin(self, *, holder: str | None = None) -> int:
        plan = make_procedure_plan(self.system, replace(QUICK, history=str(self.folder / "history.md")))
        if holder is not None:
            return ProcedureRecords(self.system.store.database).begin(plan, holder=holder).procedure_id
        return verbs.begin(self.system, plan, confirmed=plan.hash).procedure_id

    def procedure(self) -> Any:
        return ProcedureRecords(self.system.store.database).latest()


@pytest.fixture
def seen(make_app: MakeApp, redis_url: str, tmp_path: Path) -> Seen:
    app = make_app(
        RQ_REDIS_URL=redis_url,
        RQ_HYBRID_MODE=True,
        RQ_ROLLOUT_PERCENT=0,
        ADMIN_TOKEN=ADMIN_TOKEN,
        API_TOKEN=API_TOKEN,
    )
    started: list[str] = []
    app.extensions[parts.LAUNCHER] = started.append
    return Seen(app, app.test_client(), system_of(app), started, tmp_path)


def walk(seen: Seen, monkeypatch: pytest.MonkeyPatch, **gates: Any) -> None:
    """Run a procedure in which each named phase has one gate, the others none."""
    chosen = dict.fromkeys(Phase, ()) | {Phase[name]: (gate,) for name, gate in gates.items()}
    monkeypatch.setattr("app.transfer.procedure.runner.GATES", chosen)
    plan = make_procedure_plan(seen.system, replace(QUICK, history=str(seen.folder / "history.md")))
    verbs.begin(seen.system, plan, confirmed=plan.hash).run()


def test_before_a_migration_there_are_only_the_tracks(seen: Seen) -> None:
    submit(seen.client, headers=SUBMITTER, priority="high")
    told = seen.state()
    assert (told["procedure"], told["transfer"], told["can_start"]) == (None, None, True)
    assert told["tracks"]["high"] == {"redis": 0, "database": 1, "running": 0, "redis_percent": 0}
    assert told["lag_seconds"] >= 0


def test_a_move_is_told_with_its_rows_its_curve_its_gates_and_its_reports(
    seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(30):
        submit(seen.client, headers=SUBMITTER)
    walk(seen, monkeypatch, MIGRATE=Gate("move", move))
    told = seen.state()
    assert (told["transfer"]["moved"], told["transfer"]["planned"], told["transfer"]["state"]) == (
        30,
        30,
        "completed",
    )
    assert told["transfer"]["curve"][-1][1] == 30
    assert told["tracks"]["normal"]["redis"] == 30
    procedure = told["procedure"]
    assert (procedure["state"], procedure["open"], procedure["stuck"]) == ("completed", False, False)
    [gate] = [g for phase in procedure["phases"] for g in phase["gates"] if g["name"] == "move"]
    assert (gate["passed"], "30 rows moved" in gate["said"]) == (True, True)
    assert [one["of"] for one in procedure["reports"]] == ["canaries 1", "canaries 10", "canaries 19"]
    assert len(procedure["windows"]) == 4
    report = seen.client.get(
        f"/admin/migration/reports/{procedure['id']}/{procedure['reports'][0]['name']}", headers=ADMIN
    )
    assert (report.status_code, report.mimetype) == (200, "text/html")
    assert "CLEAN" in report.get_data(as_text=True)
    assert "unsafe-inline" not in report.headers["Content-Security-Policy"].partition("style-src")[0]


@pytest.mark.parametrize("path", ["1/nothing.html", "9/move.html", "1/..%2Fmanifest.json"])
def test_only_the_reports_of_a_procedure_are_handed_out(seen: Seen, path: str) -> None:
    seen.begin()
    assert seen.client.get(f"/admin/migration/reports/{path}", headers=ADMIN).status_code == 404


def test_a_procedure_is_paused_resumed_and_aborted_by_its_state(seen: Seen) -> None:
    seen.begin()
    assert seen.post("pause") == (200, {"procedure": 1, "state": "paused"})
    assert seen.post("pause")[0] == 409
    assert seen.post("resume")[0] == 200
    assert (seen.procedure().state, seen.started) == (State.RUNNING, [])
    assert seen.post("abort")[0] == 400
    assert seen.post("abort", confirm="yes")[0] == 400
    assert seen.post("abort", confirm="abort") == (200, {"procedure": 1, "state": "aborted"})
    status, problem = seen.post("abort", confirm="abort")
    assert (status, problem["detail"]) == (409, "No procedure is open.")


def test_a_pause_holds_the_transfer_too_and_a_resume_lets_both_go(seen: Seen) -> None:
    number = seen.begin()
    records = ProcedureRecords(seen.system.store.database)
    found = records.get(number)
    mover = start(seen.system.queue, found.plan.move, found.plan.limits)
    record = dict(found.record) | {"facts": {"transfer": mover.transfer_id}}
    records.save(number, holder=str(found.holder), phase=Phase.MIGRATE, record=record)
    transfers = TransferRecords(seen.system.store.database)
    seen.post("pause")
    assert transfers.get(mover.transfer_id).state.value == "paused"
    seen.post("resume")
    assert transfers.get(mover.transfer_id).state.value == "running"
    seen.post("abort", confirm="abort")
    assert transfers.get(mover.transfer_id).state.value == "aborted"
    assert transfers.latest(Direction.DISPATCH) is not None


def test_where_no_process_is_left_a_resume_starts_one(seen: Seen) -> None:
    seen.begin(holder="elsewhere:1:1")
    lasting = text("UPDATE procedures SET lease_until = '2999-01-01 00:00:00.000000'")
    seen.system.store.database.run(lambda on: on.execute(lasting))
    assert seen.post("resume")[0] == 409  # it runs elsewhere, and nobody can say that it is dead
    records = ProcedureRecords(seen.system.store.database)
    records.end(1, State.STOPPED, holder="elsewhere:1:1", error="a gate")
    assert seen.post("resume") == (200, {"procedure": 1, "state": "stopped"})
    assert seen.started == ["resume"]


def test_a_rollback_needs_its_word_and_a_procedure_and_is_started_beside_the_web_app(seen: Seen) -> None:
    assert seen.post("rollback", confirm="rollback")[0] == 409
    seen.begin()
    assert seen.post("rollback")[0] == 400
    assert seen.post("rollback", confirm="please")[0] == 400
    assert seen.started == []
    assert seen.post("rollback", confirm="rollback") == (200, {"started": "rollback"})
    assert seen.started == ["rollback"]


def test_a_web_app_without_its_entrance_says_how_to_do_it_by_hand(seen: Seen) -> None:
    seen.begin()
    del seen.app.extensions[parts.LAUNCHER]
    assert seen.state()["can_start"] is False
    status, problem = seen.post("rollback", confirm="rollback")
    assert (status, "run_migration.py --rollback" in problem["detail"]) == (409, True)


def test_a_closed_gate_is_told_with_what_to_do_next(seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    def shut(_: Ground) -> Outcome:
        return Outcome(False, "a server is too old", "upgrade it")

    with pytest.raises(GateClosed):
        walk(seen, monkeypatch, PREPARE=Gate("preflight", shut))
    told = seen.state()["procedure"]
    assert (told["state"], told["error"]) == ("stopped", "prepare, preflight: a server is too old")
    assert told["phases"][0]["gates"][0]["fix"] == "upgrade it"
    assert told["checklist"][0]["met"] is False


@pytest.mark.parametrize("path", [STATE, "/admin/migration", "/admin/migration/reports/1/move.html"])
def test_only_admins_look(seen: Seen, path: str) -> None:
    assert seen.client.get(path).status_code == 401
    assert seen.client.get(path, headers=SUBMITTER).status_code == 403


@pytest.mark.parametrize("verb", ["pause", "resume", "abort", "rollback"])
def test_only_admins_steer_and_a_browser_needs_its_sessions_token(seen: Seen, verb: str) -> None:
    seen.begin()
    assert seen.client.post(f"/admin/migration/{verb}", headers=SUBMITTER).status_code == 403
    login = {"token": ADMIN_TOKEN}
    browser = seen.app.test_client()
    assert browser.post("/login", data=login, headers=BROWSER).status_code in (302, 303)
    answer = browser.post(f"/admin/migration/{verb}", json={"confirm": verb})
    assert (answer.status_code, answer.get_json()["type"].rpartition(":")[2]) == (403, "csrf")
    assert seen.procedure().state is State.RUNNING
    assert seen.started == []


def test_the_page_is_there_for_admins(seen: Seen) -> None:
    answer = seen.client.get("/admin/migration", headers=ADMIN | BROWSER)
    assert answer.status_code == 200
    assert 'id="rollback"' in answer.get_data(as_text=True)
