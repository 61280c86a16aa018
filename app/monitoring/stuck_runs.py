"""Why runs do not go on: nobody serves what they wait for, somebody holds it up, or a server lets nobody in.

It names what stands still whatever time goes by, and not what is merely slow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.system import System
from app.tasks.errors import DatabaseUnavailable, LoginRefused, RedisUnavailable
from app.tasks.model import POOL_RANK, PRIORITIES, Status
from app.tasks.routing import Routing
from app.tasks.store.pools import PoolFigures
from app.tasks.store.registry import WorkerRow

LOOKED_AT = 1000
NAMED = 5
SOME_WORKERS = "python scripts/start_workers.py --workers 3"


@dataclass(slots=True)
class Stuck:
    """One reason why something does not go on, and what helps. `run` None: it concerns all."""

    reason: str
    fix: str
    run: int | None = None
    name: str = ""
    tasks: list[str] = field(default_factory=list)

    @property
    def sentence(self) -> str:
        if self.run is None:
            return f"{self.reason}. {self.fix}"
        told = ", ".join(self.tasks[:NAMED])
        more = f" and {len(self.tasks) - NAMED} more" if len(self.tasks) > NAMED else ""
        who = f"run {self.run} ({self.name})" + (f", {told}{more}" if told else "")
        return f"{who}: {self.reason}. {self.fix}"


@dataclass(frozen=True, slots=True)
class _Scene:
    """Who serves what, as of now."""

    alive: Sequence[WorkerRow]
    pools: Mapping[int, PoolFigures]
    tags: Mapping[str, int]
    rules: Routing

    def why(self, row: Any) -> tuple[str, str] | None:
        """The reason why this member of a run stands still, with what helps; None if it does not."""
        if not self.alive:
            return "no worker is alive", f"Start some: {SOME_WORKERS}"
        if row.status is Status.SCHEDULED:
            return self._why_scheduled(row)
        return self.why_in_pool(row.rank) if row.rank > POOL_RANK else self._why_in_queue(row.rank)

    def _why_scheduled(self, row: Any) -> tuple[str, str] | None:
        if row.admitted or self.tags.get(row.tag) != 0:
            return None
        return f"the limit of the tag {row.tag} is 0", f"python scripts/tag_limits.py set {row.tag} 3"

    def why_in_pool(self, lane: int) -> tuple[str, str] | None:
        """The reason why nothing that waits in this lane is taken."""
        pool = self.pools[lane]
        if all(worker.pool != pool.name for worker in self.alive):
            start = f"python scripts/start_workers.py --pool {pool.name}"
            return f"it waits for the pool {pool.name}, and {self._served()}", f"Start its workers: {start}"
        if pool.at_most == 0:
            return f"the limit of the pool {pool.name} is 0", f"python scripts/pools.py limit {pool.name} 3"
        return None

    def _why_in_queue(self, rank: int) -> tuple[str, str] | None:
        queue = PRIORITIES[rank]
        if self.rules[queue].paused:
            return f"the queue {queue} is paused", f"Resume it: POST /admin/rq/queues/{queue}/resume"
        if all(worker.pool or queue not in worker.queues.split(",") for worker in self.alive):
            return f"it waits in the queue {queue}, and {self._served()}", f"Start workers: {SOME_WORKERS}"
        return None

    def _served(self) -> str:
        served = {f"the pool {worker.pool}" if worker.pool else worker.queues for worker in self.alive}
        return f"every worker that is alive serves something else ({'; '.join(sorted(served))})"


def stuck_runs(system: System) -> list[Stuck]:
    """What keeps runs, and tasks of pools, from going on. A server that is away, or lets us not in, is an
    answer, too."""
    found = _of_redis(system)
    try:
        return found + _of_runs(system)
    except LoginRefused as error:
        return [*found, Stuck(str(error), "Correct name, password or address in DATABASE_URL.")]
    except DatabaseUnavailable as error:
        return [*found, Stuck(str(error), "Start the database, or correct DATABASE_URL.")]


def _of_redis(system: System) -> list[Stuck]:
    if system.tickets is None:
        return []
    try:
        system.tickets.lengths()
    except RedisUnavailable as error:
        if "login" in str(error):
            return [Stuck(str(error), "Correct name or password in RQ_REDIS_URL.")]
        return [Stuck(str(error), "Start Redis, or correct RQ_REDIS_URL.")]
    return []


def _of_runs(system: System) -> list[Stuck]:
    store = system.store
    figures = store.pools.all()
    lanes = {figure.name: store.pools.lane(figure.name) for figure in figures}
    pools = {lane: figure for figure in figures if (lane := lanes[figure.name]) is not None}
    alive = system.workers()
    scene = _Scene(alive, pools, store.families.limits(), store.routing.refresh())
    found: dict[tuple[int, str], Stuck] = {}
    for row in store.families.waiting(limit=LOOKED_AT):
        if (why := scene.why(row)) is not None:
            one = found.setdefault((row.run_id, why[0]), Stuck(*why, run=row.run_id, name=row.run_name))
            one.tasks += [row.child] if row.child is not None else []
    return [*found.values(), *_of_pools(scene)]


def _of_pools(scene: _Scene) -> list[Stuck]:
    """Each pool whose tasks, members of a run or not, nobody takes."""
    found = []
    for lane, pool in scene.pools.items():
        if pool.waiting and (why := scene.why_in_pool(lane)) is not None:
            found.append(Stuck(f"the pool {pool.name} has {pool.waiting} waiting tasks: {why[0]}", why[1]))
    return found
