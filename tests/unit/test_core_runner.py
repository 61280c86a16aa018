"""From a claim to its outcome: every way in which a handler can end, and a settle that does not give up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pydantic import BaseModel, ConfigDict, TypeAdapter
from structlog.testing import capture_logs

from app.tasks.errors import DatabaseUnavailable, StatementRefused
from app.tasks.handlers import (
    DoNotRetry,
    Handler,
    HandlerRegistry,
    TaskCancelled,
    TaskContext,
    TimeLimitExceeded,
)
from app.tasks.model import (
    Cancelled,
    Claim,
    Completed,
    Failed,
    Outcome,
    Priority,
    Released,
    RetryLater,
    Status,
    Track,
)
from app.tasks.runner import LiveTask, Runner, boot_clock
from app.tasks.settings import CoreSettings
from app.tasks.store import Store
from app.tasks.store.settling import Settled


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Log lines are kept and not drawn: this is no test of their looks."""
    with capture_logs():
        yield


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")

    n: int = 0


class FakeSettlements:
    """Answers each settle with the next of `answers`, then records."""

    def __init__(self, *answers: Exception) -> None:
        self.answers = list(answers)
        self.settled: list[Outcome] = []

    def settle(self, outcomes: Sequence[Outcome]) -> Settled:
        if self.answers:
            raise self.answers.pop(0)
        self.settled += outcomes
        return Settled(recorded={outcome.claim.task_id: Status.COMPLETED for outcome in outcomes})


def claim(**columns: Any) -> Claim:
    values: dict[str, Any] = {"name": "job", "payload": "{}", "failures": 0} | columns
    return Claim(7, priority=Priority.NORMAL, token=1, epoch=1, attempt=1, track=Track.REDIS, **values)


def runner(
    function: Callable[..., Any],
    *,
    payload_type: Any = Any,
    settlements: FakeSettlements | None = None,
    time_limit: Any = None,
    pause: Callable[[float], bool] | None = None,
    rules: dict[str, Any] | None = None,
    **settings: Any,
) -> Runner:
    takes_context = function.__code__.co_argcount > 1
    handler = Handler(
        "job", function, TypeAdapter(payload_type), takes_context=takes_context, **(rules or {})
    )
    store = cast(Store, SimpleNamespace(settlements=settlements))
    options: dict[str, Any] = {"pause": pause}
    if time_limit is not None:
        options["time_limit"] = time_limit
    return Runner(store, HandlerRegistry([handler]), CoreSettings(**settings), **options)


def live_task(of: Claim, *, lease_ends: float | None = None) -> LiveTask:
    ends = boot_clock() + 30 if lease_ends is None else lease_ends
    return LiveTask(of, cast(Store, None), lease_ends=ends)


def outcome_of(function: Callable[..., Any], *, of: Claim | None = None, **options: Any) -> Outcome:
    return runner(function, **options).execute(live_task(of or claim()))


def raising(error: BaseException) -> Callable[[Any], None]:
    def handler(payload: Any) -> None:
        raise error

    return handler


def error_of(outcome: Outcome) -> str:
    assert isinstance(outcome, Failed | RetryLater | Cancelled)
    return outcome.error


# --- a handler that returns -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (None, "null"),
        ({"é": "☃ 𝄞", "n": [1, 2.5, None, True]}, '{"é":"☃ 𝄞","n":[1,2.5,null,true]}'),
        (Strict(n=3), '{"n":3}'),
        ("a\x00b", '"a\\u0000b"'),
        (2**70, str(2**70)),
    ],
)
def test_what_a_handler_returns_is_the_result_as_json(result: Any, text: str) -> None:
    outcome = outcome_of(lambda payload: result)
    assert isinstance(outcome, Completed)
    assert outcome.result == text


def test_a_handler_gets_its_payload_typed_and_its_context() -> None:
    seen: list[Any] = []

    def handler(payload: Strict, context: TaskContext) -> None:
        seen.extend([payload, context.task_id, context.attempt, context.user_id, context.idempotency_key])

    outcome_of(handler, of=claim(payload='{"n":5}', user_id="ann"), payload_type=Strict)
    assert seen == [Strict(n=5), 7, 1, "ann", "twintrack-7"]


class Mischief(dict[str, Any]):
    """A mapping that breaks while it is read."""

    def items(self) -> Any:
        raise RuntimeError("dictionary changed size during iteration")


@pytest.mark.parametrize(
    "result",
    [
        object(),
        {1, 2},
        b"bytes",
        float("nan"),
        {"x": float("inf")},
        "\ud800",
        {(1, 2): 3},
        [Strict()],
        10**5000,
        Mischief(a=1),
    ],
    ids=lambda result: type(result).__name__,
)
def test_a_result_that_json_cannot_hold_fails_the_task_for_good(result: Any) -> None:
    outcome = outcome_of(lambda payload: result)
    assert isinstance(outcome, Failed)
    assert outcome.error.startswith("the result cannot be stored as JSON")


