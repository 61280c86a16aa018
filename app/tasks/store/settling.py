"""Settling: how a claim ends. Every statement is guarded by the token, so a lost claim records nothing.

However many tasks of a batch end in one way, one statement records it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Float, select, update
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
    Waits,
)
from app.tasks.routing import Routing
from app.tasks.schema import AnyRow, database_now, status_is, tasks
from app.tasks.store import events
from app.tasks.store.claims import write_progress
from app.tasks.store.driver_sql import DriverSql
from app.tasks.store.families import await_children
from app.tasks.store.notices import NEAR_SECONDS
from app.tasks.store.placing import FRESH, OVER, PLACED_COLUMNS, each_its_own, place
from app.tasks.store.routing import hold_routing

ERROR_LIMIT = 4000  # characters: enough for a sentence and its cause, never a dump

_Ended = tuple[AnyRow, Outcome]  # a row that is held, and what came out of its run


@dataclass(slots=True)
class Settled:
    """What a settle recorded: task ids with their new status, the lost ones, and rows to push tickets for."""

    recorded: dict[int, Status] = field(default_factory=dict)
    lost: list[int] = field(default_factory=list)
    moves: list[Moved] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class PutOff(RetryLater):
    """The claim cannot start now, through no fault of the task: it costs no failure."""


class OddRows(Exception):
    """The row of some completion is lost, or its cancel was asked for."""


class Completions:
    """How a completion is written: for the text of several statements."""

    def __init__(self, sql: DriverSql) -> None:
        self._sql = sql
        self.guard = f"{sql.status_is(Status.PROCESSING)} AND {sql.not_cancelled}"
        """The row is as its claim left it; beside its id and token."""
        self._over = (
            "token = NULL, lease_until = NULL, confirmed_in = 0, run_at = NULL,"
            f" held = {sql.false}, active_key = NULL, ended_at = {sql.now}, error = NULL,"
            " progress_percent = 100"
        )

    def values(self, result: str) -> str:
        """What a completion sets, with this text for the result."""
        return f"status = 'COMPLETED', result = {result}, {self._over}"

    def of(self, token: int, group: Sequence[Completed]) -> tuple[str, tuple[Any, ...]]:
        """One statement for completions of one token, and its parameters."""
        mark = self._sql.mark
        ids = [outcome.claim.task_id for outcome in group]
        results = [outcome.result for outcome in group]
        if len(set(results)) == 1:
            value, values = mark, list[Any](results[:1])
        else:
            value = "CASE id" + f" WHEN {mark} THEN {mark}" * len(group) + " END"
            values = [part for pair in zip(ids, results, strict=True) for part in pair]
        sql = (
            f"UPDATE tasks SET {self.values(value)} WHERE id IN ({self._sql.marks(len(ids))})"  # noqa: S608
            f" AND token = {mark} AND {self.guard}"
        )
        return sql, (*values, *ids, token)

    def by_token(self, completed: Iterable[Completed]) -> list[tuple[int, list[Completed]]]:
        """Groups of one token each, in the order of their ids."""
        groups: dict[int, list[Completed]] = defaultdict(list)
        for outcome in sorted(completed, key=lambda outcome: outcome.claim.task_id):
            groups[outcome.claim.token].append(outcome)
        return list(groups.items())


class Settlements:
    def __init__(
        self,
        database: Database,
        *,
        let_next_in: Callable[[Connection, Iterable[Outcome]], list[Moved]] | None = None,
        write_back: Callable[[Connection, Sequence[Outcome], Mapping[int, Status]], None] | None = None,
    ) -> None:
        """`let_next_in` may bring other rows on their way, in the transaction in which these claims end;
        `write_back` may tell whoever the tasks came from."""
        self._database = database
        self._let_next_in = let_next_in
        self._write_back = write_back
        self._completions = Completions(DriverSql(database))

    def settle(self, outcomes: Sequence[Outcome], connection: Connection | None = None) -> Settled:
        """Record the outcomes in one transaction, or in the caller's if a connection is given.

        A cancel that was asked for meanwhile ends the task as CANCELLED, whatever the outcome says.
        """
        if connection is not None:
            return self.settle_on(connection, outcomes, look_first=True)
        try:
            return self._database.run(lambda on: self.settle_on(on, outcomes))
        except OddRows:
            return self._database.run(lambda on: self.settle_on(on, outcomes, look_first=True))

    def settle_on(self, on: Connection, outcomes: Sequence[Outcome], *, look_first: bool = False) -> Settled:
        """Record the outcomes in a transaction of the caller's; completions unseen, by their guard alone.

        Raises `OddRows` if the row of a completion is not as its claim left it: roll back, and settle again
        with `look_first`, which finds out what has become of it. Rows are taken in the order of their ids.
        """
        settled, rest = Settled(), outcomes
        if said := [(o.claim, o.progress) for o in outcomes if not isinstance(o, Released) and o.progress]:
            write_progress(on, said)
        if not look_first:
            self._complete(on, [o for o in outcomes if isinstance(o, Completed)], settled)
            rest = [o for o in outcomes if not isinstance(o, Completed)]
        if rest:
            _settle_seen(on, rest, settled)
        if self._write_back is not None:
            self._write_back(on, outcomes, settled.recorded)
        if self._let_next_in is not None and outcomes:
            settled.moves += self._let_next_in(on, outcomes)
        return settled

    def _complete(self, on: Connection, completed: Sequence[Completed], settled: Settled) -> None:
        """COMPLETED for all of them in one statement per token."""
        for token, group in self._completions.by_token(completed):
            sql, parameters = self._completions.of(token, group)
            if on.exec_driver_sql(sql, parameters).rowcount != len(group):
                raise OddRows
            settled.recorded.update((outcome.claim.task_id, Status.COMPLETED) for outcome in group)

    def ended_by(self, claim: Claim) -> Status | None:
        """The status, if this claim's attempt has ended it: the read-back after a lost answer to COMMIT."""
        return self.ended_among([claim]).get(claim.task_id)

    def ended_among(self, claims: Sequence[Claim]) -> dict[int, Status]:
        """As `ended_by`, for those of the claims that have ended: task id -> status."""
        attempts = {claim.task_id: claim.attempt for claim in claims}
        query = select(tasks.c.id, tasks.c.status, tasks.c.attempt).where(
            tasks.c.id.in_(attempts),
            tasks.c.token.is_(None),
            tasks.c.status.in_(ENDED),  # a reclaim clears the token too, and ends nothing
        )
        rows = self._database.read(lambda on: on.execute(query).all()) if attempts else []
        return {row.id: row.status for row in rows if row.attempt == attempts[row.id]}


