"""What a procedure is to do, as values: its phases with their time budgets, and the choices that an operator
confirms by the plan's hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from app.system import System
from app.tasks.model import PRIORITIES, Track
from app.transfer.errors import NotPossible
from app.transfer.history import DEFAULT as HISTORY
from app.transfer.legacy.beginning import table_of
from app.transfer.plans import Direction, Limits, Plan, Scope, make_plan, routing_of

CANARIES = (1, 10, 100)
HYBRID_PERCENT = 10  # where the settings name no share of their own


class Phase(StrEnum):
    PREPARE = "prepare"
    HYBRID = "hybrid"
    MIGRATE = "migrate"
    REDIS_ONLY = "redis only"
    VALIDATE = "validate"
    CLEAN_UP = "clean up"
    ROLLBACK = "rollback"


@dataclass(frozen=True, slots=True)
class Window:
    """How long some phases may take together. It is reported against; nothing is stopped at its end."""

    minutes: int
    phases: tuple[Phase, ...]


WINDOWS = (
    Window(30, (Phase.PREPARE,)),
    Window(60, (Phase.HYBRID,)),
    Window(60, (Phase.MIGRATE, Phase.REDIS_ONLY)),
    Window(30, (Phase.VALIDATE, Phase.CLEAN_UP)),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """What the operator may choose. Seconds; `accepted` names gates that need not hold."""

    hybrid_percent: int | None = None
    hybrid_seconds: float = 60.0
    trial_seconds: float = 60.0
    hold: bool = False
    running_seconds: float = 60.0
    rows_per_second: float | None = None
    batch_rows: int = Limits().batch_rows
    patience_seconds: float = 90.0
    canaries: tuple[int, ...] = CANARIES
    accepted: tuple[str, ...] = ()
    pid_files: tuple[str, ...] = ()
    source: str | None = None
    alter: bool = False
    install_guard: bool = False
    old_workers_stopped: bool = False
    history: str = str(HISTORY)


@dataclass(frozen=True, slots=True)
class ProcedurePlan:
    """The choices, the move of the rows, and the routing that the plan was made for."""

    choices: Choices
    move: Plan
    percents_before: Mapping[str, int] = field(default_factory=dict)

    @property
    def hash(self) -> str:
        """Names what is to be done, not how many rows wait at the moment: 16 hexadecimal digits."""
        what = self.to_json()
        what["move"] = self.move.hash
        text = json.dumps(what, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    @property
    def limits(self) -> Limits:
        return Limits(rows_per_second=self.choices.rows_per_second, batch_rows=self.choices.batch_rows)

    def to_json(self) -> dict[str, Any]:
        return {
            "choices": asdict(self.choices),
            "move": self.move.to_json(),
            "percents_before": dict(self.percents_before),
        }

    @classmethod
    def of_json(cls, data: Mapping[str, Any]) -> ProcedurePlan:
        lists = ("canaries", "accepted", "pid_files")
        choices = dict(data["choices"])
        choices |= {name: tuple(choices[name]) for name in lists}
        return cls(Choices(**choices), Plan.of_json(data["move"]), data["percents_before"])


def make_procedure_plan(system: System, choices: Choices) -> ProcedurePlan:
    """The plan as things are now. Changes nothing.

    Raises `NotPossible` where there is nothing to move from, nothing to move to, or a transfer under way.
    """
    if system.tickets is None:
        fix = "set RQ_ENABLED=true, RQ_HYBRID_MODE=true and RQ_ROLLOUT_PERCENT=0, and start the system again"
        raise NotPossible(f"this system runs without Redis: {fix}")
    if choices.source is not None:
        table_of(system.queue, Path(choices.source))  # what does not fit is said before anything begins
    rules = routing_of(system.store, PRIORITIES)
    taken = {route.transfer_id for route in rules.values() if route.transfer_id is not None}
    if taken:
        numbers = ", ".join(map(str, sorted(taken)))
        raise NotPossible(f"transfer {numbers} is under way: let it end, or abort it first")
    if all(route.whole_track is Track.REDIS for route in rules.values()):
        raise NotPossible("every task takes the Redis track already: there is nothing to migrate")
    percents = {priority.value: rules[priority].redis_percent for priority in PRIORITIES}
    return ProcedurePlan(
        _with_share(system, choices), make_plan(system.store, Direction.DISPATCH, Scope()), percents
    )


def _with_share(system: System, choices: Choices) -> Choices:
    if choices.hybrid_percent is not None:
        return choices
    of_settings = system.config.RQ_ROLLOUT_PERCENT
    percent = of_settings if 0 < of_settings < 100 else HYBRID_PERCENT
    return replace(choices, hybrid_percent=percent)
