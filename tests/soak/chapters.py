"""The chapters of a soak: which installations they need, how many rounds, and what must have happened."""

from __future__ import annotations

import math
import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.servers import RedisServer
from tests.soak import deaths, hostile, kills, redis_faults, stock
from tests.soak.installation import Installation
from tests.soak.lanes import DATABASES, Lane, run_in_lanes
from tests.soak.points import NAMES, Scope
from tests.soak.progress import Progress
from tests.soak.results import Chapter

MORE_TRIES = 6


@dataclass(frozen=True, slots=True)
class Options:
    """What to run. Rounds are shared out to the databases; faults are run so often on each."""

    rounds: int = 1000
    faults: int = 10
    seed: int = 1
    databases: Sequence[str] = DATABASES
    points: Sequence[str] = NAMES
    redis_faults: Sequence[str] = redis_faults.NAMES

    def dice(self, *what: object) -> random.Random:
        """Chance that a seed repeats, for one lane of one chapter."""
        return random.Random(f"{self.seed} {what}")


def run_kills(options: Options, progress: Progress) -> Chapter:
    """SIGKILL at every named step."""
    chapter = Chapter("kills", "SIGKILL at every named step, from pop to end, four queues, mixed load")
    share = max(1, math.ceil(options.rounds / len(options.databases)))
    points = list(options.points)
    options.dice("points").shuffle(points)
    progress.begin(chapter, share * len(options.databases))

    def work(lane: Lane) -> None:
        dice = options.dice("kills", lane.kind)
        first = options.databases.index(lane.kind) * share  # few rounds still come by every point
        with lane.installation(**kills.SETTINGS) as place:
            killing = kills.Killing(place, chapter, dice)
            kills.warm_up(place, dice)
            for point, scope in kills.plan(dice, share, points, first=first):
                if not progress.may_go_on():
                    break
                killing.run(point, scope)
                progress.step()
            _hit_the_rest(killing, chapter, options.points, progress)
            killing.finish()

    run_in_lanes(options.databases, work, progress.stop)
    for point in options.points:
        if not chapter.tally(point).hits:
            chapter.problems.append(f"{point} was never hit: nothing is known about it")
    progress.end()
    return chapter


def _hit_the_rest(
    killing: kills.Killing, chapter: Chapter, points: Sequence[str], progress: Progress
) -> None:
    """A few more rounds for points that nobody passed, at their first pass."""
    for _ in range(MORE_TRIES):
        for point in points:
            if chapter.tally(point).rounds and not chapter.tally(point).hits and progress.may_go_on():
                killing.run(point, Scope.PROCESS, deepest=1)


def _once_per_lane(
    chapter: Chapter,
    act: Callable[[Installation, Chapter], None],
    options: Options,
    progress: Progress,
    **settings: Any,
) -> Chapter:
    """A chapter of one act on an installation of each database."""
    progress.begin(chapter, len(options.databases))

    def work(lane: Lane) -> None:
        with lane.installation(**settings) as place:
            act(place, chapter)
        progress.step()

    run_in_lanes(options.databases, work, progress.stop)
    progress.end()
    return chapter


def run_tree(options: Options, progress: Progress) -> Chapter:
    """The whole worker tree at once, default settings."""
    title = "kill -9 of the whole worker tree amid 24 tasks of 2 s, default settings, started again at once"
    return _once_per_lane(Chapter("tree", title), deaths.kill_the_tree, options, progress, **deaths.DEFAULTS)


def run_host(options: Options, progress: Progress) -> Chapter:
    """A host whose life files nobody sees."""
    title = "death of another host's workers, default settings: their leases must end first"
    return _once_per_lane(
        Chapter("host", title), deaths.kill_another_host, options, progress, **deaths.DEFAULTS
    )


def run_frozen(options: Options, progress: Progress) -> Chapter:
    """Workers that come back from the frozen."""
    lease = deaths.FROZEN_LEASE_SECONDS
    chapter = Chapter("frozen", f"SIGSTOP past a lease of {lease:g} s, then SIGCONT")
    freeze = partial(deaths.freeze, rounds=options.faults)
    return _once_per_lane(chapter, freeze, options, progress, RQ_LEASE_SECONDS=lease)


def run_redis(options: Options, progress: Progress) -> Chapter:
    """Faults of Redis under load."""
    chapter = Chapter("redis", "faults of Redis under load")

    def work(lane: Lane) -> None:
        with lane.installation(**redis_faults.SETTINGS) as place:
            faults = redis_faults.RedisFaults(place, chapter, options.dice("redis", lane.kind))
            for name in tuple(options.redis_faults) * options.faults:
                if not progress.may_go_on():
                    break
                faults.run(name)
                progress.step()
            faults.finish()

    progress.begin(chapter, len(options.redis_faults) * options.faults * len(options.databases))
    run_in_lanes(options.databases, work, progress.stop)
    progress.end()
    return chapter


def run_hostile(options: Options, progress: Progress) -> Chapter:
    """Handlers that take their worker along."""
    chapter = Chapter("hostile", "handlers that take their worker along, each between innocent neighbours")
    progress.begin(chapter, len(hostile.CULPRITS) * options.faults * len(options.databases))

    def work(lane: Lane) -> None:
        with lane.installation(**hostile.SETTINGS) as place:
            nights = hostile.BadNights(place, chapter)
            for culprit in tuple(hostile.CULPRITS) * options.faults:
                if not progress.may_go_on():
                    break
                nights.run(culprit)
                progress.step()
            nights.finish()

    run_in_lanes(options.databases, work, progress.stop)
    progress.end()
    return chapter


def run_stock(options: Options, progress: Progress) -> Chapter:
    """The stock worker on its own functions, for comparison."""
    title = "the stock rq worker on RQ's own jobs, four queues, its tree killed at the same steps"
    chapter = Chapter("stock", title)
    rounds = options.faults * len(stock.POINTS)
    progress.begin(chapter, rounds)
    with tempfile.TemporaryDirectory(prefix="twintrack-soak-") as folder, RedisServer() as server:
        peer = stock.StockRounds(Path(folder), server, chapter, options.dice("stock"))
        for number in range(rounds):
            if not progress.may_go_on():
                break
            peer.run(number + 1, stock.POINTS[number % len(stock.POINTS)])
            progress.step()
    progress.end()
    return chapter


CHAPTERS: dict[str, Callable[[Options, Progress], Chapter]] = {
    "kills": run_kills,
    "tree": run_tree,
    "host": run_host,
    "frozen": run_frozen,
    "redis": run_redis,
    "hostile": run_hostile,
    "stock": run_stock,
}
