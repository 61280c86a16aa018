"""A gate: a deed of the procedure, and the condition that must hold for it to go on.

A gate that does not open says what it saw and what to do next. What it leaves for later ones goes into
`ground.facts`, which are kept in the procedure's row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.system import System
from app.tasks.model import Status, Track
from app.transfer.backup import Restore
from app.transfer.baseline import Baseline
from app.transfer.errors import Superseded
from app.transfer.integrity import Rule, broken_rules, consistency_rules, task_rules, user_rules
from app.transfer.mover import Watcher
from app.transfer.procedure.plan import ProcedurePlan
from app.transfer.records import TransferRecords
from app.transfer.sampling import Sampler
from app.transfer.trials import Followed


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a gate saw. `fix` is what to do next where it did not open."""

    passed: bool
    said: str
    fix: str = ""


@dataclass(slots=True)
class Ground:
    """What gates stand on. `check` waits while an operator has paused, and raises `Superseded` when the
    procedure is not this process's any more; whatever takes long calls it again and again. `keep` writes the
    facts down at once. `folder` is for files of this procedure."""

    system: System
    plan: ProcedurePlan
    facts: dict[str, Any]
    check: Callable[[], None]
    keep: Callable[[], None]
    watcher: Watcher
    folder: Path
    history: Path
    subject: str

    def place(self, name: str) -> Path:
        """A file or folder of that name that is not there yet; an earlier try may have left one."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        stem, dot, ending = name.partition(".")
        names = (f"{stem}{'' if n == 1 else f'-{n}'}{dot}{ending}" for n in range(1, 10_000))
        return next(path for path in map(self.folder.joinpath, names) if not path.exists())

    def begun(self, fact: str, transfer_id: int) -> None:
        """Write down a transfer before it moves anything, so that whoever pauses or aborts finds it. Raises
        `Superseded`; then the transfer has ended."""
        self.facts[fact] = transfer_id
        try:
            self.keep()
            self.check()
        except Superseded:
            records = TransferRecords(self.system.store.database)
            records.abort(transfer_id, reason="its procedure is no longer this process's")
            raise

    def known(self, fact: str) -> Path | None:
        """A folder that an earlier gate has left, if it did."""
        found = self.facts.get(fact)
        return None if found is None else Path(found)


@dataclass(frozen=True, slots=True)
class Gate:
    """`once`: what was done is not done again when the phase is resumed. `acceptable`: an operator may let
    it pass though it does not hold, by a plan that says so."""

    name: str
    open: Callable[[Ground], Outcome]
    once: bool = False
    acceptable: bool = False
    asks: str = field(default="", kw_only=True)
    """The question that it answers, for the success checklist; empty: it is no line of its own."""


def rules_hold(ground: Ground) -> Outcome:
    """The tables, held against the rules of tasks, of each other, and of users."""
    config = ground.system.config
    limits = {"active_limit": config.MAX_ACTIVE_TASKS_PER_USER, "concurrency": config.RQ_USER_CONCURRENCY}
    rules: list[Rule] = [*task_rules(ground.system.handlers), *consistency_rules(), *user_rules(**limits)]
    broken = broken_rules(ground.system.store.database, rules)
    if not broken:
        return Outcome(True, f"{len(rules)} rules hold")
    said = "; ".join(f"{b.rule.name}: {', '.join(b.keys[:5])}" for b in broken)
    fix = "look with validate_task_integrity.py, check_data_consistency.py and validate_user_constraints.py"
    return Outcome(False, f"{len(broken)} of {len(rules)} rules are broken: {said}", fix)


def judged(ground: Ground, trial: Followed, *, ended_before: int) -> Outcome:
    """Whether test tasks came to their end; those that stand behind a backlog need not, while that gets
    shorter and each track that they stand on has workers."""
    tracks = ", ".join(f"{count} {status}" for status, count in sorted(trial.first_statuses.items()))
    said = f"{trial.completed} of {trial.accepted} test tasks completed, at first {tracks or 'none'}"
    if trial.refused:
        fix = "see that submission is open (the admin page), then --resume"
        return Outcome(False, f"{said}; {len(trial.refused)} refused: {trial.refused[0]}", fix)
    if trial.good:
        return Outcome(True, said)
    if trial.gone:
        fix = "let nobody remove test tasks beside a procedure, then --resume"
        return Outcome(False, f"{said}; {trial.gone} are gone", fix)
    seen, left = Sampler(ground.system).take(), set(trial.not_completed.values())
    unserved = [track for track in Track if track.waiting_status in left and not seen.workers[track]]
    others = seen.ended - ended_before - trial.completed  # a purge makes it smaller
    fix = "see that workers live (python -m workers status) and that no queue is paused, then --resume"
    if unserved:
        return Outcome(False, f"{said}; no worker of the track {unserved[0]} lives", fix)
    if left <= {Status.QUEUED, Status.DISPATCHED, Status.PROCESSING} and others > 0:
        return Outcome(True, f"{said}; the rest stands behind a backlog, of which {others:,} ended meanwhile")
    return Outcome(False, said, fix)


def has_backup(ground: Ground, folder: Path) -> Outcome:
    """Hold a backup that was just written against its checksums. Raises `ArchiveRefused`."""
    counts = Restore(folder).counts
    ground.facts["backup"] = str(folder)
    said = f"{sum(counts.values()):,} rows of {len(counts)} tables, checksums hold: {folder.name}"
    return Outcome(True, said)


def has_baseline(ground: Ground, folder: Path) -> Outcome:
    """Raises `ArchiveRefused`."""
    rows = Baseline(folder).rows
    ground.facts["baseline"] = str(folder)
    return Outcome(True, f"{rows:,} rows recorded: {folder.name}")