def _settle_seen(on: Connection, outcomes: Sequence[Outcome], settled: Settled) -> None:
    """Lock the rows of these claims, and record what becomes of each, all of one kind at once."""
    by_claim = {(outcome.claim.task_id, outcome.claim.token): outcome for outcome in outcomes}
    groups: dict[tuple[type[Outcome], Status | None], list[_Ended]] = defaultdict(list)
    for row in _held_rows(on, outcomes):
        outcome = by_claim.pop((row.id, row.token), None)
        if outcome is not None:
            groups[type(outcome), _end_of(outcome, row)].append((row, outcome))
    settled.lost += [task_id for task_id, _ in by_claim]
    rules = _rules_for(on, [row for (_, end), group in groups.items() if end is None for row, _ in group])
    happened: list[events.Happened] = []
    for (_, end), group in groups.items():
        if end is None:
            moves = place(on, [row for row, _ in group], rules, **_values(group))
            settled.moves += moves
            settled.recorded.update((move.task_id, move.status) for move in moves)
        else:
            _bring(on, end, group, settled)
        happened += _happened(end, group)
    events.record_all(on, happened)


def _held_rows(on: Connection, outcomes: Sequence[Outcome]) -> list[AnyRow]:
    """Locked in the order of their ids, and given in order of service: so their tickets are pushed."""
    query = (
        select(*PLACED_COLUMNS, tasks.c.token, tasks.c.cancel_requested)
        .where(
            tasks.c.id.in_([outcome.claim.task_id for outcome in outcomes]),
            tasks.c.token.in_({outcome.claim.token for outcome in outcomes}),
            status_is(Status.PROCESSING),
        )
        .order_by(tasks.c.id)
        .with_for_update()
    )
    return sorted(on.execute(query), key=lambda row: (row.priority.rank, row.id))