def test_a_result_that_holds_itself_fails_the_task_for_good() -> None:
    ring: list[Any] = []
    ring.append(ring)
    assert isinstance(outcome_of(lambda payload: ring), Failed)


def test_a_result_above_the_limit_fails_the_task_and_names_both_sizes() -> None:
    outcome = outcome_of(lambda payload: "☃" * 40, result_limit_bytes=100)
    assert isinstance(outcome, Failed)
    assert outcome.error == "the result has 122 bytes, the limit is 100"
    assert isinstance(outcome_of(lambda payload: "x" * 98, result_limit_bytes=100), Completed)


# --- a handler that raises ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("it broke"), "ValueError: it broke"),
        (ValueError(), "ValueError: ValueError"),
        (KeyError("name"), "KeyError: 'name'"),
        (RuntimeError("first line\nsecond line"), "RuntimeError: first line"),
        (SystemExit(3), "SystemExit: 3"),
        (RecursionError("too deep"), "RecursionError: too deep"),
        (MemoryError(), "MemoryError: MemoryError"),
        (StopIteration(1), "StopIteration: 1"),
        (ExceptionGroup("two", [ValueError("a"), ValueError("b")]), "ExceptionGroup: two (2 sub-exceptions)"),
        (OSError(2, "No such file"), "OSError: [Errno 2] No such file"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_whatever_a_handler_raises_is_a_failure_to_retry(error: BaseException, text: str) -> None:
    outcome = outcome_of(raising(error))
    assert isinstance(outcome, RetryLater)
    assert outcome.error.replace("FileNotFoundError", "OSError") == text


@pytest.mark.parametrize(("failures", "kind"), [(0, RetryLater), (1, RetryLater), (2, Failed), (9, Failed)])
def test_a_task_fails_for_good_when_its_retries_are_used_up(failures: int, kind: type[Outcome]) -> None:
    outcome = outcome_of(raising(ValueError("no")), of=claim(failures=failures), max_retries=2)
    assert type(outcome) is kind


def test_the_tasks_own_retry_limit_comes_before_its_handlers_and_the_settings() -> None:
    error = raising(ValueError("no"))
    of_task = outcome_of(error, of=claim(max_retries=0), rules={"max_retries": 5}, max_retries=5)
    of_handler = outcome_of(error, rules={"max_retries": 0}, max_retries=5)
    assert (type(of_task), type(of_handler)) == (Failed, Failed)


def test_a_handler_can_forbid_the_retry() -> None:
    outcome = outcome_of(raising(DoNotRetry("the address does not exist")))
    assert isinstance(outcome, Failed)
    assert outcome.error == "the address does not exist"


def test_a_handler_that_stops_because_it_was_asked_to_is_cancelled() -> None:
    live = live_task(claim())
    live.cancel_asked = True

    def handler(payload: Any, context: TaskContext) -> None:
        assert context.cancel_requested
        context.check_cancelled()

    outcome = runner(handler).execute(live)
    assert isinstance(outcome, Cancelled)
    assert outcome.error == "cancelled while running"


def test_a_handler_that_claims_to_be_cancelled_when_nobody_asked_has_failed() -> None:
    assert isinstance(outcome_of(raising(TaskCancelled("I say so"))), RetryLater)


def test_a_worker_that_lost_its_claim_stops_its_handler_at_the_next_check() -> None:
    live = live_task(claim())
    live.lost = True

    def handler(payload: Any, context: TaskContext) -> None:
        context.check_cancelled()
        raise AssertionError("it went on")

    outcome = runner(handler).execute(live)
    assert isinstance(outcome, RetryLater)
    assert "it went on" not in outcome.error


def test_a_task_that_runs_too_long_has_failed_and_says_what_the_limit_was() -> None:
    asked: list[float] = []

    @contextmanager
    def alarm(seconds: float) -> Iterator[None]:
        asked.append(seconds)
        yield
        raise TimeLimitExceeded

    outcome = outcome_of(lambda payload: None, time_limit=alarm, rules={"timeout_seconds": 12})
    assert asked == [12]
    assert isinstance(outcome, RetryLater)
    assert outcome.error == "ran longer than its limit of 12 s"


@pytest.mark.parametrize("text", ["a\x00b", "a\ud800b", "\udfff", "\x00"])
def test_an_error_text_is_made_storable_in_every_database(text: str) -> None:
    for error in (ValueError(text), DoNotRetry(text)):
        stored = error_of(outcome_of(raising(error)))
        assert "\x00" not in stored
        assert stored.encode().decode() == stored


def test_a_long_error_is_cut() -> None:
    assert len(error_of(outcome_of(raising(ValueError("x" * 100_000))))) <= 500


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("even its text breaks")


def test_an_error_whose_own_text_breaks_is_a_failure_like_any_other() -> None:
    assert error_of(outcome_of(raising(Unspeakable()))) == "Unspeakable: Unspeakable"
    assert error_of(outcome_of(raising(type("Quiet", (DoNotRetry, Unspeakable), {})()))) == "Quiet"


def test_an_interrupt_from_the_keyboard_is_not_the_tasks_failure() -> None:
    with pytest.raises(KeyboardInterrupt):
        outcome_of(raising(KeyboardInterrupt()))


# --- a handler that is not called -----------------------------------------------------------------


def test_a_task_without_a_handler_here_is_tried_again_elsewhere() -> None:
    outcome = outcome_of(lambda payload: None, of=claim(name="of another release"))
    assert isinstance(outcome, RetryLater)
    assert outcome.error == "this worker has no handler named 'of another release'"


@pytest.mark.parametrize("payload", ['{"n":"many"}', "[]", "no JSON", "", '{"n":1,"\\u0000":2}'])
def test_a_payload_that_does_not_fit_fails_the_task_for_good(payload: str) -> None:
    def handler(payload: Strict) -> None:
        raise AssertionError("it was called")

    outcome = outcome_of(handler, of=claim(payload=payload), payload_type=Strict)
    assert isinstance(outcome, Failed)
    assert outcome.error.startswith("the payload does not fit the handler: payload")
    assert "\x00" not in outcome.error


def test_nothing_is_started_once_the_lease_is_over() -> None:
    called: list[Any] = []
    settlements = FakeSettlements()
    run = runner(lambda payload: called.append(payload), settlements=settlements)
    assert run.run(live_task(claim(), lease_ends=boot_clock() - 0.001)) is None
    assert (called, settlements.settled) == ([], [])


# --- progress -------------------------------------------------------------------------------------


def test_progress_never_runs_backwards_and_is_told_once() -> None:
    live = live_task(claim())
    context = TaskContext(7, 1, None, live)
    assert live.take_progress() is None
    context.progress(30, "reading")
    context.progress(10)
    context.progress(step="writing\x00")
    context.progress(250)
    assert live.take_progress() == (100, "writing\ufffd")
    assert live.take_progress() is None


def test_what_a_handler_said_last_goes_with_its_outcome() -> None:
    """At no price of its own: there is no store here to write it to."""

    def fails(payload: Any, context: TaskContext) -> None:
        context.progress(40, "half")
        raise ValueError("no")

    async def returns(payload: Any, context: TaskContext) -> None:
        context.progress(step="sent")

    for handler, said in ((fails, (40, "half")), (returns, (0, "sent"))):
        outcome = outcome_of(handler)
        assert not isinstance(outcome, Released)
        assert outcome.progress == said
    silent = outcome_of(lambda payload: None)
    assert isinstance(silent, Completed)
    assert silent.progress is None


# --- settling -------------------------------------------------------------------------------------


def test_a_settle_waits_for_a_database_that_is_away_longer_each_time() -> None:
    away = [DatabaseUnavailable("away")] * 9
    settlements, pauses = FakeSettlements(*away), list[float]()

    def pause(seconds: float) -> bool:
        pauses.append(seconds)
        return False

    settled = runner(lambda payload: 1, settlements=settlements, pause=pause).run(live_task(claim()))
    assert settled is not None
    assert len(settlements.settled) == 1
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0]


def test_a_worker_that_must_stop_gives_up_waiting() -> None:
    settlements = FakeSettlements(DatabaseUnavailable("away"), DatabaseUnavailable("away"))
    with pytest.raises(DatabaseUnavailable):
        runner(lambda payload: 1, settlements=settlements, pause=lambda s: s > 0.15).run(live_task(claim()))
    assert settlements.settled == []


def test_a_result_that_the_database_refuses_fails_its_task_and_not_the_worker() -> None:
    settlements = FakeSettlements(StatementRefused("no such character"))
    settled = runner(lambda payload: 1, settlements=settlements, pause=lambda s: True).run(live_task(claim()))
    assert settled is not None
    (outcome,) = settlements.settled
    assert isinstance(outcome, Failed)
    assert outcome.error == "the result could not be stored: no such character"


def test_a_database_that_refuses_even_the_failure_is_waited_for() -> None:
    settlements, pauses = FakeSettlements(*[StatementRefused("no")] * 4), list[float]()

    def pause(seconds: float) -> bool:
        pauses.append(seconds)
        return len(pauses) == 3

    with pytest.raises(StatementRefused):
        runner(lambda payload: 1, settlements=settlements, pause=pause).run(live_task(claim()))
    assert len(pauses) == 3
