"""Deployments: names by which people start tasks, kept in the database for all hosts and for the page."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from app.system import System
from app.tasks.errors import UnknownTaskName
from app.tasks.submission import TaskRequest

STORED_AS = "deployments"
LONGEST_NAME = 100


class NoSuchDeployment(ValueError):
    """Nobody has deployed anything under this name."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """A task to be started by a name, with what it is given unless somebody says otherwise."""

    name: str
    task: str
    payload: Any = field(default_factory=dict)
    priority: str | None = None


class Deployments:
    """Every method raises `DatabaseUnavailable`."""

    def __init__(self, system: System) -> None:
        self._system = system

    def all(self) -> list[Deployment]:
        """Every deployment, by name."""
        stored = self._system.store.registry.recall(STORED_AS)
        return [Deployment(**one) for one in json.loads(stored or "[]")]

    def put(self, given: Iterable[Deployment]) -> None:
        """Store them, in place of those of the same names; the last of two that do so at once wins. Raises
        `UnknownTaskName` for a task that this process could not submit."""
        known = {one.name: one for one in self.all()}
        for one in given:
            if one.task not in self._system.handlers:
                raise UnknownTaskName(one.task)
            known[one.name] = one
        told = [asdict(known[name]) for name in sorted(known)]
        self._system.store.registry.remember(STORED_AS, json.dumps(told))

    def run(self, name: str, payload: Any = None) -> int:
        """Submit its task, with another payload if one is given; returns the id. Raises `NoSuchDeployment`,
        and what `TaskQueue.submit` does."""
        found = next((one for one in self.all() if one.name == name), None)
        if found is None:
            raise NoSuchDeployment(f"there is no deployment {name[:LONGEST_NAME]!r}")
        given = found.payload if payload is None else payload
        return self._system.queue.submit(TaskRequest(found.task, given, priority=found.priority)).task_id