def _end_of(outcome: Outcome, row: AnyRow) -> Status | None:
    """The status that follows; None: it waits again, where the routing says."""
    if row.cancel_requested:
        return Status.CANCELLED
    match outcome:
        case Completed():
            return Status.COMPLETED
        case Failed():
            return Status.FAILED
        case Cancelled():
            return Status.CANCELLED
        case RetryLater(delay_seconds=delay) if delay > 0:
            return Status.SCHEDULED
        case Waits():
            return Status.SCHEDULED
    return None


def _rules_for(on: Connection, rows: Sequence[AnyRow]) -> Routing:
    return hold_routing(on, {row.priority for row in rows})[0] if rows else {}


def _bring(on: Connection, end: Status, group: Sequence[_Ended], settled: Settled) -> None:
    """Rows of one kind of outcome come to one status that is not the routing's to say."""
    values, ids = _values(group), [row.id for row, _ in group]
    if end is Status.COMPLETED:
        values |= {"progress_percent": 100}
    if end is Status.SCHEDULED and isinstance(group[0][1], Waits):
        values |= FRESH
        await_children(on, ids)
        settled.moves += [Moved(task_id, end) for task_id in ids]  # they may all have ended meanwhile
    elif end is Status.SCHEDULED:
        delays = {row.id: outcome.delay_seconds for row, outcome in group if isinstance(outcome, RetryLater)}
        values |= FRESH | {"run_at": database_now(each_its_own(delays, Float()))}
        near = [task_id for task_id, delay in delays.items() if delay < NEAR_SECONDS]
        settled.moves += [Moved(task_id, end) for task_id in near]
    else:
        values |= OVER
    on.execute(update(tasks).where(tasks.c.id.in_(ids)).values(values | {"status": end}))
    settled.recorded.update(dict.fromkeys(ids, end))


def _values(group: Sequence[_Ended]) -> dict[str, Any]:
    """What a kind of outcome leaves in its rows, each with its own words."""
    texts = {row.id: _texts(outcome) for row, outcome in group}
    _, kind = group[0]
    values: dict[str, Any] = {
        name: each_its_own({task_id: text[name] for task_id, text in texts.items()}, tasks.c[name].type)
        for name in _texts(kind)
    }
    if isinstance(kind, Failed | RetryLater) and not isinstance(kind, PutOff):
        values["failures"] = tasks.c.failures + 1
    return values


def _texts(outcome: Outcome) -> Mapping[str, str | None]:
    match outcome:
        case Completed(result=result):
            return {"result": result, "error": None}
        case Failed(error=error) | RetryLater(error=error) | Cancelled(error=error):
            return {"error": error[:ERROR_LIMIT]}
    return {}


def _happened(end: Status | None, group: Sequence[_Ended]) -> Iterable[events.Happened]:
    """What is unusual: a dead letter, a cancel, a retry."""
    for row, outcome in group:
        error = _texts(outcome).get("error")
        if end in (Status.FAILED, Status.CANCELLED):
            yield row.id, end.value.lower(), {"error": error}
        elif isinstance(outcome, RetryLater):
            kind = "put off" if isinstance(outcome, PutOff) else "retry"
            yield row.id, kind, {"error": error, "delay_seconds": outcome.delay_seconds}
