"""Imports as the tests of them begin one, and what they then look at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from app.tasks.handlers import load_handlers
from app.tasks.model import PRIORITIES, Claim, Outcome
from app.tasks.queue import TaskQueue
from app.tasks.settings import CoreSettings
from app.tasks.store import Store
from app.tasks.store.takes import TakeQueued
from app.transfer.legacy.beginning import Consent, checked, plan_import, start_import
from app.transfer.legacy.mapping import Mapping, read_mapping
from app.transfer.mover import Mover, Moving
from app.transfer.plans import Limits, Scope
from config import ROOT
from tests.contract.moving import FAST
from tests.contract.rows import Rows

CAPTIONS = read_mapping(ROOT / "mappings" / "caption_tasks.toml")
HANDLERS = load_handlers(["app.handlers"])
ALLOWED = Consent(alter=True, old_workers_stopped=True)
GUARDED = Consent(alter=True, install_guard=True)
KEYS = "legacy:caption_tasks:"


def _on(*kinds: str) -> pytest.MarkDecorator:
    marked = [pytest.param(kind, marks=getattr(pytest.mark, kind)) for kind in kinds]
    return pytest.mark.parametrize("rows", marked, indirect=True)


ON_SQLITE, ON_MARIADB, ON_POSTGRESQL = _on("sqlite"), _on("mariadb"), _on("postgresql")
ON_SERVERS = _on("mariadb", "postgresql")


def queue_over(store: Store, **settings: Any) -> TaskQueue:
    """A queue in database mode that knows the shipped handlers."""
    return TaskQueue(store, HANDLERS, None, CoreSettings(**settings))


def begun(
    queue: TaskQueue,
    mapping: Mapping = CAPTIONS,
    *,
    limits: Limits = FAST,
    consent: Consent = ALLOWED,
    watcher: Any = lambda moving: None,
) -> Mover:
    """An import of all rows that wait, not yet run."""
    table = checked(queue, mapping)
    return start_import(queue, table, plan_import(queue, table, Scope()), limits, consent, watcher=watcher)


def imported(queue: TaskQueue, mapping: Mapping = CAPTIONS, *, consent: Consent = ALLOWED) -> Moving:
    """What an import of all rows that wait has done."""
    return begun(queue, mapping, consent=consent).run()


def turn(store: Store, outcomes: Sequence[Outcome] = (), limit: int = 100) -> list[Claim]:
    """End these, claim the next."""
    take = TakeQueued(limit, PRIORITIES)
    return store.turns.turn(list(outcomes), take, holder="the test", lease_seconds=30).claims.won


def key_of(claim: Claim) -> str:
    """The key of the legacy row that a claimed task came from."""
    return (claim.idempotency_key or "").removeprefix(KEYS)


def by_key(rows: Rows) -> dict[str, dict[str, Any]]:
    """The task rows by the key of the legacy row that they name."""
    found = [row for row in rows.all().values() if (row["idempotency_key"] or "").startswith(KEYS)]
    assert len({row["idempotency_key"] for row in found}) == len(found)
    return {row["idempotency_key"].removeprefix(KEYS): row for row in found}
