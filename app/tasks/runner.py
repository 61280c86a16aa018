"""From a claim to its recorded end: run the handler, judge what came out, settle.

Owns the one broad `except` of the product, around the handler. It takes no claims and pushes no tickets:
consumers do, and hand over one claim at a time.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import CoroutineType

import structlog
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError

from app.tasks.errors import DatabaseUnavailable, InvalidTask, StatementRefused, TaskError
from app.tasks.families import Families
from app.tasks.handlers import (
    Call,
    ChildrenOpen,
    DoNotRetry,
    Handler,
    HandlerRegistry,
    Isolation,
    TaskCancelled,
    TaskContext,
    TimeLimitExceeded,
    heed_cancels,
    to_json,
)
from app.tasks.live_task import LiveTask as LiveTask
from app.tasks.live_task import boot_clock as boot_clock
from app.tasks.model import (
    Cancelled,
    Claim,
    Completed,
    Failed,
    OnLost,
    Outcome,
    RetryLater,
    Status,
    Waits,
)
from app.tasks.sentences import ERROR_CHARACTERS, sentence, storable
from app.tasks.settings import CoreSettings
from app.tasks.store import Store
from app.tasks.store.settling import Settled

SETTLE_PAUSE_SECONDS = (0.1, 5.0)

log = structlog.get_logger(__name__)

TimeLimit = Callable[[float], AbstractContextManager[None]]


class Runner:
    """Runs claims one at a time in the calling thread, or side by side on an event loop."""

    def __init__(
        self,
        store: Store,
        handlers: HandlerRegistry,
        settings: CoreSettings,
        *,
        time_limit: TimeLimit = lambda seconds: nullcontext(),
        pause: Callable[[float], bool] | None = None,
        isolate: Callable[[LiveTask], Outcome] | None = None,
        families: Families | None = None,
    ) -> None:
        """`time_limit(seconds)` raises `TimeLimitExceeded` inside its block when the time is over.
        `pause(seconds)` waits between tries to settle and returns true to give up.
        `isolate` runs a task in a process of its own if its handler wants one; None: this is such a one.
        Without `families` a handler has no children."""
        self._store = store
        self._handlers = handlers
        self._settings = settings
        self._time_limit = time_limit
        self._pause = pause or _sleep
        self._isolate = isolate
        self._families = families

    def run(self, live: LiveTask) -> Settled | None:
        """Run one claim and record its end. None: the lease was over before the start, nothing ran."""
        if boot_clock() >= live.lease_ends:
            log.warning("task.not_started", task=live.claim.task_id, reason="the lease was over")
            return None
        return self.settle(live, self.execute(live))

    def limit_of(self, claim: Claim) -> int:
        """Seconds that this claim may run."""
        handler = self._handlers.find(claim.name)
        return self._settings.time_limit(handler, claim.priority, claim.timeout_seconds)

    def is_isolated(self, claim: Claim) -> bool:
        """True if the claim's handler wants a process of its own for each run."""
        handler = self._handlers.find(claim.name)
        return handler is not None and handler.isolation is Isolation.FORK

    def execute(self, live: LiveTask) -> Outcome:
        """Call the handler. Never raises what a handler raised: that becomes the outcome."""
        live.outcome = live.with_progress(self._execute(live))
        return live.outcome

    def _execute(self, live: LiveTask) -> Outcome:
        if live.isolated and self._isolate is not None:
            return self._isolate(live)
        call = self.prepare(live)
        if not isinstance(call, Call):
            return call
        try:
            with self._time_limit(call.limit_seconds):
                result = call()
                if isinstance(result, CoroutineType):
                    result = asyncio.run(heed_cancels(result, call.context))
        except ChildrenOpen:
            return Waits(live.claim)
        # the one broad except: a handler may raise anything
        except (Exception, SystemExit) as error:  # noqa: BLE001
            return self.failure(live, call, error)
        return self._completed(live.claim, result)

    async def execute_beside(self, live: LiveTask, *, given_up: Callable[[], Outcome | None]) -> Outcome:
        """As `execute`, on an event loop beside others: only for an `async def`. A caller that cancels for a
        reason of its own says by `given_up` what becomes of it."""
        return live.with_progress(await self._execute_beside(live, given_up))

    async def _execute_beside(self, live: LiveTask, given_up: Callable[[], Outcome | None]) -> Outcome:
        call = self.prepare(live)
        if not isinstance(call, Call):
            return call
        limit = asyncio.timeout(call.limit_seconds)
        try:
            async with limit:
                result = await call()
        except asyncio.CancelledError as error:
            if live.cancel_requested():
                return self.failure(live, call, TaskCancelled("cancelled while running"))
            return given_up() or self.failure(live, call, error)
        # as above; here nothing may reach the loop, which would stop at it
        except (Exception, SystemExit, KeyboardInterrupt) as error:  # noqa: BLE001
            late = isinstance(error, TimeoutError) and limit.expired()
            return self.failure(live, call, TimeLimitExceeded() if late else error)
        return self._completed(live.claim, result)

    def prepare(self, live: LiveTask) -> Call | Outcome:
        """The handler's call with its payload checked, or the outcome of a task that cannot be called."""
        claim = live.claim
        handler = self._handlers.find(claim.name)
        if handler is None:
            return self._failed(claim, None, f"this worker has no handler named {claim.name!r}")
        try:
            payload = handler.parse_json(claim.payload)
        except InvalidTask as error:
            reason = storable(f"the payload does not fit the handler: {error}")
            return Failed(claim, reason[:ERROR_CHARACTERS])
        live.has_loop, live.families = handler.is_async, self._families
        context = TaskContext(
            claim.task_id, claim.attempt, claim.user_id, live, claim.failures, claim.planned_run
        )
        return Call(handler, payload, context, live.limit_seconds or self.limit_of(claim))

    def failure(self, live: LiveTask, call: Call, error: BaseException) -> Outcome:
        """What becomes of a task whose handler raised this."""
        claim, handler = live.claim, call.handler
        if isinstance(error, TaskCancelled):
            if live.cancel_asked:
                return Cancelled(claim, sentence(error))
            return self._failed(claim, handler, sentence(error))
        if isinstance(error, DoNotRetry):
            return Failed(claim, sentence(error))
        if isinstance(error, TimeLimitExceeded):
            return self._failed(claim, handler, f"ran longer than its limit of {call.limit_seconds} s")
        log.info("task.raised", task=claim.task_id, name=claim.name, exc_info=error)
        return self._failed(claim, handler, f"{type(error).__name__}: {sentence(error)}")

    def _completed(self, claim: Claim, result: object) -> Outcome:
        try:
            text = to_json(result)
            size = len(text.encode())
        except Exception as error:  # to write it down runs code of the handler's, too
            log.info("task.result_unusable", task=claim.task_id, name=claim.name, exc_info=True)
            reason = f"the result cannot be stored as JSON: {sentence(error)}"
            return Failed(claim, reason[:ERROR_CHARACTERS])
        if size > self._settings.result_limit_bytes:
            limit = self._settings.result_limit_bytes
            return Failed(claim, f"the result has {size} bytes, the limit is {limit}")
        return Completed(claim, text)

    def lost(self, claim: Claim, reason: str) -> Outcome:
        """What becomes of a run whose process died by the task's own doing: one failure, by the handler's
        rule."""
        handler = self._handlers.find(claim.name)
        if handler is not None and handler.on_lost is OnLost.PARK:
            return Failed(claim, f"{reason}; parked: its handler must not repeat")
        if claim.failures >= self._settings.retry_limit(handler, claim.max_retries):
            return Failed(claim, f"{reason}; no retry is left")
        return RetryLater(claim, reason, self.retry_delay(claim, handler))

    def _failed(self, claim: Claim, handler: Handler | None, error: str) -> Outcome:
        error = error[:ERROR_CHARACTERS]
        if claim.failures >= self._settings.retry_limit(handler, claim.max_retries):
            return Failed(claim, error)
        return RetryLater(claim, error, self.retry_delay(claim, handler))

    def retry_delay(self, claim: Claim, handler: Handler | None) -> float:
        """Seconds until the next attempt: base x 2^failures, at most the cap, with half of it jittered
        ("equal jitter", M. Brooker, Exponential Backoff And Jitter, 2015)."""
        base = self._settings.retry_base_seconds
        if handler is not None and handler.retry_base_seconds is not None:
            base = handler.retry_base_seconds
        delay: float = min(self._settings.retry_cap_seconds, base * 2.0 ** min(claim.failures, 40))
        return delay / 2 + random.uniform(0, delay / 2)

    # --- settling -------------------------------------------------------------------------------------

    def settle_own(self, live: LiveTask, outcome: Outcome) -> Settled | None:
        """Settle a task that wrote through its own connection, with those writes. None: it did not use one,
        and its outcome is the caller's to settle."""
        return self.settle(live, outcome) if live.has_connection else None

    def settle_together(self, outcomes: Sequence[Outcome]) -> list[Settled]:
        """Record outcomes in one transaction; if the database refuses something in it, one by one, so that
        the culprit ends as FAILED and holds up no other. Raises `DatabaseUnavailable`."""
        try:
            return [self._store.settlements.settle(outcomes)]
        except StatementRefused:
            log.exception("settle.refused", outcomes=len(outcomes))
            return self.settle_all(outcomes)

    def settle_all(self, outcomes: Sequence[Outcome]) -> list[Settled]:
        """Record outcomes one by one, each in a transaction of its own: one that the database refuses ends
        as FAILED and spoils no other."""
        return [self._settle_alone([outcome]) for outcome in outcomes]

    def settle(self, live: LiveTask, outcome: Outcome) -> Settled:
        """Record the outcome. Waits for a database that is away: the token decides if it still counts."""
        connection = live.take_connection()
        if connection is not None:
            settled = self._settle_with(connection, live, outcome)
            if settled is not None:
                return settled
            outcome = RetryLater(
                live.claim, "the database went away while the task's own writes were open", 0
            )
        return self._settle_alone([outcome])

    def _settle_alone(self, outcomes: Sequence[Outcome]) -> Settled:
        pause, longest = SETTLE_PAUSE_SECONDS
        refused = False
        while True:
            try:
                return self._report(outcomes, self._store.settlements.settle(outcomes))
            except DatabaseUnavailable as error:
                log.warning("task.settle_waits", tasks=[o.claim.task_id for o in outcomes], reason=str(error))
                if self._pause(pause):
                    raise
                pause = min(longest, pause * 2)
            except StatementRefused as error:
                # the database refuses what was to be stored: the task fails, its worker goes on
                log.error("task.settle_refused", tasks=[o.claim.task_id for o in outcomes], exc_info=True)
                if refused and self._pause(pause):  # even the sentence is refused: it is not the result
                    raise
                refused = True
                outcomes = [Failed(o.claim, f"the result could not be stored: {error}") for o in outcomes]

    def _settle_with(self, connection: Connection, live: LiveTask, outcome: Outcome) -> Settled | None:
        """Settle on the handler's own connection: its writes and the end commit together, or neither.

        A failed task's writes are rolled back. None: nothing was recorded.
        """
        with connection:
            if not isinstance(outcome, Completed):
                _undo(connection)
                return self._settle_alone([outcome])
            try:
                settled = self._store.settlements.settle([outcome], connection)
                if settled.recorded.get(outcome.claim.task_id) is not Status.COMPLETED:
                    _undo(connection)  # lost or cancelled: what the handler wrote must not stay
                    return self._settle_alone([outcome])
                connection.commit()
            except (TaskError, SQLAlchemyError) as error:
                log.warning("task.settle_lost", task=outcome.claim.task_id, reason=type(error).__name__)
                return self._read_back(outcome)
            return self._report([outcome], settled)

    def _read_back(self, outcome: Outcome) -> Settled | None:
        status = None
        try:
            status = self._store.settlements.ended_by(outcome.claim)
        except DatabaseUnavailable:
            return None
        return None if status is None else Settled(recorded={outcome.claim.task_id: status})

    def _report(self, outcomes: Sequence[Outcome], settled: Settled) -> Settled:
        for outcome in outcomes:
            claim = outcome.claim
            status = settled.recorded.get(claim.task_id)
            if status is None:
                log.warning("task.result_refused", task=claim.task_id, attempt=claim.attempt)
            else:
                log.debug("task.settled", task=claim.task_id, name=claim.name, status=status.value)
        return settled


def _sleep(seconds: float) -> bool:
    time.sleep(seconds)
    return False


def _undo(connection: Connection) -> None:
    """Roll back; a connection that a time limit interrupted in mid-answer is thrown away."""
    try:
        connection.rollback()
    except SQLAlchemyError:
        connection.invalidate()
