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
from tests.soak import deaths, hostile, kills, moves, operating, redis_faults, rollbacks, stock
from tests.soak.installation import Installation
from tests.soak.lanes import DATABASES, SERVERS, Lane, run_in_lanes
from tests.soak.points import ALL_NAMES, NAMES, Scope
from tests.soak.progress import Progress
from tests.soak.results import Chapter

MORE_TRIES = 6
KILLS, MOVES, ROLLBACKS = 1000, 500, 100
_PARTS = {"mariadb": 3}  # of the rounds of moves; every other database has one


@dataclass(frozen=True, slots=True)
class Options:
    """What to run. Rounds are shared out to the databases; faults are run so often on each."""

    rounds: int | None = None  # None: as many as each chapter has by itself
    faults: int = 10
    seed: int = 1
    databases: Sequence[str] = DATABASES
    points: Sequence[str] = ALL_NAMES
    redis_faults: Sequence[str] = redis_faults.NAMES

    def dice(self, *what: object) -> random.Random:
        """Chance that a seed repeats, for one lane of one chapter."""
        return random.Random(f"{self.seed} {what}")


def run_kills(options: Options, progress: Progress) -> Chapter:
    """SIGKILL at every named step."""
    chapter = Chapter("kills", "SIGKILL at every named step, from pop to end, four queues, mixed load")
    share = max(1, math.ceil((options.rounds or KILLS) / len(options.databases)))
    points = [point for point in options.points if point in NAMES]
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
            _hit_the_rest(killing, chapter, points, progress)
            killing.finish()

    run_in_lanes(options.databases, work, progress.stop)
    for point in points:
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


def run_transfer(options: Options, progress: Progress) -> Chapter:
    """SIGKILL at every named step while a backlog moves."""
    title = "SIGKILL while a backlog moves, of all who take part, at every named step; resumed or turned back"
    chapter = Chapter("transfer", title)
    wanted = [case for case in moves.cases() if case.point in options.points]
    if not any(kind in SERVERS for kind in options.databases):
        wanted = [case for case in wanted if case.actor is not moves.Actor.DATABASE]
    options.dice("cases").shuffle(wanted)
    shares = _shares(options.rounds or MOVES, options.databases)
    progress.begin(chapter, sum(shares.values()))

    def work(lane: Lane) -> None:
        possible = [case for case in wanted if lane.server or case.actor is not moves.Actor.DATABASE]
        dice = options.dice("transfer", lane.kind)
        first = options.databases.index(lane.kind) * len(possible) // len(options.databases)
        with lane.installation(**operating.SETTINGS) as place:
            moving = moves.Moves(lane, place, chapter, dice)
            kills.warm_up(place, dice)
            for case, answer in moves.plan(dice, shares[lane.kind], possible, first=first):
                if not progress.may_go_on():
                    break
                moving.run(case, answer)
                progress.step()
            for _ in range(MORE_TRIES):
                for case in possible:
                    tally = chapter.tally(case.name)
                    if tally.rounds and not tally.hits and progress.may_go_on():
                        moving.run(case, moves.Answer.RESUME, deepest=1)
            moving.finish()

    run_in_lanes(options.databases, work, progress.stop)
    missed = [case.name for case in wanted if not chapter.tally(case.name).hits]
    chapter.problems += [f"{name} was never hit: nothing is known about it" for name in missed]
    progress.end()
    return chapter


def run_rollbacks(options: Options, progress: Progress, *, must_hit: bool = True) -> Chapter:
    """Rollbacks at random moments. Of a few, none may find a move under way."""
    title = "a rollback at a random moment of a move; what never started is as before, and pollers claim it"
    chapter = Chapter("rollbacks", title)
    shares = _shares(options.rounds or ROLLBACKS, options.databases)
    progress.begin(chapter, sum(shares.values()))

    def work(lane: Lane) -> None:
        dice = options.dice("rollbacks", lane.kind)
        with lane.installation(**operating.SETTINGS) as place:
            rolling = rollbacks.Rollbacks(place, chapter, dice)
            for name in rollbacks.plan(shares[lane.kind]):
                if not progress.may_go_on():
                    break
                rolling.run(name)
                progress.step()
            rolling.finish()

    run_in_lanes(options.databases, work, progress.stop)
    idle = [name for name, tally in chapter.tallies.items() if must_hit and not tally.hits]
    chapter.problems += [f"{name}: no rollback found a move under way" for name in idle]
    progress.end()
    return chapter


def _shares(rounds: int, databases: Sequence[str]) -> dict[str, int]:
    """Most of the rounds are MariaDB's."""
    parts = {kind: _PARTS.get(kind, 1) for kind in databases}
    return {kind: max(1, math.ceil(rounds * part / sum(parts.values()))) for kind, part in parts.items()}


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
    "transfer": run_transfer,
    "rollbacks": run_rollbacks,
    "tree": run_tree,
    "host": run_host,
    "frozen": run_frozen,
    "redis": run_redis,
    "hostile": run_hostile,
    "stock": run_stock,
}
