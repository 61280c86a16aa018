"""The flows page and what is behind it: runs that fanned out, one run as a graph, and deployments to start.

A run is a task that has children. Two statements for the list, three for a run, however many tasks there are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

from flask import Blueprint, render_template
from pydantic import Field

from app.distributed.deployments import Deployments, NoSuchDeployment
from app.tasks.errors import TaskNotFound
from app.tasks.model import Status, Task
from app.tasks.schema import AnyRow
from app.web import auth, parts
from app.web.audit import audit
from app.web.bodies import body_as, query, task_id_of, whole_number
from app.web.problems import refused
from app.web.schemas import RequestBody
from app.web.times import iso

RUNS_DEFAULT, RUNS_LIMIT = 20, 100
# Beyond this many boxes nobody finds one; the figures above them count all.
BOXES = 500

flows = Blueprint("flows", __name__, url_prefix="/admin/flows")
flows.before_request(auth.guard(auth.Role.ADMIN))
flows.after_request(audit)


class StartBody(RequestBody):
    """`payload` None: what was deployed."""

    deployment: Annotated[str, Field(min_length=1, max_length=100)]
    payload: Any = None


@flows.get("")
def flows_page() -> str:
    """The flows page: runs that fanned out, one of them as a graph, and deployments to start."""
    return render_template("flows.html", boxes=BOXES)


@flows.get("/runs")
def runs() -> dict[str, Any]:
    """The newest runs, each with how many children are in which status."""
    limit = whole_number("limit", query("limit").get("limit"), default=RUNS_DEFAULT, low=1, high=RUNS_LIMIT)
    found = parts.queue().families.newest_runs(limit=limit)
    return {
        "runs": [_times_json(row) | {"children": _tally_json(tally)} for row, tally in found],
        "now": iso(parts.store().database.now()),
    }


@flows.get("/runs/<task_id>")
def run(task_id: str) -> dict[str, Any]:
    """One run: its task, and its children by phase. 404 for no task."""
    number = task_id_of(task_id)
    if number is None:
        raise TaskNotFound(task_id)
    families = parts.queue().families
    task = parts.store().queries.task(number)
    children = families.children_of(number, limit=BOXES)
    phases: dict[str, list[dict[str, Any]]] = {}
    for row in children:
        more = {"tag": row.tag, "waits_for_a_place": _waits_for_a_place(row)}
        phases.setdefault(row.phase, []).append(_times_json(row) | more)
    return {
        "run": _run_json(task),
        "phases": [{"name": name, "children": boxes} for name, boxes in phases.items()],
        "children": _tally_json(families.tally_of(number)),
        "now": iso(parts.store().database.now()),
    }


@flows.get("/deployments")
def list_deployments() -> dict[str, Any]:
    """What can be started by a name, and with what payload it is."""
    return {
        "deployments": [
            {"name": one.name, "task": one.task, "payload": one.payload, "priority": one.priority}
            for one in Deployments(parts.system()).all()
        ]
    }


@flows.post("/start")
def start() -> tuple[dict[str, Any], int]:
    """Start a deployment: 202 with the id of its task. 404 for a name that nobody has deployed."""
    body = body_as(StartBody)
    try:
        task_id = Deployments(parts.system()).run(body.deployment, body.payload)
    except NoSuchDeployment:
        raise refused(404, "There is no such deployment.") from None
    return {"id": str(task_id), "links": {"run": f"/admin/flows/runs/{task_id}"}}, 202


# --- as JSON ------------------------------------------------------------------------------------------


def _run_json(task: Task) -> dict[str, Any]:
    return {
        "id": str(task.task_id),
        "name": task.name,
        "status": task.status.value,
        "attempt": task.attempt,
        "error": task.error,
        "payload": json.dumps(task.payload, ensure_ascii=False)[:500],
        "created_at": iso(task.created_at),
        "started_at": iso(task.started_at),
        "ended_at": iso(task.ended_at),
    }


def _times_json(row: AnyRow) -> dict[str, Any]:
    return {
        "id": str(row.id),
        "name": row.name,
        "status": row.status.value,
        "attempt": row.attempt,
        "failures": row.failures,
        "error": row.error,
        "worker": row.holder,
        "created_at": iso(row.created_at),
        "started_at": iso(row.started_at),
        "ended_at": iso(row.ended_at),
    }


def _waits_for_a_place(row: AnyRow) -> bool:
    return row.status is Status.SCHEDULED and row.tag is not None and not row.admitted


def _tally_json(tally: Mapping[Status, int]) -> dict[str, int]:
    return {status.value: count for status, count in tally.items()}
