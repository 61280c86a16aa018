"""What a transfer is to do, as values: direction, scope, limits, and the routing that it leads to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any

from app.tasks.model import PRIORITIES, Priority, Track
from app.tasks.routing import Route, Routing
from app.tasks.store import Store
from app.tasks.store.transfers import Aim
from app.transfer.errors import NotPossible


class Direction(StrEnum):
    DISPATCH = "dispatch"
    RECALL = "recall"
    IMPORT = "import"

    @property
    def track(self) -> Track:
        """Where the rows go; those of an import go where the routing says, by Redis if any do."""
        return Track.DATABASE if self is Direction.RECALL else Track.REDIS


@dataclass(frozen=True, slots=True)
class Scope:
    """Which tasks: of these priorities, of one name if it is given, and of those `percent` in a hundred,
    the same ones each time. Of an import: the rows of the legacy table `source`."""

    priorities: tuple[Priority, ...] = PRIORITIES
    name: str | None = None
    percent: int = 100
    source: str | None = None

    @property
    def is_whole(self) -> bool:
        """All tasks of the priorities."""
        return self.name is None and self.percent == 100

    def __str__(self) -> str:
        """For operators: `urgent, high, tasks named x, 10 %`."""
        words = [", ".join(priority.value for priority in self.priorities)]
        words += [f"tasks named {self.name}"] if self.name is not None else []
        words += [f"{self.percent} %"] if self.percent != 100 else []
        words += [f"of {self.source}"] if self.source is not None else []
        return ", ".join(words)


@dataclass(frozen=True, slots=True)
class Limits:
    """How fast, and what makes it wait. None: no limit."""

    rows_per_second: float | None = None
    chunk_seconds: float = 0.25
    batch_rows: int = 10_000
    patience_seconds: float = 60.0
    database_threads: int | None = 32
    lock_waits: int | None = 8
    database_milliseconds: float | None = 200.0
    redis_memory_percent: float | None = 85.0
    redis_milliseconds: float | None = 100.0
    submit_rise_percent: float | None = None

    def __post_init__(self) -> None:
        if self.rows_per_second is not None and self.rows_per_second <= 0:
            raise NotPossible("the rate must be above 0 rows a second")
        if self.submit_rise_percent is not None and self.submit_rise_percent <= 0:
            raise NotPossible("submissions must be allowed to take a little longer: above 0 percent")
        if self.batch_rows < 1:
            raise NotPossible("a batch needs at least one row")


@dataclass(frozen=True, slots=True)
class Target:
    """The routing of one priority after the transfer."""

    redis_percent: int
    name_percents: Mapping[str, int] = field(default_factory=dict)

    def applied_to(self, route: Route) -> Route:
        names = dict(self.name_percents)
        return replace(route, redis_percent=self.redis_percent, name_percents=names, fallback=False)


@dataclass(frozen=True, slots=True)
class Plan:
    """Direction, scope, the routing at the end, and how many rows there are to move now."""

    direction: Direction
    scope: Scope
    targets: Mapping[Priority, Target]
    rows: Mapping[Priority, int] = field(default_factory=dict)

    @property
    def hash(self) -> str:
        """Names what is to be done, not how many rows wait at the moment: 16 hexadecimal digits."""
        what = self.to_json()
        del what["rows"]
        text = json.dumps(what, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    def aim(self, route: Route) -> Aim:
        """The rows of this route that are to move."""
        return Aim(self.targets[route.priority].applied_to(route), self.direction.track)

    def to_json(self) -> dict[str, Any]:
        scope = asdict(self.scope)
        if self.scope.source is None:
            del scope["source"]
        return {
            "direction": self.direction.value,
            "scope": scope,
            "targets": {priority.value: asdict(target) for priority, target in self.targets.items()},
            "rows": {priority.value: count for priority, count in self.rows.items()},
        }

    @classmethod
    def of_json(cls, data: Mapping[str, Any]) -> Plan:
        scope = data["scope"]
        return cls(
            direction=Direction(data["direction"]),
            scope=Scope(**(scope | {"priorities": tuple(map(Priority, scope["priorities"]))})),
            targets={Priority(name): Target(**target) for name, target in data["targets"].items()},
            rows={Priority(name): count for name, count in data["rows"].items()},
        )


def make_plan(store: Store, direction: Direction, scope: Scope) -> Plan:
    """The plan for this scope as things are now. Changes nothing.

    Raises `NotPossible` for a scope that names nothing, and `DatabaseUnavailable`.
    """
    if not scope.priorities or not 1 <= scope.percent <= 100:
        raise NotPossible("the scope needs a priority and a share of 1 to 100 percent")
    rules = routing_of(store, scope.priorities)
    targets = {priority: _target(direction, scope, rules[priority]) for priority in scope.priorities}
    plan = Plan(direction, scope, targets)
    return replace(plan, rows=rows_to_move(store, plan, rules))


def routing_of(store: Store, priorities: Collection[Priority]) -> Routing:
    """The routing as it is now. Raises `NotPossible` where one of the priorities has none."""
    rules = store.routing.refresh()
    missing = [priority.value for priority in priorities if priority not in rules]
    if missing:
        raise NotPossible(f"no routing yet for {', '.join(missing)}: start the web app or the workers once")
    return rules


def rows_to_move(store: Store, plan: Plan, rules: Routing) -> dict[Priority, int]:
    """How many rows of each priority wait on the other track, as an unlocked count."""
    return {priority: store.transfers.count(plan.aim(rules[priority])) for priority in plan.targets}


def _target(direction: Direction, scope: Scope, route: Route) -> Target:
    dispatch = direction is Direction.DISPATCH
    if scope.is_whole:
        return Target(100 if dispatch else 0)
    whole, names = route.redis_percent, dict(route.name_percents)
    now = names.get(scope.name, whole) if scope.name is not None else whole
    share = max(now, scope.percent) if dispatch else min(now, 100 - scope.percent)
    if scope.name is not None:
        return Target(whole, names | {scope.name: share})
    return Target(share, names)
