"""A procedure as an operator reads it: its plan before, its gates and checklist after."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from app.transfer.procedure.phases import GATES, WAY, checklist, spent_in, spent_in_windows
from app.transfer.procedure.plan import WINDOWS, ProcedurePlan
from app.transfer.procedure.records import Procedure

_MARKS = {True: "yes", False: "NO ", None: "-  "}


def plan_text(plan: ProcedurePlan) -> str:
    total = sum(plan.move.rows.values())
    rows = ", ".join(f"{priority.value} {count:,}" for priority, count in plan.move.rows.items())
    choices = plan.choices
    rate = f", at most {choices.rows_per_second:g}/s" if choices.rows_per_second else ""
    lines = [f"Plan {plan.hash}: {total:,} rows wait in the database ({rows})", "", *_phases(), ""]
    lines += [
        f"hybrid: {choices.hybrid_percent} % by Redis, watched for {choices.hybrid_seconds:g} s",
        f"new tasks: {'held while rows move' if choices.hold else 'taken all the time'}",
        f"rows: {', '.join(map(str, choices.canaries))}, then all{rate}",
        f"accepted gates: {', '.join(choices.accepted) or 'none'}",
        "",
        f"To run it: --confirm {plan.hash}, with the same options.",
    ]
    return "\n".join(lines)


def _phases() -> Iterator[str]:
    for window in WINDOWS:
        for phase in window.phases:
            budget = f"  ({window.minutes} minutes)" if phase is window.phases[-1] else ""
            yield f"{phase.value:10}  {', '.join(gate.name for gate in GATES[phase])}{budget}"


def procedure_json(procedure: Procedure) -> dict[str, Any]:
    return {
        "procedure": procedure.procedure_id,
        "state": procedure.state.value,
        "phase": procedure.phase.value,
        "plan": procedure.plan_hash,
        "holder": procedure.holder,
        "error": procedure.error,
        "phases": procedure.record["phases"],
        "facts": procedure.record["facts"],
        "windows": [
            {"phases": name, "budget_minutes": minutes, "minutes": round(seconds / 60, 2)}
            for (name, minutes), seconds in spent_in_windows(procedure)
        ],
        "checklist": [asdict(line) for line in checklist(procedure)],
    }


def procedure_text(procedure: Procedure) -> str:
    head = f"Procedure {procedure.procedure_id} is {procedure.state.value}, phase {procedure.phase.value}"
    lines = [head + (f": {procedure.error}" if procedure.error else ""), "", *_windows(procedure), ""]
    lines += [f"{_MARKS[line.met]}  {line.criterion}: {line.evidence}" for line in checklist(procedure)]
    return "\n".join(lines)


def _windows(procedure: Procedure) -> Iterator[str]:
    for (name, minutes), seconds in spent_in_windows(procedure):
        over = ", OVER ITS BUDGET" if seconds > minutes * 60 else ""
        yield f"{name:21} {seconds / 60:6.1f} of {minutes} minutes{over}"
    taken = sum(spent_in(procedure, phase) for phase in WAY)
    yield f"{'in all':21} {taken / 60:6.1f} minutes"
