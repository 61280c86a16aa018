"""The migration page and what is behind it: the procedure live, its verbs, the pages of its verifications.

Moves no row: the procedure is run by a process of its own, and steered by its recorded state. Where a process
has to be started, the entrance does that, with what it has put into `parts.launcher`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Literal

from flask import Blueprint, Response, current_app, jsonify, render_template
from flask.typing import ResponseReturnValue

from app.system import System
from app.tasks.model import PRIORITIES, Status
from app.transfer.batches import BatchRecords
from app.transfer.errors import NotPossible
from app.transfer.forecast import Forecast, forecast
from app.transfer.procedure import verbs
from app.transfer.procedure.phases import GATES, WAY, checklist, spent_in_windows
from app.transfer.procedure.plan import Phase
from app.transfer.procedure.records import OPEN, Procedure, ProcedureRecords, State
from app.transfer.records import State as TransferState
from app.transfer.records import Transfer, TransferRecords
from app.web import auth, parts
from app.web.audit import audit
from app.web.bodies import body_as
from app.web.pages import OverviewCache
from app.web.problems import refused
from app.web.schemas import RequestBody
from app.web.snapshot import READY
from app.web.times import iso

CACHE_SLOT = "twintrack.migration"
POINTS = 200
REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'"
BY_HAND = (
    "This web app cannot start it: python scripts/migration/run_migration.py --{verb} at a terminal does."
)

_NOT_TRIED: dict[str, Any] = {"passed": None, "said": ""}

migration = Blueprint("migration", __name__, url_prefix="/admin/migration")
migration.before_request(auth.guard(auth.Role.ADMIN))
migration.after_request(audit)


class RollbackBody(RequestBody):
    """`confirm` is typed by whoever means it."""

    confirm: Literal["rollback"]


class AbortBody(RequestBody):
    confirm: Literal["abort"]


# --- look -----------------------------------------------------------------------------------------


@migration.get("")
def migration_page() -> str:
    """The migration page: the run live, with pause, resume, abort and rollback."""
    return render_template("migration.html")


@migration.get("/state")
def state() -> ResponseReturnValue:
    """Everything that the migration page shows, in one answer that all viewers of this process share."""
    cache = current_app.extensions.setdefault(CACHE_SLOT, OverviewCache())
    return jsonify(cache.get(lambda: _state(parts.system())))


@migration.get("/reports/<int:procedure_id>/<name>")
def report(procedure_id: int, name: str) -> Response:
    """The page of one verification."""
    found = _procedure(procedure_id)
    names = [one["name"] for one in found.record["facts"].get("reports", [])]
    path = parts.system().config.VAR_DIR / "procedures" / str(procedure_id) / name
    if name not in names or not path.is_file():
        raise refused(404, "There is no such report on this machine.")
    response = Response(path.read_bytes(), mimetype="text/html")
    response.headers["Content-Security-Policy"] = REPORT_POLICY
    return response


def _procedure(procedure_id: int) -> Procedure:
    try:
        return ProcedureRecords(parts.store().database).get(procedure_id)
    except NotPossible:
        raise refused(404, "There is no such procedure.") from None


# --- steer ----------------------------------------------------------------------------------------


@migration.post("/pause")
def pause() -> dict[str, Any]:
    """Let whoever runs the procedure wait, and move nothing."""
    return _done(lambda: verbs.pause(parts.system()))


@migration.post("/resume")
def resume() -> dict[str, Any]:
    """Go on: a paused process does, and where there is none any more a new one is started."""
    system = parts.system()
    return _done(lambda: _go_on(system))


@migration.post("/abort")
def abort() -> dict[str, Any]:
    """End the procedure where it is; rows follow the routing as it is now."""
    body_as(AbortBody)
    return _done(lambda: verbs.abort(parts.system(), reason="aborted on the page"))


@migration.post("/rollback")
def rollback() -> dict[str, Any]:
    """Bring every waiting task back to the database, in a process of its own."""
    body_as(RollbackBody)
    if ProcedureRecords(parts.store().database).latest() is None:
        raise refused(409, "There is no procedure to roll back.")
    _launch("rollback")
    return {"started": "rollback"}


def _go_on(system: System) -> Procedure:
    found = verbs.open_procedure(system)
    if found.state is State.STOPPED or verbs.is_stuck(found):
        _launch("resume")
        return found
    if not verbs.wake(system, found):
        raise NotPossible(f"procedure {found.procedure_id} is not paused")
    return found


def _done(work: Callable[[], Procedure]) -> dict[str, Any]:
    """Raises 409 with the sentence of what stood against it."""
    try:
        found = work()
    except NotPossible as error:
        raise refused(409, f"{str(error)[:1].upper()}{str(error)[1:]}.") from None
    return {"procedure": found.procedure_id, "state": found.state.value}


def _launch(verb: str) -> None:
    start = parts.launcher()
    if start is None:
        raise refused(409, BY_HAND.format(verb=verb))
    start(verb)


# --- as JSON --------------------------------------------------------------------------------------


def _state(system: System) -> dict[str, Any]:
    found = ProcedureRecords(system.store.database).latest()
    counts = system.store.queries.counts([*READY, Status.PROCESSING])
    rules = system.store.routing.current()
    return {
        "procedure": None if found is None else _procedure_json(found),
        "transfer": _transfer_json(system),
        "tracks": {
            priority.value: {
                "redis": counts[Status.DISPATCHED][priority],
                "database": counts[Status.QUEUED][priority],
                "running": counts[Status.PROCESSING][priority],
                "redis_percent": rules[priority].redis_percent if priority in rules else None,
            }
            for priority in PRIORITIES
        },
        "lag_seconds": system.store.queries.oldest_waiting_seconds(READY),
        "can_start": parts.launcher() is not None,
        "now": iso(parts.now()),
    }


def _procedure_json(found: Procedure) -> dict[str, Any]:
    facts = found.record["facts"]
    back = (Phase.ROLLBACK,) if Phase.ROLLBACK.value in found.record["phases"] else ()
    return {
        "id": found.procedure_id,
        "state": found.state.value,
        "stuck": verbs.is_stuck(found),
        "open": found.state in OPEN,
        "phase": found.phase.value,
        "error": found.error,
        "plan": found.plan_hash,
        "phases": [_phase_json(found, phase) for phase in (*WAY, *back)],
        "windows": [
            {"phases": name, "budget_minutes": minutes, "seconds": round(seconds, 1)}
            for (name, minutes), seconds in spent_in_windows(found)
        ],
        "checklist": [asdict(line) for line in checklist(found)],
        "reports": facts.get("reports", []),
        "created_at": iso(found.created_at),
        "ended_at": iso(found.ended_at),
    }


def _phase_json(found: Procedure, phase: Phase) -> dict[str, Any]:
    said = found.record["phases"].get(phase.value, {})
    gates = said.get("gates", {})
    return {
        "name": phase.value,
        "reached": bool(said),
        "ended": "ended_at" in said,
        "gates": [{"name": gate.name, **gates.get(gate.name, _NOT_TRIED)} for gate in GATES[phase]],
    }


def _transfer_json(system: System) -> dict[str, Any] | None:
    """The newest transfer, with its curve and its forecast."""
    found = TransferRecords(system.store.database).latest()
    if found is None:
        return None
    batches = BatchRecords(system.store.database)
    totals, steps = batches.totals(found.transfer_id), batches.steps(found.transfer_id, points=POINTS)
    planned = sum(found.plan.rows.values())
    moved = totals.marked + totals.quarantined
    running = found.state is TransferState.RUNNING
    ahead = (
        forecast(steps, left=max(0, planned - moved), now=system.store.database.now()) if running else None
    )
    return {
        "id": found.transfer_id,
        "direction": found.plan.direction.value,
        "state": found.state.value,
        "phase": found.phase,
        "throttle_reason": found.throttle_reason,
        "error": found.error,
        "planned": planned,
        "moved": moved,
        "quarantined": totals.quarantined,
        "forecast": None if ahead is None else _forecast_json(ahead),
        "mean_rate": _mean_rate(found, moved),
        "curve": [[iso(step.at), step.rows] for step in steps],
        "started_at": iso(found.started_at),
        "ended_at": iso(found.ended_at),
    }


def _forecast_json(ahead: Forecast) -> dict[str, Any]:
    return {name: None if value is None else round(value, 2) for name, value in asdict(ahead).items()}


def _mean_rate(found: Transfer, moved: int) -> float | None:
    if found.started_at is None or found.ended_at is None:
        return None
    seconds = (found.ended_at - found.started_at).total_seconds()
    return round(moved / seconds, 1) if seconds > 0 else None
