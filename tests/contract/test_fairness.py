"""Fairness, where the settings ask for it: a limit of running tasks per user, and an age bonus."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from app.tasks.healing import Healed, Sweeper
from app.tasks.model import (
    PRIORITIES,
    Claim,
    Completed,
    Failed,
    Moved,
    Priority,
    Released,
    RetryLater,
    Ticket,
)
from app.tasks.queue import TaskQueue
from app.tasks.settings import CoreSettings
from app.tasks.store import Store
from app.tasks.store.takes import TakeQueued, TakeTickets
from app.tasks.tickets import RQQueueManager
from tests.contract.parts import HANDLERS, at_once, counted, statements_of
from tests.contract.rows import Rows

LIMIT = 2
WORKER = "here:1"


@pytest.fixture
def limited(rows: Rows, store: Store) -> Store:
    """The same database, for processes whose setting limits users."""
    return Store.over(rows.database, user_concurrency=LIMIT)


def queued(store: Store, limit: int = 100) -> list[Claim]:
    return store.claims.queued(holder=WORKER, limit=limit, lease_seconds=30)


def running(rows: Rows, user: str = "ann") -> int:
    query = "SELECT COUNT(*) FROM tasks WHERE status = 'PROCESSING' AND user_id = :user"
    return int(rows.scalar(query, user=user))


def aside(rows: Rows) -> list[int]:
    return [row.task_id for row in rows.execute("SELECT task_id FROM user_waits ORDER BY task_id")]


def sweeper_of(store: Store, tickets: RQQueueManager | None = None, **settings: Any) -> Sweeper:
    return Sweeper(TaskQueue(store, HANDLERS, tickets, CoreSettings(**settings)), holder="s")


def step(sweeper: Sweeper) -> Healed:
    healed = sweeper.step()
    assert healed is not None
    return healed


# --- the limit, claim by claim -----------------------------------------------------------------------


@pytest.mark.parametrize("track", ["queued", "tickets"])
def test_a_user_gets_as_many_tasks_as_the_limit_allows_and_others_get_theirs(
    track: str, limited: Store, rows: Rows
) -> None:
    status = "QUEUED" if track == "queued" else "DISPATCHED"
    ann = rows.put(status, count=5, user_id="ann")
    bob = rows.put(status, user_id="bob")
    nobody = rows.put(status, count=3, user_id=None)
    ids = sorted(rows.all())
    if track == "queued":
        won = queued(limited)
    else:
        answer = limited.claims.tickets([(i, 3) for i in ids], holder=WORKER, lease_seconds=30)
        won = answer.won
        assert answer.stale == [(ann + n, 3) for n in range(2, 5)]  # their tickets are worth nothing now
    assert [claim.task_id for claim in won] == [ann, ann + 1, bob, nobody, nobody + 1, nobody + 2]
    assert aside(rows) == [ann + 2, ann + 3, ann + 4]
    row = rows.row(ann + 2)
    assert (row["status"], row["epoch"], row["attempt"]) == ("SCHEDULED", 4, 0)
    assert (row["run_at"], bool(row["held"]), row["token"]) == (None, False, None)


def test_what_is_set_aside_is_not_claimed_again_until_somebody_ends(limited: Store, rows: Rows) -> None:
    rows.put("QUEUED", count=5, user_id="ann")
    queued(limited)
    for _ in range(3):
        assert queued(limited) == []
    assert limited.moves.due(limit=10) == []
    assert limited.moves.lift_holds(list(PRIORITIES), limit=10) == []


ENDS = [
    lambda claim: Completed(claim, "1"),
    lambda claim: Failed(claim, "no"),
    lambda claim: RetryLater(claim, "no", 60),
]


@pytest.mark.parametrize("end", ENDS, ids=["completed", "failed", "retry later"])
def test_the_end_of_a_task_lets_the_users_next_one_in_and_ahead_of_the_queue(
    end: Any, limited: Store, rows: Rows
) -> None:
    first = rows.put("DISPATCHED", count=4, user_id="ann", priority="low")
    urgent = rows.put("DISPATCHED", user_id="ann", priority="urgent")
    pairs = [(task_id, 3) for task_id in (first, first + 1, first + 2, first + 3, urgent)]
    one, _ = limited.claims.tickets(pairs, holder=WORKER, lease_seconds=30).won
    settled = limited.settlements.settle([end(one)])
    (move,) = settled.moves
    assert (move.task_id, move.front) == (urgent, True)
    assert move.ticket == Ticket(urgent, 5, Priority.URGENT, "test.noop")
    assert aside(rows) == [first + 2, first + 3]


def test_on_the_database_track_a_turn_ends_one_and_claims_the_users_next(limited: Store, rows: Rows) -> None:
    limited.routing.change(redis_percent=0)
    first = rows.put("QUEUED", count=6, user_id="ann")
    claims = queued(limited)
    served = []
    while claims:
        served += [claim.task_id for claim in claims]
        turned = limited.turns.turn(
            [Completed(claim, "1") for claim in claims], TakeQueued(50), holder=WORKER, lease_seconds=30
        )
        claims = turned.claims.won
        assert running(rows) <= LIMIT
    assert served == list(range(first, first + 6))


def test_a_released_claim_makes_room(limited: Store, rows: Rows) -> None:
    first = rows.put("QUEUED", count=3, user_id="ann")
    one, _ = queued(limited)
    settled = limited.settlements.settle([Released(one)])
    assert {move.task_id for move in settled.moves} == {first, first + 2}


@pytest.mark.parametrize("verb", ["cancel", "reprioritise"])
def test_what_is_set_aside_can_be_cancelled_and_given_another_priority(
    verb: str, limited: Store, rows: Rows
) -> None:
    limited.routing.change(redis_percent=0)
    first = rows.put("QUEUED", count=4, user_id="ann")
    one, other = queued(limited)
    if verb == "cancel":
        limited.moves.cancel(first + 2)
    else:
        limited.moves.reprioritise(first + 2, Priority.LOW)
    limited.settlements.settle([Completed(one, "1"), Completed(other, "1")])
    expected = "CANCELLED" if verb == "cancel" else "QUEUED"
    assert [rows.status(first + 2), rows.status(first + 3)] == [expected, "QUEUED"]
    assert aside(rows) == []


# --- exactly, under concurrency -------------------------------------------------------------------------


class Crowd:
    """Six workers on both tracks, and a book of who runs what that shares no table with them."""

    def __init__(self, rows: Rows, tasks: int) -> None:
        self.rows, self.tasks = rows, tasks
        self.lock = threading.Lock()
        dispatched = rows.execute("SELECT id, epoch FROM tasks WHERE status = 'DISPATCHED'")
        self.tickets = [(row.id, row.epoch) for row in dispatched]
        self.now: Counter[str] = Counter()
        self.most = 0
        self.ended: Counter[int] = Counter()

    def work(self, number: int) -> None:
        store = Store.over(self.rows.database, user_concurrency=LIMIT)
        claims: list[Claim] = []
        for _ in range(300):
            self.leave(claims)
            outcomes = [Completed(claim, "1") for claim in claims]
            turned = store.turns.turn(outcomes, self.take(number), holder=f"w{number}", lease_seconds=30)
            claims = turned.claims.won
            self.enter(claims)
            self.push(turned.settled.moves)
            if number == 0:
                self.push(store.users.make_up())
            if len(self.ended) == self.tasks:
                return

    def take(self, number: int) -> TakeTickets | TakeQueued:
        with self.lock:
            pairs, self.tickets = self.tickets[:3], self.tickets[3:]
        if number % 2 and pairs:
            return TakeTickets(pairs)
        with self.lock:
            self.tickets = pairs + self.tickets
        return TakeQueued(4)

    def push(self, moves: list[Moved]) -> None:
        with self.lock:
            self.tickets += [(m.ticket.task_id, m.ticket.epoch) for m in moves if m.ticket is not None]

    def enter(self, claims: list[Claim]) -> None:
        with self.lock:
            self.now.update(str(claim.user_id) for claim in claims)
            self.most = max(self.most, *self.now.values(), 0)

    def leave(self, claims: list[Claim]) -> None:
        """In the book before in the rows: so a place that the rows give away is free in the book, too."""
        with self.lock:
            self.now.subtract(str(claim.user_id) for claim in claims)
            self.ended.update(claim.task_id for claim in claims)


def test_six_workers_on_both_tracks_never_run_more_of_a_user_than_the_limit(rows: Rows, store: Store) -> None:
    for user in ("ann", "bob", "eve"):
        rows.put("QUEUED", count=8, user_id=user)
        rows.put("DISPATCHED", count=8, user_id=user)
    crowd = Crowd(rows, 48)
    answers = at_once([lambda n=n: crowd.work(n) for n in range(6)])  # type: ignore[misc]
    assert [answer for answer in answers if answer is not None] == []
    assert crowd.ended == dict.fromkeys(rows.all(), 1)
    assert crowd.most <= LIMIT
    assert rows.count("COMPLETED") + rows.count("PROCESSING") == 48
    assert aside(rows) == []


# --- the sweeper --------------------------------------------------------------------------------------


def test_the_sweeper_lets_in_what_nobody_has_let_in(limited: Store, rows: Rows) -> None:
    limited.routing.change(redis_percent=0)
    first = rows.put("QUEUED", count=5, user_id="ann")
    queued(limited)
    rows.execute("UPDATE tasks SET status = 'FAILED', token = NULL WHERE id = :id", id=first)  # a reclaim
    sweeper = sweeper_of(limited, user_concurrency=LIMIT)
    assert step(sweeper).let_in == 1
    assert limited.users.some_wait  # two are left: the sweeper must not go to sleep
    assert rows.status(first + 2) == "QUEUED"
    assert [claim.task_id for claim in queued(limited)] == [first + 2]
    assert step(sweeper).let_in == 0


def test_a_limit_that_was_taken_back_leaves_nobody_behind(limited: Store, store: Store, rows: Rows) -> None:
    store.routing.change(redis_percent=0)
    rows.put("QUEUED", count=9, user_id="ann")
    queued(limited)
    assert step(sweeper_of(store)).let_in == 7
    assert len(queued(store)) == 7


def asked_by(step: Callable[[], Healed | None], rows: Rows) -> Counter[str]:
    """The statements of a sweeper's second step, but for those that come when it is time: the renewal of its
    lock, and the notice for what waits, of which a process sends one in 10 ms at most."""
    step()
    with statements_of(rows.database) as texts:
        step()
    by_time = ("UPDATE locks", "SELECT pg_notify")
    return Counter(text for text in texts if not text.startswith(by_time))


def test_without_a_limit_a_claim_and_a_settle_take_the_same_statements_as_ever(
    store: Store, limited: Store, rows: Rows
) -> None:
    def statements(of: Store, user: str | None) -> int:
        rows.put("QUEUED", count=3, user_id=user)
        with counted(rows.database) as seen:
            claims = queued(of)
            of.settlements.settle([Completed(claim, "1") for claim in claims])
        return seen["statements"]

    plain = statements(store, "ann")
    assert plain == statements(store, None)
    assert statements(limited, None) == plain  # and nothing for tasks without a user
    assert statements(limited, "ann") > plain

    limit = asked_by(sweeper_of(limited, user_concurrency=LIMIT).step, rows)
    assert (limit - asked_by(sweeper_of(store).step, rows)).total() == 1


# --- the age bonus ----------------------------------------------------------------------------------------


def test_what_has_waited_long_moves_up_one_priority_and_begins_anew(
    store: Store, rows: Rows, tickets: RQQueueManager, raw: Any
) -> None:
    store.routing.change([Priority.HIGH], redis_percent=0)
    old = rows.put("DISPATCHED", priority="low", waiting_since=rows.at(-700))
    seen = rows.put("DISPATCHED", priority="low", waiting_since=rows.at(-700), confirmed_in=7)
    young = rows.put("DISPATCHED", priority="low", waiting_since=rows.at(-500))
    polled = rows.put("QUEUED", priority="high", waiting_since=rows.at(-700))
    top = rows.put("DISPATCHED", priority="urgent", waiting_since=rows.at(-9000))
    tickets.push([Ticket(i, 3, Priority.LOW, "test.noop") for i in (old, seen, young)])
    sweeper = sweeper_of(store, tickets, age_bonus_seconds=600, ticket_grace_seconds=10_000)
    healed = sweeper.full_pass()
    assert healed is not None
    assert healed.moved_up == 3
    ranks = {task_id: row["priority"] for task_id, row in rows.all().items()}
    assert ranks == {old: 2, seen: 2, young: 3, polled: 0, top: 0}
    assert raw.lrange("rq:queue:low", 0, -1) == [f"t{young}-e3"]
    assert raw.lrange("rq:queue:normal", 0, -1) == [f"t{old}-e4", f"t{seen}-e4"]
    assert rows.events(old) == ["moved up"]
    again = sweeper.full_pass()
    assert again is not None
    assert again.moved_up == 0


def test_without_a_bonus_nothing_moves_up_and_nothing_is_asked(store: Store, rows: Rows) -> None:
    rows.put("QUEUED", priority="low", waiting_since=rows.at(-(10**6)))
    store.routing.change(redis_percent=0)
    plain = asked_by(sweeper_of(store).full_pass, rows)
    assert rows.count("QUEUED") == 1
    bonus = asked_by(sweeper_of(store, age_bonus_seconds=10**8).full_pass, rows)
    assert (bonus - plain).total() == 3
    assert not plain - bonus


def test_a_paused_queue_keeps_its_tasks(store: Store, rows: Rows) -> None:
    rows.put("QUEUED", priority="low", waiting_since=rows.at(-700))
    store.routing.change(paused=True, redis_percent=0)
    healed = sweeper_of(store, age_bonus_seconds=600).full_pass()
    assert healed is not None
    assert healed.moved_up == 0
