"""Every verb against every status: allowed edges do what the model says, all others change nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import insert, select

from app.tasks.errors import WrongState
from app.tasks.model import (
    TRANSITIONS,
    Cancelled,
    Claim,
    Completed,
    Edge,
    Failed,
    NewTask,
    OnLost,
    Outcome,
    Priority,
    Released,
    RetryLater,
    Status,
    Ticket,
    Track,
    Waits,
)
from app.tasks.schema import children, parents, tasks, user_waits
from app.tasks.store import Store
from app.tasks.store.submitting import Placement, Refusal
from tests.contract.rows import ENDED, TOKEN, WAITING, Rows

EDGES: dict[str, Edge] = {edge.verb: edge for edge in TRANSITIONS}
LEASE = 30.0
DELAY = 60.0


@dataclass(frozen=True)
class Case:
    """One verb: what it does to which status, and how it says that it did nothing."""

    edge: str | None
    moves: Mapping[str, str]
    act: Callable[[Store, Mapping[str, Any]], Any]
    says_no: Callable[[Any], bool]
    given: Mapping[str, Any] = field(default_factory=dict)
    redis_percent: int = 100


def claim_of(row: Mapping[str, Any]) -> Claim:
    """The claim that an old worker believes to hold: right only for a PROCESSING row."""
    return Claim(
        row["id"], row["name"], "{}", Priority.NORMAL, TOKEN, row["epoch"], 1, row["failures"], Track.REDIS
    )


OF_A_USER = {"user_id": "ann", "run_at": None}


def claim_too_many(store: Store, row: Mapping[str, Any]) -> list[int]:
    """The user has one task running and may have no other. Returns who was set aside."""
    limited = Store.over(store.database, user_concurrency=1)
    first = NewTask(77, "test.noop", "{}", Priority.URGENT, user_id="ann")
    version = store.routing.refresh()[Priority.URGENT].version
    store.submissions.insert(first, Placement(Status.QUEUED, version))
    terms: dict[str, Any] = {"holder": "new", "lease_seconds": LEASE}
    limited.claims.queued(limit=1, priorities=[Priority.URGENT], **terms)
    limited.claims.queued(limit=9, priorities=[Priority.NORMAL], **terms)
    limited.claims.tickets([(row["id"], row["epoch"])], **terms)
    store.database.run(lambda on: on.execute(tasks.delete().where(tasks.c.id == first.task_id)))
    query = select(user_waits.c.task_id).where(user_waits.c.task_id == row["id"])
    return list(store.database.read(lambda on: on.execute(query).scalars().all()))


def let_in(store: Store, row: Mapping[str, Any]) -> Any:
    wait = {"task_id": row["id"], "user_id": "ann", "priority": Priority.NORMAL}
    store.database.run(lambda on: on.execute(insert(user_waits), wait))
    return Store.over(store.database, user_concurrency=1).users.make_up()


def let_parent_in(store: Store, row: Mapping[str, Any]) -> Any:
    """As of a parent that waits and has no open child."""
    wait = {"task_id": row["id"], "waits": True, "created_at": datetime.now(UTC)}
    store.database.run(lambda on: on.execute(insert(parents), wait))
    return store.families.wake()


def admit(store: Store, row: Mapping[str, Any]) -> Any:
    """As of a child whose tag has a place for it."""
    child = {"task_id": row["id"], "parent_id": 1, "phase": "a", "name": "b", "tag": "t", "admitted": False}
    store.database.run(lambda on: on.execute(insert(children), child))
    moves = store.families.admit()
    store.database.run(lambda on: on.execute(children.delete()))
    return moves


def settle(make: Callable[[Claim], Outcome]) -> Callable[[Store, Mapping[str, Any]], Any]:
    return lambda store, row: store.settlements.settle([make(claim_of(row))])


def reclaim(on_lost: OnLost, max_retries: int) -> Callable[[Store, Mapping[str, Any]], Any]:
    return lambda store, row: store.moves.reclaim(
        row["id"], TOKEN, on_lost=on_lost, max_retries=max_retries, reason="the lease expired"
    )


def caught(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except WrongState as error:
        return error


def refuses(answer: Any) -> bool:
    return isinstance(answer, WrongState)


def lost(answer: Any) -> bool:
    return len(answer.lost) == 1 and not answer.recorded and not answer.moves


def empty(answer: Any) -> bool:
    return not answer


ALL_WAITING = {"SCHEDULED", *WAITING}
ASKED = {"cancel_requested": True}
ACTIVE_KEY = {"active_key": "somebody#1"}
DUE = {"run_at": "past"}
NO_TIME = {"run_at": None}

CASES = {
    "claim": Case(
        "claim",
        {"QUEUED": "PROCESSING"},
        lambda store, row: store.claims.queued(holder="new", limit=9, lease_seconds=LEASE),
        empty,
    ),
    "claim by ticket": Case(
        "claim ticket",
        {"DISPATCHED": "PROCESSING"},
        lambda store, row: store.claims.tickets(
            [(row["id"], row["epoch"])], holder="new", lease_seconds=LEASE
        ),
        lambda answer: not answer.won and not answer.refused and len(answer.stale) == 1,
    ),
    "complete": Case(
        "settle", {"PROCESSING": "COMPLETED"}, settle(lambda c: Completed(c, "1")), lost, ACTIVE_KEY
    ),
    "fail": Case("settle", {"PROCESSING": "FAILED"}, settle(lambda c: Failed(c, "no")), lost, ACTIVE_KEY),
    "stop": Case("settle", {"PROCESSING": "CANCELLED"}, settle(Cancelled), lost, ACTIVE_KEY),
    "complete a task that is to be cancelled": Case(
        "settle", {"PROCESSING": "CANCELLED"}, settle(lambda c: Completed(c, "1")), lost, ASKED
    ),
    "retry later": Case(
        "retry later",
        {"PROCESSING": "SCHEDULED"},
        settle(lambda c: RetryLater(c, "no", DELAY)),
        lost,
        ACTIVE_KEY,
    ),
    "retry at once by Redis": Case(
        "retry later", {"PROCESSING": "DISPATCHED"}, settle(lambda c: RetryLater(c, "no", 0)), lost
    ),
    "retry at once by the database": Case(
        "retry later",
        {"PROCESSING": "QUEUED"},
        settle(lambda c: RetryLater(c, "no", 0)),
        lost,
        redis_percent=0,
    ),
    "retry of a task that is to be cancelled": Case(
        "heed a cancel",
        {"PROCESSING": "CANCELLED"},
        settle(lambda c: RetryLater(c, "no", DELAY)),
        lost,
        ASKED,
    ),
    "wait for children": Case(
        "wait for children", {"PROCESSING": "SCHEDULED"}, settle(Waits), lost, ACTIVE_KEY
    ),
    "wait of a task that is to be cancelled": Case(
        "heed a cancel", {"PROCESSING": "CANCELLED"}, settle(Waits), lost, ASKED
    ),
    "let in a parent by Redis": Case("let in", {"SCHEDULED": "DISPATCHED"}, let_parent_in, empty, NO_TIME),
    "let in a parent by the database": Case(
        "let in", {"SCHEDULED": "QUEUED"}, let_parent_in, empty, NO_TIME, 0
    ),
    "admit a child": Case("let in", {"SCHEDULED": "DISPATCHED"}, admit, empty, NO_TIME),
    "release to Redis": Case("release", {"PROCESSING": "DISPATCHED"}, settle(Released), lost),
    "release to the database": Case(
        "release", {"PROCESSING": "QUEUED"}, settle(Released), lost, redis_percent=0
    ),
    "release of a task that is to be cancelled": Case(
        "heed a cancel", {"PROCESSING": "CANCELLED"}, settle(Released), lost, ASKED
    ),
    "reclaim to Redis": Case(
        "reclaim", {"PROCESSING": "DISPATCHED"}, reclaim(OnLost.RETRY, 3), empty, ACTIVE_KEY
    ),
    "reclaim to the database": Case(
        "reclaim", {"PROCESSING": "QUEUED"}, reclaim(OnLost.RETRY, 3), empty, redis_percent=0
    ),
    "reclaim without a retry left": Case(
        "give up", {"PROCESSING": "FAILED"}, reclaim(OnLost.RETRY, 0), empty, ACTIVE_KEY
    ),
    "reclaim of what must not repeat": Case(
        "give up", {"PROCESSING": "FAILED"}, reclaim(OnLost.PARK, 3), empty
    ),
    "reclaim of a task that is to be cancelled": Case(
        "heed a cancel", {"PROCESSING": "CANCELLED"}, reclaim(OnLost.RETRY, 3), empty, ASKED
    ),
    "due by Redis": Case(
        "due", {"SCHEDULED": "DISPATCHED"}, lambda store, row: store.moves.due(limit=9), empty, DUE
    ),
    "due by the database": Case(
        "due", {"SCHEDULED": "QUEUED"}, lambda store, row: store.moves.due(limit=9), empty, DUE, 0
    ),
    "lift a hold": Case(
        "due",
        {"SCHEDULED": "DISPATCHED"},
        lambda store, row: store.moves.lift_holds([Priority.NORMAL], limit=9),
        empty,
        {"held": True, "run_at": None},
    ),
    "a claim over the user's limit": Case(
        "set aside", {"QUEUED": "SCHEDULED", "DISPATCHED": "SCHEDULED"}, claim_too_many, empty, OF_A_USER
    ),
    "let in by Redis": Case("let in", {"SCHEDULED": "DISPATCHED"}, let_in, empty, OF_A_USER),
    "let in by the database": Case("let in", {"SCHEDULED": "QUEUED"}, let_in, empty, OF_A_USER, 0),
    "dispatch": Case(
        "dispatch",
        {"QUEUED": "DISPATCHED"},
        lambda store, row: store.moves.to_right_track(Priority.NORMAL, limit=9),
        empty,
    ),
    "recall": Case(
        "recall",
        {"DISPATCHED": "QUEUED"},
        lambda store, row: store.moves.to_right_track(Priority.NORMAL, limit=9),
        empty,
        redis_percent=0,
    ),
    "cancel": Case(
        "cancel",
        dict.fromkeys(ALL_WAITING, "CANCELLED"),
        lambda store, row: caught(lambda: store.moves.cancel(row["id"])),
        lambda answer: refuses(answer) or answer.status is Status.PROCESSING,
        ACTIVE_KEY,
    ),
    "clear a queue": Case(
        "cancel",
        dict.fromkeys(ALL_WAITING, "CANCELLED"),
        lambda store, row: store.moves.cancel_waiting(Priority.NORMAL, limit=9),
        empty,
    ),
    "operator's retry by Redis": Case(
        "operator's retry",
        dict.fromkeys(("FAILED", "CANCELLED", "QUARANTINED"), "DISPATCHED"),
        lambda store, row: caught(lambda: store.moves.retry(row["id"], active_key=None)),
        refuses,
        ASKED,
    ),
    "operator's retry by the database": Case(
        "operator's retry",
        dict.fromkeys(("FAILED", "CANCELLED", "QUARANTINED"), "QUEUED"),
        lambda store, row: caught(lambda: store.moves.retry(row["id"], active_key=None)),
        refuses,
        ASKED,
        redis_percent=0,
    ),
    "reprioritise by Redis": Case(
        "reprioritise",
        {"SCHEDULED": "SCHEDULED", "QUEUED": "DISPATCHED", "DISPATCHED": "DISPATCHED"},
        lambda store, row: caught(lambda: store.moves.reprioritise(row["id"], Priority.HIGH)),
        refuses,
    ),
    "reprioritise by the database": Case(
        "reprioritise",
        {"SCHEDULED": "SCHEDULED", "QUEUED": "QUEUED", "DISPATCHED": "QUEUED"},
        lambda store, row: caught(lambda: store.moves.reprioritise(row["id"], Priority.HIGH)),
        refuses,
        redis_percent=0,
    ),
    "submit under an id that exists": Case(
        None,
        {},
        lambda store, row: store.submissions.insert(
            NewTask(row["id"], "test.noop", '"other"', Priority.HIGH), Placement(Status.QUEUED, 2)
        ),
        lambda answer: answer is Refusal.ID_EXISTS,
    ),
    "renew with an old token": Case(
        None,
        {},
        lambda store, row: store.claims.renew([_forged(row)], lease_seconds=900),
        lambda answer: answer == set(),
    ),
    "report progress with an old token": Case(
        None,
        {},
        lambda store, row: store.claims.progress(_forged(row), 50, "half"),
        lambda answer: answer is False,
    ),
    "confirm another epoch": Case(
        None,
        {},
        lambda store, row: store.dispatched.confirm([_old_ticket(row)], incarnation=5),
        lambda answer: answer == 0,
    ),
    "unconfirm another epoch": Case(
        None,
        {},
        lambda store, row: store.dispatched.unconfirm([(row["id"], row["epoch"] - 1)]),
        lambda answer: answer == 0,
    ),
}


def _forged(row: Mapping[str, Any]) -> Claim:
    return Claim(row["id"], row["name"], "{}", Priority.NORMAL, TOKEN + 1, row["epoch"], 1, 0, Track.REDIS)


def _old_ticket(row: Mapping[str, Any]) -> Ticket:
    return Ticket(row["id"], row["epoch"] - 1, Priority.NORMAL, row["name"])


@pytest.mark.parametrize("name", CASES)
def test_a_verb_moves_its_own_statuses_and_leaves_all_others(name: str, store: Store, rows: Rows) -> None:
    case = CASES[name]
    store.routing.change(redis_percent=case.redis_percent)
    for status in Status:
        given: dict[str, Any] = {
            key: rows.at(-5) if value == "past" else value for key, value in case.given.items()
        }
        if status.value in ENDED:
            given.pop("active_key", None)
        elif "active_key" in given:
            given["active_key"] = f"{status}#1"
        task_id = rows.put(status, **given)
        before = rows.all()

        answer = case.act(store, before[task_id])

        after = rows.all()
        assert set(after) == set(before)
        bystanders = set(after) - {task_id}
        assert {i: after[i] for i in bystanders} == {i: before[i] for i in bystanders}, f"{name}: {status}"
        if status.value in case.moves:
            assert case.edge is not None
            _has_moved(rows, EDGES[case.edge], before[task_id], after[task_id], case.moves[status.value])
        else:
            assert case.says_no(answer), f"{name} of a {status} task answered {answer!r}"
            _has_stayed(name, before[task_id], after[task_id])


def _has_stayed(name: str, before: dict[str, Any], after: dict[str, Any]) -> None:
    if name == "cancel" and before["status"] == "PROCESSING":
        assert after == before | {"cancel_requested": True}
        return
    assert after == before, f"{name} of a {before['status']} task"


def _has_moved(rows: Rows, edge: Edge, before: dict[str, Any], after: dict[str, Any], target: str) -> None:
    what = f"{edge.verb} of a {before['status']} task"
    assert before["status"] in edge.sources, what
    assert target in edge.targets, what
    assert after["status"] == target, what
    assert after["epoch"] == before["epoch"] + edge.new_epoch, what
    assert after["confirmed_in"] == 0, what
    if target == "PROCESSING":
        assert after["token"] not in (None, TOKEN), what
        assert after["holder"] == "new", what
        assert after["attempt"] == before["attempt"] + 1, what
        assert rows.seconds_from_now(after["lease_until"]) == pytest.approx(LEASE, abs=5), what
        return
    assert after["token"] is None, what
    assert after["lease_until"] is None, what
    assert after["attempt"] == before["attempt"], what
    if target in ENDED:
        assert after["active_key"] is None, what
        assert rows.seconds_from_now(after["ended_at"]) == pytest.approx(0, abs=5), what
        return
    assert after["holder"] is None, what
    assert not after["cancel_requested"], what
    assert after["active_key"] == before["active_key"], what
    if target in WAITING:
        assert rows.seconds_from_now(after["waiting_since"]) == pytest.approx(0, abs=5), what
        assert after["run_at"] is None, what
        assert not after["held"], what


def test_every_edge_of_the_model_has_a_verb_that_was_tried() -> None:
    tried = {(case.edge, source) for case in CASES.values() for source in case.moves}
    reached = {(case.edge, target) for case in CASES.values() for target in case.moves.values()}
    by_submission_or_transfer = {"submit", "quarantine"}
    for edge in TRANSITIONS:
        if edge.verb in by_submission_or_transfer:
            continue
        assert {(edge.verb, source.value) for source in edge.sources if source} <= tried
        wanted = {target.value for target in edge.targets}
        if edge.verb == "operator's retry":
            wanted.discard("SCHEDULED")  # during a hold of intake: see test_moves
        assert {(edge.verb, target) for target in wanted} <= reached
