"""An installation that a procedure is to move from database mode to Redis."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from app.transfer.procedure import verbs
from app.transfer.procedure.gates import Ground
from app.transfer.procedure.plan import Choices, make_procedure_plan
from app.transfer.procedure.records import ProcedureRecords
from app.transfer.procedure.runner import Runner
from scripts.migration.run_migration import main
from tests.integration.place import Place

QUICK = Choices(hybrid_seconds=0, trial_seconds=0.2, running_seconds=0.2, patience_seconds=3)


class Site(Place):
    """In database mode, without workers."""

    def __init__(self, folder: Path, **settings: str) -> None:
        super().__init__(**settings)
        self.folder = folder
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

    def begin(self, **choices: Any) -> Runner:
        wanted = replace(QUICK, history=str(self.folder / "history.md"), **choices)
        plan = make_procedure_plan(self.system, wanted)
        return verbs.begin(self.system, plan, confirmed=plan.hash)

    @property
    def records(self) -> ProcedureRecords:
        return ProcedureRecords(self.system.store.database)

    def procedure(self, *arguments: str) -> tuple[int, Any]:
        """The command `run_migration.py`: its exit code, and what it said."""
        return self.call(main, *arguments)
