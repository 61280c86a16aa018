"""Settling: how a claim ends. Every statement is guarded by the token, so a lost claim records nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import case, false, select, update
from sqlalchemy.engine import Connection

from app.tasks.database import Database
from app.tasks.model import (
    ENDED,
    Cancelled,
    Claim,
    Completed,
    Failed,
    Moved,
    Outcome,
    Released,
    RetryLater,
    Status,
)
from app.tasks.schema import database_now, status_is, tasks
from app.tasks.store import events
from app.tasks.store.notices import NEAR_SECONDS
from app.tasks.store.placing import FRESH, OVER, PLACED_COLUMNS, place
from app.tasks.store.routing import hold_routing

ERROR_LIMIT = 4000  # characters: enough for a sentence and its cause, never a dump


@dataclass(slots=True)
class Settled:
    """What a settle recorded: task ids with their new status, the lost ones, and rows to push tickets for."""

    recorded: dict[int, Status] = field(default_factory=dict)
    lost: list[int] = field(default_factory=list)
    moves: list[Moved] = field(default_factory=list)


class OddRows(Exception):
    """Some row of a bulk settle is lost, or its cancel was asked for."""


class Settlements:
    def __init__(
        self,
        database: Database,
        *,
        let_next_in: Callable[[Connection, Iterable[Outcome]], list[Moved]] | None = None,
    ) -> None:
        """`let_next_in` may bring other rows on their way, in the transaction in which these claims end."""
        self._database = database
        self._let_next_in = let_next_in
        self._mark = "?" if database.kind == "sqlite" else "%s"
        now = database_now().compile(dialect=database.engine.dialect)
        processing = status_is(Status.PROCESSING)
        self._processing = processing.compile(
            dialect=database.engine.dialect, compile_kwargs={"literal_binds": True}
        )
        self._over = (
            "token = NULL, lease_until = NULL, confirmed_in = 0, run_at = NULL,"
            f" held = {false().compile(dialect=database.engine.dialect)}, active_key = NULL, ended_at = {now}"
        )

    def settle(self, outcomes: Sequence[Outcome], connection: Connection | None = None) -> Settled:
        """Record the outcomes in one transaction, or in the caller's if a connection is given.

        A cancel that was asked for meanwhile ends the task as CANCELLED, whatever the outcome says.
        """
        if connection is not None:
            return self.settle_on(connection, outcomes, one_by_one=True)
        try:
            return self._database.run(lambda on: self.settle_on(on, outcomes))
        except OddRows:
            return self._database.run(lambda on: self.settle_on(on, outcomes, one_by_one=True))

    def settle_on(self, on: Connection, outcomes: Sequence[Outcome], *, one_by_one: bool = False) -> Settled:
        """Record the outcomes in a transaction of the caller's: completions and releases in bulk.

        Raises `OddRows` if some row of a bulk is not as its claim left it: roll back, and settle again with
        `one_by_one`, which finds out row by row. Rows are taken in the order of their ids.
        """
        settled, ended = Settled(), outcomes
        if not one_by_one:
            self._complete(on, [o for o in outcomes if isinstance(o, Completed)], settled)
            _release(on, [o.claim for o in outcomes if isinstance(o, Released)], settled)
            outcomes = [o for o in outcomes if not isinstance(o, Completed | Released)]
        for outcome in sorted(outcomes, key=lambda outcome: outcome.claim.task_id):
            _settle_one(on, outcome, settled)
        if self._let_next_in is not None and ended:
            settled.moves += self._let_next_in(on, ended)
        return settled

    def _complete(self, on: Connection, completed: Sequence[Completed], settled: Settled) -> None:
        """COMPLETED for all of them in one statement per token."""
        by_token: dict[int, list[Completed]] = defaultdict(list)
        for outcome in completed:
            by_token[outcome.claim.token].append(outcome)
        for token, group in by_token.items():
            group.sort(key=lambda outcome: outcome.claim.task_id)
            sql, parameters = self._completion(token, group)
            if on.exec_driver_sql(sql, parameters).rowcount != len(group):
                raise OddRows
            settled.recorded.update((outcome.claim.task_id, Status.COMPLETED) for outcome in group)

    def _completion(self, token: int, group: Sequence[Completed]) -> tuple[str, tuple[Any, ...]]:
        """Driver SQL: a batch's size differs each time, and SQLAlchemy would compile each anew."""
        mark = self._mark
        ids = [outcome.claim.task_id for outcome in group]
        results = [outcome.result for outcome in group]
        if len(set(results)) == 1:
            value, values = mark, list[Any](results[:1])
        else:
            value = "CASE id" + f" WHEN {mark} THEN {mark}" * len(group) + " END"
            values = [part for pair in zip(ids, results, strict=True) for part in pair]
        marks = ", ".join([mark] * len(group))
        sql = (
            f"UPDATE tasks SET status = 'COMPLETED', result = {value}, {self._over},"  # noqa: S608 - marks only
            f" error = NULL, progress_percent = 100 WHERE id IN ({marks}) AND token = {mark}"
            f" AND {self._processing} AND NOT cancel_requested"
        )
        return sql, (*values, *ids, token)

    def ended_by(self, claim: Claim) -> Status | None:
        """The status, if this claim's attempt has ended it: the read-back after a lost answer to COMMIT."""
        query = select(tasks.c.status).where(
            tasks.c.id == claim.task_id,
            tasks.c.attempt == claim.attempt,
            tasks.c.token.is_(None),
            tasks.c.status.in_(ENDED),  # a reclaim clears the token too, and ends nothing
        )
        return self._database.read(lambda on: on.execute(query).scalar_one_or_none())


