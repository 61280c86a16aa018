"""Random histories of a small world: kills, losses, flips, cancels and rescues, and the promises after each.

The judge keeps its own book of who was given what; of the tables it reads only through plain SQL.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from app.tasks.errors import TaskError
from app.tasks.healing import Sweeper
from app.tasks.model import (
    PRIORITIES,
    Cancelled,
    Claim,
    Completed,
    Failed,
    Outcome,
    Released,
    RetryLater,
)
from app.tasks.queue import TaskQueue
from app.tasks.settings import CoreSettings
from app.tasks.store import Store
from app.tasks.tickets import RQQueueManager
from app.tasks.tickets.manager import Ended
from tests.contract.parts import HANDLERS, request
from tests.contract.rows import ENDED, WAITING, Rows

STEPS, TASKS = 90, 6
SETTINGS = CoreSettings(ticket_grace_seconds=0, lease_seconds=30, max_retries=3)


class World:
    def __init__(self, seed: int, store: Store, rows: Rows, tickets: RQQueueManager) -> None:
        self.random = random.Random(seed)
        self.store, self.rows, self.tickets = store, rows, tickets
        tickets.window = self.random.choice([1, 2, 100_000])
        self.queue = TaskQueue(store, HANDLERS, tickets, SETTINGS)
        self.now = 0.0
        self.sweeper = Sweeper(self.queue, holder="s", clock=lambda: self.now)
        self.held: list[Claim] = []  # by workers that live, frozen ones too
        self.started: set[tuple[int, int]] = set()
        self.starts: Counter[int] = Counter()
        self.ends: Counter[tuple[int, int]] = Counter()
        self.tokens: set[tuple[int, int]] = set()

    # --- what can happen ------------------------------------------------------------------------------

    def submit(self) -> None:
        if self.rows.count() < TASKS:
            self.queue.submit(request(priority=self.random.choice(PRIORITIES)))

    def take_tickets(self) -> None:
        taken = self.tickets.take("w", PRIORITIES, self.random.choice([1, 3]))
        if self.random.random() < 0.2:
            self.tickets.leave("w")  # killed between the pop and the claim
            return
        pairs = [ticket.reference for ticket in taken if ticket.reference]
        before = self.rows.all()
        answer = self.store.claims.tickets(pairs, holder="w", lease_seconds=30)
        self.store.dispatched.unconfirm(answer.refused)
        self._given(answer.won, before, "DISPATCHED")
        self.tickets.finish("w", [Ended(one.job_id, one.priority, None) for one in taken])

    def poll(self) -> None:
        before = self.rows.all()
        claims = self.store.claims.queued(holder="p", limit=2, lease_seconds=30)
        self._given(claims, before, "QUEUED")

    def start(self) -> None:
        for claim in self.held:
            mine = (claim.task_id, claim.token)
            if mine not in self.started and self.rows.row(claim.task_id)["token"] == claim.token:
                self.started.add(mine)
                self.starts[claim.task_id] += 1
                return

    def end(self) -> None:
        if self.held:
            claim = self.held.pop(self.random.randrange(len(self.held)))
            self._settle(claim)
            if self.random.random() < 0.2:
                self._settle(claim)  # the answer was lost, and it tries again

    def die(self) -> None:
        if self.held:
            claim = self.held[self.random.randrange(len(self.held))]
            past = self.rows.at(-1)
            self.rows.execute(
                "UPDATE tasks SET lease_until = :past WHERE id = :id AND token = :token",
                past=past,
                id=claim.task_id,
                token=claim.token,
            )
            if self.random.random() < 0.5:
                self.held.remove(claim)  # killed; otherwise frozen, and it will wake up

    def sweep(self) -> None:
        for _ in range(self.random.choice([1, 3])):
            self.now += 6
            self.sweeper.full_pass()

    def lose_a_ticket(self) -> None:
        self.tickets.client.lpop(self.tickets.queue_key(self.random.choice(PRIORITIES)))

    def lose_redis(self) -> None:
        self.tickets.client.flushall()

    def lose_an_overflow(self) -> None:
        self.tickets.close_overflow(self.random.choice(PRIORITIES))

    def flip(self) -> None:
        self.queue.route(redis_percent=self.random.choice([0, 50, 100]))

    def shut_or_open(self) -> None:
        self.store.routing.change([self.random.choice(PRIORITIES)], paused=self.random.random() < 0.3)

    def ask_for_something(self) -> None:
        ids = sorted(self.rows.all())
        if not ids:
            return
        task_id = self.random.choice(ids)
        verbs: list[Any] = [
            self.queue.cancel,
            self.queue.retry,
            lambda i: self.queue.reprioritise(i, self.random.choice(PRIORITIES)),
        ]
        try:
            self.random.choice(verbs)(task_id)
        except TaskError:
            return  # the status does not allow it

    # --- the book ---------------------------------------------------------------------------------------

    def _given(self, claims: list[Claim], before: dict[int, dict[str, Any]], status: str) -> None:
        for claim in claims:
            row = before[claim.task_id]
            assert row["status"] == status, "P1, P5: only a row that waits on this track can be claimed"
            assert claim.attempt == row["attempt"] + 1
            mine = (claim.task_id, claim.token)
            assert mine not in self.tokens
            self.tokens.add(mine)
        self.held += claims

    def _settle(self, claim: Claim) -> None:
        mine = (claim.task_id, claim.token)
        before = self.rows.row(claim.task_id)
        outcome = self._outcome(claim, started=mine in self.started)
        settled = self.store.settlements.settle([outcome])
        recorded = claim.task_id in settled.recorded
        assert recorded == (before["token"] == claim.token), "P2: the token alone decides"
        self.ends[mine] += recorded
        assert self.ends[mine] <= 1, "P2: an end is recorded once"
        if not recorded:
            assert self.rows.row(claim.task_id) == before
        self.queue.push_moved(settled.moves)

    def _outcome(self, claim: Claim, *, started: bool) -> Outcome:
        if not started:
            return Released(claim)
        makers: list[Any] = [
            lambda: Completed(claim, '"done"'),
            lambda: Failed(claim, "no"),
            lambda: RetryLater(claim, "no", 0),
            lambda: Cancelled(claim),
        ]
        return self.random.choice([makers[0], *makers])()  # type: ignore[no-any-return]

    def check(self) -> None:
        history: dict[int, Counter[str]] = {}
        for event in self.rows.execute("SELECT task_id, kind FROM task_events"):
            history.setdefault(event.task_id, Counter())[event.kind] += 1
        for task_id, row in self.rows.all().items():
            claimed = row["status"] == "PROCESSING"
            assert (row["token"] is not None) == claimed
            assert (row["lease_until"] is not None) == claimed
            if row["status"] in (*WAITING, "SCHEDULED"):
                assert row["ended_at"] is None
            again = history.get(task_id, Counter())
            allowed = 1 + again["retry"] + again["reclaim"] + again["operator's retry"]
            assert self.starts[task_id] <= allowed, "P3: a second start follows a recorded reason"

    # --- a quiet end ------------------------------------------------------------------------------------

    def until_all_have_ended(self) -> None:
        """P4: with nothing but living workers and a sweeper, every accepted task comes to an end."""
        self.store.routing.change(paused=False)
        for _ in range(40):
            if not self.rows.scalar("SELECT COUNT(*) FROM tasks WHERE ended_at IS NULL"):
                return
            self.sweep()
            pairs = [one.reference for one in self.tickets.take("w", PRIORITIES, 50) if one.reference]
            claims = self.store.claims.tickets(pairs, holder="w", lease_seconds=30).won
            claims += self.store.claims.queued(holder="p", limit=50, lease_seconds=30)
            self.store.settlements.settle([Completed(claim, "1") for claim in claims])
            self.rows.execute(
                "UPDATE tasks SET lease_until = :past WHERE token IS NOT NULL", past=self.rows.at(-1)
            )
        raise AssertionError(f"P4: stuck: {self.rows.all()}")


@pytest.mark.parametrize("seed", range(6))
def test_no_history_breaks_a_promise(
    seed: int, sqlite_store: Store, sqlite_rows: Rows, tickets: RQQueueManager
) -> None:
    world = World(seed, sqlite_store, sqlite_rows, tickets)
    usual = [world.submit, world.take_tickets, world.poll, world.start, world.end, world.sweep]
    troubles = [
        world.die,
        world.lose_a_ticket,
        world.lose_redis,
        world.lose_an_overflow,
        world.flip,
        world.shut_or_open,
        world.ask_for_something,
    ]
    for _ in range(STEPS):
        world.random.choice(usual * 2 + troubles)()
        world.check()
    world.until_all_have_ended()
    world.check()
    assert {row["status"] for row in sqlite_rows.all().values()} <= set(ENDED)
