"""A worker's turn: the end of one batch and the claim of the next, both or neither."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from app.tasks.database import CommitUnknown, Database
from app.tasks.model import Claim, Completed, Failed, Priority, Released, RetryLater, Status
from app.tasks.store import Store
from app.tasks.store.takes import TakeQueued, TakeTickets
from app.tasks.store.turns import Turned
from tests.contract.parts import MakeStore, at_once, counted
from tests.contract.rows import Rows


def turn(store: Store, outcomes: Any, take: TakeTickets | TakeQueued | None) -> Turned:
    return store.turns.turn(outcomes, take, holder="the worker", lease_seconds=30)


def batch(store: Store, rows: Rows, count: int = 3) -> list[Claim]:
    rows.put("QUEUED", count=count)
    return turn(store, [], TakeQueued(count)).claims.won


def ids(claims: list[Claim]) -> list[int]:
    return [claim.task_id for claim in claims]


def test_a_turn_ends_one_batch_and_claims_the_next(store: Store, rows: Rows) -> None:
    first = batch(store, rows)
    waiting = rows.put("QUEUED", count=2)
    turned = turn(store, [Completed(claim, f'"{claim.task_id}"') for claim in first], TakeQueued(9))
    assert turned.settled.recorded == dict.fromkeys(ids(first), Status.COMPLETED)
    assert ids(turned.claims.won) == [waiting, waiting + 1]
    after = rows.all()
    for claim in first:
        row = after[claim.task_id]
        assert (row["status"], row["result"]) == ("COMPLETED", f'"{claim.task_id}"')
        assert (row["token"], row["lease_until"], row["progress_percent"]) == (None, None, 100)
    assert rows.count("PROCESSING") == 2


def test_a_turn_with_tickets_is_one_trip(store: Store, rows: Rows) -> None:
    first = batch(store, rows, count=50)
    waiting = rows.put("DISPATCHED", count=50)
    with counted(store.database) as seen:
        take = TakeTickets([(waiting + number, 3) for number in range(50)])
        turned = turn(store, [Completed(claim, "null") for claim in first], take)
    assert (len(turned.settled.recorded), len(turned.claims.won)) == (50, 50)
    assert seen == {"trips": 1}


def test_a_turn_over_rows_costs_one_transaction(store: Store, rows: Rows) -> None:
    first = batch(store, rows, count=50)
    rows.put("QUEUED", count=50)
    with counted(store.database) as seen:
        turned = turn(store, [Completed(claim, "null") for claim in first], TakeQueued(50))
    assert (len(turned.settled.recorded), len(turned.claims.won)) == (50, 50)
    assert seen["commits"] + seen["trips"] == 1
    assert seen["statements"] < 8


def test_tickets_are_won_in_their_own_order(store: Store, rows: Rows) -> None:
    low = rows.put("DISPATCHED", priority="low")
    urgent = rows.put("DISPATCHED", priority="urgent")
    middle = rows.put("DISPATCHED")
    references = [(urgent, 3), (middle, 3), (low, 3)]
    turned = turn(store, [], TakeTickets(references))
    assert ids(turned.claims.won) == [urgent, middle, low]


def test_every_kind_of_end_goes_in_one_turn(store: Store, rows: Rows) -> None:
    one, two, three, four = batch(store, rows, count=4)
    outcomes = [Completed(one, "1"), Failed(two, "no"), RetryLater(three, "no", 60), Released(four)]
    turned = turn(store, outcomes, None)
    expected = [Status.COMPLETED, Status.FAILED, Status.SCHEDULED, Status.DISPATCHED]
    assert [turned.settled.recorded[claim.task_id] for claim in (one, two, three, four)] == expected
    assert [move.task_id for move in turned.settled.moves] == [four.task_id]
    assert turned.claims.won == []


@pytest.mark.parametrize("odd", ["lost", "cancelled"])
def test_an_odd_row_in_a_batch_spoils_neither_the_others_nor_the_next_claim(
    odd: str, store: Store, rows: Rows
) -> None:
    claims = batch(store, rows, count=4)
    if odd == "lost":
        rows.change(claims[1].task_id, token=5)
    else:
        store.moves.cancel(claims[1].task_id)
    waiting = rows.put("QUEUED")
    outcomes = [
        Completed(claims[0], "0"),
        Completed(claims[1], "1"),
        Completed(claims[2], "2"),
        Released(claims[3]),
    ]
    turned = turn(store, outcomes, TakeQueued(1))
    assert rows.status(claims[0].task_id) == rows.status(claims[2].task_id) == "COMPLETED"
    assert rows.status(claims[3].task_id) == "DISPATCHED"
    assert rows.row(claims[1].task_id)["result"] == (None if odd == "lost" else "1")
    assert turned.settled.lost == ([claims[1].task_id] if odd == "lost" else [])
    assert rows.status(claims[1].task_id) == ("PROCESSING" if odd == "lost" else "CANCELLED")
    assert ids(turned.claims.won) == [waiting]


def test_turns_of_four_workers_at_once_run_every_task_once(rows: Rows, make_store: MakeStore) -> None:
    rows.put("QUEUED", count=120)

    def work(store: Store) -> list[int]:
        done: list[int] = []
        claims = turn(store, [], TakeQueued(7)).claims.won
        while claims:
            done += ids(claims)
            claims = turn(store, [Completed(claim, "1") for claim in claims], TakeQueued(7)).claims.won
        return done

    stores = [make_store(rows) for _ in range(4)]
    answers = at_once([lambda s=s: work(s) for s in stores])  # type: ignore[misc]
    done = [task_id for answer in answers if isinstance(answer, list) for task_id in answer]
    done += work(make_store(rows))  # one may have stopped while others held all that was left
    assert sorted(done) == sorted(rows.all())
    assert rows.count("COMPLETED") == 120
    assert rows.scalar("SELECT COUNT(*) FROM tasks WHERE attempt = 1") == 120


# --- lost answers ------------------------------------------------------------------------------------


class LosesAnswers(Database):
    """Loses the answer to one COMMIT, after it has happened or instead of it."""

    lose: str | None = None

    def run(self, work: Callable[[Any], Any]) -> Any:
        return self._lossy(super().run, work)

    def direct(self, work: Callable[[Any], Any]) -> Any:
        return self._lossy(super().direct, work)

    def _lossy(self, run: Callable[[Any], Any], work: Callable[[Any], Any]) -> Any:
        how, self.lose = self.lose, None
        if how == "before":
            raise CommitUnknown("the connection broke before the commit arrived")
        answer = run(work)
        if how == "after":
            raise CommitUnknown("the answer was lost")
        return answer


@pytest.fixture
def forgetful(rows: Rows) -> Iterator[LosesAnswers]:
    database = LosesAnswers(rows.url)
    yield database
    database.dispose()


@pytest.mark.parametrize("how", ["before", "after"])
@pytest.mark.parametrize("track", ["tickets", "polling"])
def test_a_turn_whose_answer_is_lost_is_read_back(
    how: str, track: str, forgetful: LosesAnswers, rows: Rows
) -> None:
    store = Store.over(forgetful)
    store.routing.ensure(redis_percent=100)
    claims = batch(store, rows)
    waiting = rows.put("DISPATCHED" if track == "tickets" else "QUEUED", count=2)
    take = TakeTickets([(waiting, 3), (waiting + 1, 3)]) if track == "tickets" else TakeQueued(2)
    forgetful.lose = how
    turned = turn(store, [Completed(claim, "1") for claim in claims], take)
    assert turned.settled.recorded == dict.fromkeys(ids(claims), Status.COMPLETED)
    assert turned.settled.lost == []
    assert rows.count("COMPLETED") == 3
    won = turned.claims.won
    # rows that nobody has claimed are met again; tickets are in no queue any more, and asked for again
    assert ids(won) == [waiting, waiting + 1] or (how == "before" and track == "polling" and won == [])
    assert rows.count("PROCESSING") == len(won)
    for claim in won:
        row = rows.row(claim.task_id)
        assert (claim.token, claim.attempt, claim.epoch) == (row["token"], row["attempt"], row["epoch"])


def test_one_by_one_the_order_of_the_queues_is_the_callers(store: Store, rows: Rows) -> None:
    low = rows.put("QUEUED", priority="low", count=3)
    urgent = rows.put("QUEUED", priority="urgent", count=3)
    store.routing.change(redis_percent=0)
    take = TakeQueued(5, [Priority.LOW, Priority.URGENT], one_by_one=True)
    won = turn(store, [], take).claims.won
    assert [claim.task_id for claim in won] == [low, low + 1, low + 2, urgent, urgent + 1]
    assert len({claim.token for claim in won}) == 1