def _release(on: Connection, claims: Sequence[Claim], settled: Settled) -> None:
    """Unstarted claims go back, all together."""
    if not claims:
        return
    rows = on.execute(
        select(*PLACED_COLUMNS, tasks.c.cancel_requested)
        .where(
            tasks.c.id.in_([claim.task_id for claim in claims]),
            tasks.c.token.in_({claim.token for claim in claims}),
            status_is(Status.PROCESSING),
        )
        .order_by(tasks.c.priority, tasks.c.id)
        .with_for_update()
    ).all()
    if len(rows) != len(claims) or any(row.cancel_requested for row in rows):
        raise OddRows
    rules, _ = hold_routing(on, {row.priority for row in rows})
    moves = place(on, rows, rules)
    settled.moves.extend(moves)
    settled.recorded.update((move.task_id, move.status) for move in moves)


def _settle_one(on: Connection, outcome: Outcome, settled: Settled) -> None:
    row = _held_row(on, outcome.claim)
    task_id = outcome.claim.task_id
    if row is None:
        settled.lost.append(task_id)
        return
    match outcome:
        case Completed(result=result):
            status = _end(on, row, Status.COMPLETED, result=result, error=None)
        case Failed(error=error):
            status = _end(on, row, Status.FAILED, error=error, failures=tasks.c.failures + 1)
        case Cancelled(error=error):
            status = _end(on, row, Status.CANCELLED, error=error)
        case _:
            status = _go_back(on, row, outcome, settled)
    settled.recorded[task_id] = status


def _held_row(on: Connection, claim: Claim) -> Any:
    return on.execute(
        select(*PLACED_COLUMNS, tasks.c.cancel_requested)
        .where(
            tasks.c.id == claim.task_id,
            tasks.c.token == claim.token,
            tasks.c.status == Status.PROCESSING,
        )
        .with_for_update()
    ).first()


def _end(on: Connection, row: Any, status: Status, **values: Any) -> Status:
    if row.cancel_requested:
        status = Status.CANCELLED
    if "error" in values and values["error"] is not None:
        values["error"] = values["error"][:ERROR_LIMIT]
    percent = case((tasks.c.progress_percent < 100, 100), else_=tasks.c.progress_percent)
    if status is Status.COMPLETED:
        values["progress_percent"] = percent
    on.execute(update(tasks).where(tasks.c.id == row.id).values(OVER | values | {"status": status}))
    if status is not Status.COMPLETED:
        events.record(on, status.value.lower(), [row.id], error=values.get("error"))
    return status


def _go_back(on: Connection, row: Any, outcome: RetryLater | Released, settled: Settled) -> Status:
    values: dict[str, Any] = {}
    if isinstance(outcome, RetryLater):
        values = {"error": outcome.error[:ERROR_LIMIT], "failures": tasks.c.failures + 1}
    if row.cancel_requested:
        return _end(on, row, Status.CANCELLED, **values)
    if isinstance(outcome, RetryLater):
        events.record(on, "retry", [row.id], error=values["error"], delay_seconds=outcome.delay_seconds)
        if outcome.delay_seconds > 0:
            later = {"status": Status.SCHEDULED, "run_at": database_now(outcome.delay_seconds)}
            on.execute(update(tasks).where(tasks.c.id == row.id).values(FRESH | values | later))
            if outcome.delay_seconds < NEAR_SECONDS:
                settled.moves.append(Moved(row.id, Status.SCHEDULED))
            return Status.SCHEDULED
    rules, _ = hold_routing(on, [row.priority])
    move = place(on, [row], rules, **values)[0]
    settled.moves.append(move)
    return move.status
