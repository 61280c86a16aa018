"""Before an import: what the table needs first, the plan, and the start."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from app.tasks.errors import UnknownTaskName
from app.tasks.queue import TaskQueue
from app.transfer import runs
from app.transfer.errors import NotPossible
from app.transfer.legacy.cargoes import rows_of
from app.transfer.legacy.guard import Guard, prepare_passes
from app.transfer.legacy.mapping import Mapping, read_mapping
from app.transfer.legacy.status_words import run_statement, statement_for_moved
from app.transfer.legacy.table import LegacyTable, database_of
from app.transfer.mover import Mover, Watcher
from app.transfer.plans import Direction, Limits, Plan, Scope, Target, routing_of
from app.transfer.records import Transfer, TransferRecords


@dataclass(frozen=True, slots=True)
class Consent:
    """What an operator allows an import to do to the legacy table, or vouches for."""

    alter: bool = False
    install_guard: bool = False
    old_workers_stopped: bool = False


def table_of(queue: TaskQueue, path: Path) -> LegacyTable:
    """The table that a mapping file names. Raises `NotPossible` for what does not fit."""
    return checked(queue, read_mapping(path))


def checked(queue: TaskQueue, mapping: Mapping) -> LegacyTable:
    """As `table_of`, of a mapping that was read."""
    try:
        queue.handlers[mapping.task]
    except UnknownTaskName:
        raise NotPossible(
            f"no handler is registered for {mapping.task!r}: name its module in TASK_MODULES"
        ) from None
    return LegacyTable(database_of(queue.store, mapping), mapping)


def plan_import(queue: TaskQueue, table: LegacyTable, scope: Scope) -> Plan:
    """The plan for these priorities as things are now. Changes nothing. Raises `NotPossible`."""
    if not scope.is_whole:
        raise NotPossible("an import moves whole priorities: leave --name and --share away")
    scope = replace(scope, source=table.mapping.name)
    rules = routing_of(queue.store, scope.priorities)
    targets = {p: Target(rules[p].redis_percent, dict(rules[p].name_percents)) for p in scope.priorities}
    plan = Plan(Direction.IMPORT, scope, targets)
    rows = rows_of(queue, table, transfer_id=0)
    return replace(plan, rows={p: rows.count(plan.aim(rules[p])) for p in scope.priorities})


def open_imports(queue: TaskQueue, source: str) -> list[Transfer]:
    """The imports from this source that have not ended."""
    found = TransferRecords(queue.store.database).open_ones(Direction.IMPORT)
    return [one for one in found if one.plan.scope.source == source]


def needed_statements(table: LegacyTable) -> list[str]:
    """What has to be run on the table first."""
    statement = statement_for_moved(table.database, table.mapping)
    return [] if statement is None else [statement]


def _untold(sentence: str) -> None:
    """Nobody listens."""


def require_guard(table: LegacyTable, consent: Consent, *, tell: Callable[[str], None] = _untold) -> None:
    """Without a guard, an old worker that read a row before its move would run it again afterwards.

    Raises `NotPossible` if there is none, and the operator neither allows it nor vouches.
    """
    guard = Guard(table.database, table.mapping)
    if consent.old_workers_stopped or guard.is_installed():
        return
    if not consent.install_guard:
        offered = ";\n  ".join(guard.statements())
        raise NotPossible(
            "old workers may be alive, and nothing keeps them from rows that have moved. Run this, allow it"
            f" with --install-guard, or vouch with --old-workers-stopped:\n  {offered};"
        )
    tell(f"Installing the trigger {guard.name}")
    guard.install()


def start_import(
    queue: TaskQueue,
    table: LegacyTable,
    plan: Plan,
    limits: Limits,
    consent: Consent,
    *,
    watcher: Watcher,
    tell: Callable[[str], None] = _untold,
) -> Mover:
    """Record the import and make its mover, held by this process.

    Raises `NotPossible` if the table lacks something that the operator has not allowed, and as `runs.start`.
    """
    for statement in needed_statements(table):
        if not consent.alter:
            raise NotPossible(
                f"the status column cannot hold {table.mapping.status.moved!r} yet. Run this, or allow it"
                f" with --alter:\n  {statement}"
            )
        tell(f"Running: {statement}")
        run_statement(table.database, statement)
    if table.mapping.database is not None:
        prepare_passes(table.database, table.mapping)
    queue.store.imports.remember(table.source())
    require_guard(table, consent, tell=tell)
    return runs.start(queue, plan, limits, watcher=watcher)
