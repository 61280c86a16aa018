"""SIGKILL while a backlog moves: of whoever takes part, at each of its named steps, and of both servers.

A round gives an installation a backlog on one track and a stream of new tasks, has a mover carry it to the
other track while workers of both kinds run, and kills. Then the transfer is resumed, or turned back, until
it is closed, and the round ends when every task has ended.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from app.tasks.model import PRIORITIES
from app.tasks.runner import boot_clock
from app.tasks.submission import TaskRequest
from tests.soak.installation import Installation, Stream, end_process
from tests.soak.kills import OFTEN
from tests.soak.lanes import Lane
from tests.soak.operating import DEADLINE_SECONDS, DIRECTIONS, Operator
from tests.soak.points import MOVER_STEPS, NAMES, RECALL_STEPS, Hit, Scope
from tests.soak.results import Chapter
from tests.waiting import happens

BACKLOG = 80
STREAM_SECONDS = 0.02
AWAY_SECONDS = 1.5
MANY = 3  # the latest pass of a step that a mover comes by once per batch
ONCE = ("begin", "flip", "finish")


class Actor(StrEnum):
    """Who dies. A server dies when the mover is at the step."""

    MOVER = "mover"
    SWEEPER = "sweeper"
    SUBMITTER = "submitter"
    WORKER = "Redis worker"
    POLLER = "poller"
    REDIS = "Redis"
    DATABASE = "database server"

    @property
    def is_server(self) -> bool:
        return self in (Actor.REDIS, Actor.DATABASE)

    @property
    def role(self) -> str:
        """Whose pass of a step counts."""
        named = {Actor.WORKER: "worker", Actor.REDIS: "mover", Actor.DATABASE: "mover"}
        return named.get(self, self.value)


class Answer(StrEnum):
    """What an operator does then."""

    RESUME = "resumed"
    TURN_BACK = "turned back"


_STEPS_OF = {
    Actor.SWEEPER: ("heal", "look"),
    Actor.SUBMITTER: ("submit",),
    Actor.WORKER: ("fetch", "claim", "run", "settle", "end", "push"),
    Actor.POLLER: ("claim", "run", "settle", "push"),
}


@dataclass(frozen=True, slots=True)
class Case:
    """Somebody dies at a step. `direction`: of the transfer; empty where either will do."""

    point: str
    actor: Actor
    direction: str = ""

    @property
    def name(self) -> str:
        return f"{self.point}: {self.actor}" + (f", {self.direction}" if self.direction else "")


def cases() -> list[Case]:
    """Every step with everybody who comes by it, and both servers at every step of a mover."""
    found = [
        Case(point, actor)
        for actor, steps in _STEPS_OF.items()
        for point in (*NAMES, *MOVER_STEPS)
        if point.partition(".")[0] in steps
    ]
    for actor in (Actor.MOVER, Actor.REDIS, Actor.DATABASE):
        found += [Case(point, actor, "dispatch") for point in MOVER_STEPS]
        found += [Case(point, actor, "recall") for point in RECALL_STEPS]
    return found


@dataclass(slots=True)
class Round:
    """One round: what is to die, and what came of it."""

    number: int
    case: Case
    direction: str
    answer: Answer
    nth: int
    scope: Scope
    before: int  # the newest transfer of earlier rounds
    tasks: list[int] = field(default_factory=list)
    hit: Hit | None = None

    @property
    def wanted(self) -> str:
        """The direction of the transfer that closes the round."""
        if self.answer is Answer.RESUME:
            return self.direction
        return DIRECTIONS[1 - DIRECTIONS.index(self.direction)]


class Moves:
    """Rounds on one installation, one after the other."""

    def __init__(self, lane: Lane, place: Installation, chapter: Chapter, dice: random.Random) -> None:
        self._lane = lane
        self._place = place
        self._chapter = chapter
        self._dice = dice
        self._pool = place.start_pool()
        self._operator = Operator(place)
        self._number = 0

    def run(self, case: Case, answer: Answer, *, deepest: int | None = None) -> None:
        """One round. The kill comes at a pass between the first and the `deepest`."""
        now = self._drawn(case, answer, deepest)
        where = (
            f"{self._place.oracle.kind}, round {now.number}, {case.name}, {now.direction}, pass {now.nth},"
            f" {now.scope}, {answer}"
        )
        tally = self._chapter.tally(case.name)
        tally.count(rounds=1)
        stream = self._load(now)
        self._begin(now)
        stream = self._await_hit(now, stream)
        self._close(now, where)
        closed = boot_clock()
        for each in stream:
            each.stop()
            now.tasks += self._place.note_accepted(each.accepted)
        now.tasks += self._place.adopt_strangers()
        left = self._place.wait_until_ended(now.tasks, deadline_seconds=DEADLINE_SECONDS)
        over = boot_clock()
        verdict = self._place.judge(now.tasks)
        tally.judge(verdict, tasks=len(now.tasks))
        tally.count(late=len(left))
        self._chapter.blame(where, verdict)
        self._chapter.notes += [f"{where}: not ended: {tuple(row)}" for row in left]
        if now.hit is not None:
            tally.count(hits=1)
            tally.took(answer.value, [closed - now.hit.at])
            tally.took("all ended", [over - now.hit.at])

    def finish(self) -> None:
        """Judge everything once more, and what lies about."""
        place = self._place
        left = place.leftovers(deadline_seconds=60)
        if left:
            self._chapter.problems.append(f"{place.oracle.kind}: left behind at the end: {left}")
        owned = place.oracle.select("SELECT priority FROM routing WHERE transfer_id IS NOT NULL")
        if owned:
            self._chapter.problems.append(
                f"{place.oracle.kind}: {len(owned)} priorities are never free again"
            )
        self._chapter.blame(f"{place.oracle.kind}, at the end", place.judge())
        end_process(self._pool)

    # --- a round's parts ----------------------------------------------------------------------------------

    def _drawn(self, case: Case, answer: Answer, deepest: int | None) -> Round:
        self._number += 1
        step = case.point.partition(".")[0]
        often = 1 if step in (*ONCE, "heal", "push") else OFTEN.get(case.point, MANY)
        scope = Scope.SERVER if case.actor.is_server else Scope.PROCESS
        if case.actor in (Actor.WORKER, Actor.POLLER, Actor.SWEEPER) and self._dice.random() < 1 / 4:
            scope = Scope.TREE
        direction = case.direction or ("dispatch" if step == "push" else self._dice.choice(DIRECTIONS))
        nth = self._dice.randint(1, deepest or often)
        return Round(self._number, case, direction, answer, nth, scope, self._operator.newest()[0])

    def _load(self, now: Round) -> list[Stream]:
        """A backlog on the track that the move comes from, and a stream of new tasks."""
        place, dice = self._place, self._dice
        self._operator.route_all(redis_percent=0 if now.direction == "dispatch" else 100)
        names = ("soak.fails_once",) if now.case.point.startswith("push") else ("soak.works", "soak.writes")
        slow = [
            TaskRequest(dice.choice(names), {"seconds": 0.02}, priority=dice.choice(PRIORITIES))
            for _ in range(BACKLOG)
        ]
        now.tasks = place.submit([*place.requests(dice, count=20), *slow])
        return [self._stream()]

    def _stream(self) -> Stream:
        requests = self._place.requests(self._dice, count=20)[:20]
        return self._place.stream(requests, every_seconds=STREAM_SECONDS)

    def _begin(self, now: Round) -> None:
        """Start the mover; who is to die beside it dies while its transfer is under way."""
        if now.case.actor.role == "mover":
            self._arm(now)
        self._operator.start(now.direction)
        if now.case.actor.role != "mover":
            self._operator.until_under_way(since=now.before)
            self._arm(now)

    def _arm(self, now: Round) -> None:
        server = 0
        if now.case.actor is Actor.REDIS:
            server = self._place.redis.pid
        elif now.case.actor is Actor.DATABASE and self._lane.server is not None:
            server = self._lane.server.pid
        role = now.case.actor.role
        self._place.points.arm(
            now.number, now.case.point, nth=now.nth, scope=now.scope, role=role, server=server
        )

    def _await_hit(self, now: Round, streams: list[Stream]) -> list[Stream]:
        """Until somebody died, or nobody will come by any more. The stream goes on."""
        place = self._place

        def over() -> bool:
            if not self._operator.mover_is_gone:
                return False
            # who killed the database has said so before: then nobody is asked
            return place.points.hit(now.number) is not None or not place.oracle.open_tasks(now.tasks)

        happens(lambda: place.points.hit(now.number) or over(), deadline_seconds=DEADLINE_SECONDS)
        now.hit = place.points.hit(now.number)
        place.points.disarm()
        if now.hit is None:
            return streams
        if now.scope is Scope.TREE:
            end_process(self._pool)
            self._pool = place.start_pool()
        if now.case.actor is Actor.DATABASE:
            self._start_database()
        return [*streams, self._stream()] if now.case.actor is Actor.SUBMITTER else streams

    def _close(self, now: Round, where: str) -> None:
        """Resume or turn back until the transfer is closed. A recall must succeed while Redis is dead."""
        dead = now.case.actor is Actor.REDIS and now.hit is not None
        if dead and now.wanted == "dispatch":
            happens(
                lambda: self._operator.mover_is_gone, deadline_seconds=self._dice.uniform(0, AWAY_SECONDS)
            )
            self._start_redis()
        back = now.answer is Answer.TURN_BACK
        if back:
            self._operator.start(now.wanted, take_over=True)
        if not self._operator.until_closed(now.wanted, since=now.before, take_over=back):
            newest, log = self._operator.newest(), self._place.tail()
            self._chapter.problems.append(f"{where}: not closed: {newest}; log:\n{log}")
        elif strays := self._operator.strays(now.wanted):
            self._chapter.problems.append(f"{where}: complete, and {strays} rows are left")
        if dead and now.wanted == "recall":
            self._start_redis()

    # --- servers ------------------------------------------------------------------------------------------

    def _start_redis(self) -> None:
        self._place.redis.kill9()
        self._place.redis.start()

    def _start_database(self) -> None:
        assert self._lane.server is not None
        self._lane.server.kill9()
        self._lane.server.start()


def plan(
    dice: random.Random, rounds: int, wanted: Sequence[Case], *, first: int = 0
) -> list[tuple[Case, Answer]]:
    """The cases in turn, from the `first` on; each second time round the other answer."""
    answers = list(Answer)
    flip = dice.randint(0, 1)
    found = []
    for number in range(first, first + rounds):
        turn, index = divmod(number, len(wanted))
        found.append((wanted[index], answers[(turn + index + flip) % 2]))
    return found
