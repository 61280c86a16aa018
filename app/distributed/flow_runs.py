"""A run of a flow: one batch of its records, each through the business logic, each to its recorded end."""

from __future__ import annotations

import inspect
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import structlog
from pydantic import TypeAdapter
from sqlalchemy.engine import Connection

from app.distributed.databases import DatabaseManager
from app.distributed.new_records import checked_flow
from app.distributed.processor import DistributedProcessor
from app.tasks.errors import DatabaseUnavailable
from app.tasks.handlers import Handler, HandlerRegistry, TaskContext
from app.tasks.model import Failed, Outcome, Released, RetryLater, Status
from app.tasks.runner import LiveTask, Runner, boot_clock
from app.tasks.store.records import FlowRun
from app.tasks.store.settling import Settled

SETTLE_SECONDS = 0.05  # what has ended waits no longer for its neighbours
ERRORS_SHOWN = 10

log = structlog.get_logger(__name__)

BusinessLogic = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class RecordContext:
    """What business logic may know and use beside the payload, if it takes a second argument."""

    record_id: int | str
    flow: str
    retry_count: int
    source: DatabaseManager | None
    connect: Callable[[], Connection]

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt at this record: give it to outside systems that accept one."""
        return f"twintrack-{self.record_id}"

    @property
    def connection(self) -> Connection:
        """A connection to the queue's database, in the transaction that records this record's end: what is
        written through it happens exactly once."""
        return self.connect()


_LOGIC: dict[str, BusinessLogic] = {}


def business_logic(flow: str) -> Callable[[BusinessLogic], BusinessLogic]:
    """Declare a function as what processes the records of a flow. It is called with the payload, and with a
    `RecordContext` if it takes a second argument; what it returns must be JSON. An exception fails the
    record. Raises `ValueError` if the flow has another function already."""
    checked_flow(flow)

    def declare(function: BusinessLogic) -> BusinessLogic:
        present = _LOGIC.setdefault(flow, function)
        if (present.__module__, present.__qualname__) != (function.__module__, function.__qualname__):
            raise ValueError(f"the flow {flow!r} is processed by {present.__qualname__} already")
        _LOGIC[flow] = function
        return function

    return declare


class UnknownFlow(ValueError):
    """This process has no business logic for the flow; the sentence says what to do."""


def logic_of(flow: str) -> BusinessLogic:
    """The business logic that was declared for a flow. Raises `UnknownFlow`."""
    try:
        return _LOGIC[checked_flow(flow)]
    except KeyError:
        raise UnknownFlow(
            f"No business logic is registered for the flow {flow!r}: pass business_logic_func, or import the"
            f" module that declares it with @business_logic({flow!r})."
        ) from None


_told: set[tuple[str, str]] = set()


def logic_for(processor: DistributedProcessor, flow: str) -> BusinessLogic:
    """As `logic_of`. A process without it says so in the log of runs, once, for whoever wonders why records
    wait."""
    try:
        return logic_of(flow)
    except UnknownFlow as error:
        instance = processor.instance_id
        if (instance, flow) not in _told:
            _told.add((instance, flow))
            now = datetime.now(UTC)
            _keep(processor, FlowRun(flow, instance, "distributed", 0, 0, 0, str(error), now, now))
        raise


def registered_flows() -> Sequence[str]:
    """The flows that this process has business logic for."""
    return sorted(_LOGIC)


def called(logic: BusinessLogic, payload: Any, context: RecordContext) -> Any:
    """What the logic returns for a record."""
    return logic(payload, context) if _arguments(logic) > 1 else logic(payload)


def _arguments(logic: BusinessLogic) -> int:
    try:
        parameters = inspect.signature(logic).parameters.values()
    except (TypeError, ValueError):
        return 1
    places = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(one.kind in places and one.default is inspect.Parameter.empty for one in parameters)


@dataclass(slots=True)
class Tally:
    """What a run has done."""

    claimed: int = 0
    completed: int = 0
    failed: int = 0
    returned: int = 0
    errors: list[dict[str, Any]] = field(default_factory=list)

    def add(self, outcomes: Sequence[Outcome], recorded: Mapping[int, Status]) -> None:
        for outcome in outcomes:
            status = recorded.get(outcome.claim.task_id)
            if status is Status.COMPLETED:
                self.completed += 1
            elif status in (Status.FAILED, Status.CANCELLED):
                self.fail(outcome.claim.task_id, getattr(outcome, "error", "cancelled"))
            else:
                self.returned += 1

    def add_up(self, other: Tally) -> None:
        """With what another has counted."""
        self.claimed += other.claimed
        self.completed += other.completed
        self.failed += other.failed
        self.returned += other.returned
        self.errors += other.errors[: ERRORS_SHOWN - len(self.errors)]

    def fail(self, record_id: Any, error: str) -> None:
        self.failed += 1
        if len(self.errors) < ERRORS_SHOWN:
            self.errors.append({"record_id": record_id, "error": error})

    def summary(self, flow: str, batch_size: int, instance: str) -> dict[str, Any]:
        ended = self.completed + self.failed
        return {
            "flow_name": flow,
            "batch_size": batch_size,
            "records_claimed": self.claimed,
            "total": self.claimed,
            "records_completed": self.completed,
            "completed": self.completed,
            "records_failed": self.failed,
            "failed": self.failed,
            "success_rate_percent": round(100 * self.completed / ended, 2) if ended else 0.0,
            "errors": self.errors,
            "processor_instance": instance,
        }


def distributed_processing_flow(
    flow: str,
    batch_size: int | None = None,
    business_logic_func: BusinessLogic | None = None,
    *,
    processor: DistributedProcessor | None = None,
) -> dict[str, Any]:
    """Claim one batch of a flow's records and process it. Returns a summary.

    `batch_size` None: as the flow is set to (`distributed_batch_size`). `business_logic_func` None: what was
    registered with `business_logic`; a flow without any claims nothing, and the summary's `message` says what
    to do. A record that fails does not stop the others. `processor` None: this process's own.
    """
    own = processor or own_processor()
    size = batch_size
    if size is None:
        size = int(own.settings_of(flow).get_variable("distributed_batch_size"))
    if size < 1:
        raise ValueError(f"batch_size must be at least 1, not {size}")
    try:
        logic = business_logic_func or logic_for(own, flow)
    except UnknownFlow as error:
        return Tally().summary(flow, size, own.instance_id) | {"message": str(error)}
    tally = Tally()
    FlowRunner(own, flow, logic).run(size, tally)
    return tally.summary(flow, size, own.instance_id)


class FlowRunner:
    """Runs batches of one flow with one business logic."""

    def __init__(
        self,
        processor: DistributedProcessor,
        flow: str,
        logic: BusinessLogic,
        *,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        """Once `stopped()` is true no further record is started, and those that were claimed go back."""
        self._stopped = stopped
        self._processor = processor
        self._flow = flow
        self._logic = logic
        handler = Handler(flow, self._call, TypeAdapter(Any))
        system = processor.system
        self._runner = Runner(system.store, HandlerRegistry([handler]), system.settings)

    def work_off(self, batch_size: int, tally: Tally) -> None:
        """Batch after batch, until a claim wins nothing."""
        while not self._stopped():
            before = tally.claimed
            self.run(batch_size, tally)
            if tally.claimed == before:
                return

    def run(self, batch_size: int, total: Tally) -> None:
        """Claim and process up to `batch_size` records, and add to what was done. Raises
        `DatabaseUnavailable`: what was claimed comes back with the end of its lease."""
        started = datetime.now(UTC)
        tally = Tally()
        lives = self._processor.claim(self._flow, batch_size)
        tally.claimed = len(lives)
        try:
            self.process(lives, tally)
        finally:
            if lives:
                log_run(self._processor, self._flow, "distributed", tally, started)
            total.add_up(tally)

    def process(self, lives: Sequence[LiveTask], tally: Tally) -> None:
        done: list[Outcome] = []
        waiting = deque(lives)
        settled_at = time.monotonic()
        while waiting:
            live = waiting.popleft()
            if live.lost or boot_clock() >= live.lease_ends or self._stopped():
                done.append(Released(live.claim))  # refused by its token if another has it
            else:
                outcome = _final(self._runner.execute(live))
                settled = self._runner.settle_own(live, outcome)
                if settled is not None:
                    self._take(tally, [outcome], [settled])
                else:
                    done.append(outcome)
            if not waiting or time.monotonic() - settled_at >= SETTLE_SECONDS:
                self._take(tally, done, self._settled(done))
                done, settled_at = [], time.monotonic()

    def _settled(self, outcomes: Sequence[Outcome]) -> list[Settled]:
        """Waits for a database that is away: the tokens decide what still counts."""
        if not outcomes:
            return []
        try:
            return self._runner.settle_together(outcomes)
        except DatabaseUnavailable:
            return self._runner.settle_all(outcomes)

    def _take(self, tally: Tally, outcomes: Sequence[Outcome], settled: Sequence[Settled]) -> None:
        recorded: dict[int, Status] = {}
        for one in settled:
            recorded |= one.recorded
            self._processor.settled(outcomes, one)
        tally.add(outcomes, recorded)

    def _call(self, payload: Any, context: TaskContext) -> Any:
        own = RecordContext(
            *(context.task_id, self._flow, context.failures, self._processor.source_database),
            connect=lambda: context.connection,
        )
        return called(self._logic, payload, own)


def log_run(processor: DistributedProcessor, flow: str, mode: str, tally: Tally, started: datetime) -> None:
    """Keep what a run has done."""
    run = FlowRun(
        *(flow, processor.instance_id, mode, tally.claimed, tally.completed, tally.failed),
        error=str(tally.errors[0]["error"]) if tally.errors else None,
        started_at=started,
        ended_at=datetime.now(UTC),
    )
    _keep(processor, run)


def _keep(processor: DistributedProcessor, run: FlowRun) -> None:
    with suppress(DatabaseUnavailable):  # the records' ends are what counts
        processor.system.store.records.log_run(run)


def _final(outcome: Outcome) -> Outcome:
    """A record that fails has failed: whoever runs the flow decides when to reset it."""
    if isinstance(outcome, RetryLater):
        return Failed(outcome.claim, outcome.error, outcome.progress)
    return outcome


def process_record_with_status(
    record: Mapping[str, Any],
    business_logic_func: BusinessLogic | None = None,
    *,
    processor: DistributedProcessor | None = None,
) -> dict[str, Any]:
    """Process one record of `claim_records_batch` and record its end. Returns `record_id`, `status`
    (completed, failed or lost) and `result` or `error`. Raises `UnknownFlow`."""
    own = processor or own_processor()
    record_id, flow = int(record["id"]), str(record["flow_name"])
    logic = business_logic_func or logic_of(flow)
    live = own.held(record_id)
    if live is None:
        return {"record_id": record_id, "status": "lost", "error": "another process has this record now"}
    tally = Tally()
    FlowRunner(own, flow, logic).process([live], tally)
    if tally.completed:
        task = own.system.store.queries.task(record_id)
        return {"record_id": record_id, "status": "completed", "result": task.result}
    if tally.failed:
        return {"record_id": record_id, "status": "failed", "error": tally.errors[0]["error"]}
    return {"record_id": record_id, "status": "lost", "error": "another process has this record now"}


_own: tuple[int, DistributedProcessor] | None = None
_own_lock = threading.Lock()


def own_processor() -> DistributedProcessor:
    """The processor of this process, over the settings in force; made when it is asked for."""
    global _own
    with _own_lock:
        if _own is None or _own[0] != os.getpid():  # a forked child must not share connections
            _own = (os.getpid(), DistributedProcessor())
        return _own[1]
