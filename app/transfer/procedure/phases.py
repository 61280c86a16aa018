"""The phases with their gates, in the order of their going, and the success checklist that they make."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from app.transfer.procedure.finishing import CLEAN_UP, REDIS_ONLY, VALIDATE
from app.transfer.procedure.gates import Gate
from app.transfer.procedure.moving import MIGRATE
from app.transfer.procedure.plan import WINDOWS, Phase
from app.transfer.procedure.preparing import HYBRID, PREPARE
from app.transfer.procedure.records import Procedure, State
from app.transfer.procedure.returning import ROLLBACK

GATES: Mapping[Phase, Sequence[Gate]] = {
    Phase.PREPARE: PREPARE,
    Phase.HYBRID: HYBRID,
    Phase.MIGRATE: MIGRATE,
    Phase.REDIS_ONLY: REDIS_ONLY,
    Phase.VALIDATE: VALIDATE,
    Phase.CLEAN_UP: CLEAN_UP,
    Phase.ROLLBACK: ROLLBACK,
}
WAY = tuple(phase for phase in Phase if phase is not Phase.ROLLBACK)
ACCEPTABLE = frozenset(gate.name for gates in GATES.values() for gate in gates if gate.acceptable)


def way_from(phase: Phase) -> tuple[Phase, ...]:
    """The phases that are ahead, this one included."""
    return (phase,) if phase is Phase.ROLLBACK else WAY[WAY.index(phase) :]


@dataclass(frozen=True, slots=True)
class Line:
    """A criterion of success. `met` is None where its gate has not been reached."""

    criterion: str
    met: bool | None
    evidence: str


def checklist(procedure: Procedure) -> list[Line]:
    """Each criterion with its evidence; of the way back, if it was gone."""
    back = Phase.ROLLBACK.value in procedure.record["phases"]
    lines = list(_lines(procedure, (Phase.ROLLBACK,) if back else WAY))
    if not back:
        spent = [(window, seconds) for window, seconds in spent_in_windows(procedure) if seconds]
        over = [name for (name, minutes), seconds in spent if seconds > minutes * 60]
        said = ", ".join(f"{name} {seconds / 60:.1f} of {minutes} min" for (name, minutes), seconds in spent)
        lines.append(Line("Each window kept its time", not over if spent else None, said))
    return lines


def _lines(procedure: Procedure, phases: Sequence[Phase]) -> Iterator[Line]:
    for phase in phases:
        said = procedure.record["phases"].get(phase.value, {}).get("gates", {})
        for gate in GATES[phase]:
            if gate.asks:
                found = said.get(gate.name)
                evidence = found["said"] if found else "not reached"
                yield Line(gate.asks, None if found is None else found["passed"], evidence)


def spent_in_windows(procedure: Procedure) -> list[tuple[tuple[str, int], float]]:
    """Of each window its name and budget in minutes, and the seconds that its phases have taken so far."""
    return [
        (
            (" + ".join(phase.value for phase in window.phases), window.minutes),
            sum(spent_in(procedure, phase) for phase in window.phases),
        )
        for window in WINDOWS
    ]


def spent_in(procedure: Procedure, phase: Phase) -> float:
    """Seconds that a phase has taken; of the one that runs up to now."""
    found: Mapping[str, Any] = procedure.record["phases"].get(phase.value, {})
    seconds = float(found.get("seconds", 0.0))
    if procedure.phase is phase and procedure.state in (State.RUNNING, State.PAUSED) and "noted_at" in found:
        seconds += max(0.0, (datetime.now(UTC) - datetime.fromisoformat(found["noted_at"])).total_seconds())
    return seconds
