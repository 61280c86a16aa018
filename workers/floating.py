"""The float: an event loop beside the batches, on which one worker's async handlers run, many at a time.

The main thread hands a claim over and goes on; the heartbeat carries what happens to and from the database. A
claim is on the worker's page from before its first instruction until its end is recorded: whoever buries the
worker counts it as started.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Sequence

import structlog

from app.system import System
from app.tasks.errors import TaskError
from app.tasks.handlers import Handler, Isolation
from app.tasks.model import Cancelled, Claim, OnLost, Outcome, Released
from app.tasks.runner import LiveTask, Runner, boot_clock
from app.tasks.store.settling import Settled
from workers.causes import Cause, CauseOfDeath
from workers.page import MAX_BESIDE, Page

CARRY_SECONDS = 0.5
LOOK_SECONDS = 0.05
STOP_SECONDS = 2.0  # kept back of the time to stop, for recording what was given back
EXIT_STUCK = 75

log = structlog.get_logger(__name__)

Record = Callable[[Sequence[Outcome], Settled], None]


class Float:
    """One per worker process that has async handlers. `limit` bounds how many run at a time."""

    def __init__(self, system: System, runner: Runner, *, page: Page, record: Record, limit: int) -> None:
        """`record` is told what was settled."""
        self._system = system
        self._runner = runner
        self._page = page
        self._record = record
        self._limit = min(limit, MAX_BESIDE // 2)  # as many again may have ended and not be recorded
        self._stop_seconds = min(STOP_SECONDS, system.config.RQ_SHUTDOWN_TIMEOUT / 4)
        self._names = frozenset(name for name, one in system.handlers.items() if _is_ours(one))
        self._lock = threading.Condition()
        self._places = list(range(MAX_BESIDE))  # free ones of the page
        self._place_of: dict[LiveTask, int] = {}  # not by id: a task may come back before its end is recorded
        self._running: set[LiveTask] = set()
        self._tasks: dict[LiveTask, asyncio.Task[None]] = {}  # only the loop's thread touches it
        self._told: set[LiveTask] = set()  # as well: those that have been cancelled
        self._ended: list[tuple[LiveTask, Outcome]] = []
        self._releasing = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._next_carry = self._next_renewal = 0.0
        self.overdue = False

    @classmethod
    def where_needed(cls, system: System, runner: Runner, *, page: Page, record: Record) -> Float | None:
        """A float for a worker that has async handlers; None for one that has none."""
        if not any(_is_ours(handler) for handler in system.handlers.values()):
            return None
        return cls(system, runner, page=page, record=record, limit=system.config.RQ_ASYNC_CONCURRENCY)

    # --- the main thread's ----------------------------------------------------------------------------

    def takes(self, claim: Claim) -> bool:
        """True if the claim's handler is one for this loop."""
        return claim.name in self._names

    @property
    def room(self) -> int:
        """How many more may run."""
        return min(self._limit - len(self._running), len(self._places))

    @property
    def in_use(self) -> bool:
        """True until the end of every task is recorded."""
        return bool(self._place_of)

    def has_room_for(self, claim: Claim) -> bool:
        return not self.takes(claim) or self.room > 0

    def wait_for_room(self, seconds: float) -> bool:
        """True as soon as one more may run; false if that does not come true in this time."""
        with self._lock:
            return self._lock.wait_for(lambda: self.room > 0, timeout=seconds)

    def launch(self, live: LiveTask) -> None:
        """Start a claim that the caller has found to be one of ours and to have room."""
        with self._lock:
            if not self._place_of:
                self._next_carry = live.started + CARRY_SECONDS
                self._next_renewal = live.started + self._system.settings.lease_seconds / 3
            place = self._places.pop()
            self._place_of[live] = place
            self._page.put_beside(place, live.claim)
            self._running.add(live)
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=self._loop.run_forever, name="float", daemon=True).start()
        self._loop.call_soon_threadsafe(self._start, live)

    def drain(self, seconds_left: Callable[[], float | None]) -> bool:
        """Wait until every task has ended and is recorded. Before `seconds_left` (None: there is no hurry)
        are over, what still runs is cancelled and given back; what does not heed that is recorded as lost.

        False if the database was away for too long: the worker must leave its page to those who bury it.
        """
        while self.in_use:
            left = seconds_left()
            if left is not None and left <= self._stop_seconds:
                self._release_all()
            if left is not None and left <= self._stop_seconds / 2:
                self._give_up(self._running_ones(), "its worker was stopped")
            if self.overdue and len(late := self._overdue_ones(boot_clock())) == len(self._running_ones()):
                self._give_up(late, "ran longer than its limit and did not stop")
            if left is not None and left <= 0:
                log.warning("float.left", tasks=[live.claim.task_id for live in self._place_of])
                return False
            with self._lock:
                self._lock.wait_for(lambda: not self.in_use, timeout=LOOK_SECONDS)
        return True

    # --- the loop's thread ------------------------------------------------------------------------------

    def _start(self, live: LiveTask) -> None:
        assert self._loop is not None
        task = self._loop.create_task(self._run(live))
        self._tasks[live] = task
        task.add_done_callback(lambda ended: self._forget(live, ended))

    async def _run(self, live: LiveTask) -> None:
        if live.lost or boot_clock() >= live.lease_ends:  # the loop was held up before it came to this one
            self._end(live, Released(live.claim))
            return
        outcome = await self._runner.execute_beside(live, given_up=lambda: self._given_back(live.claim))
        self._end(live, outcome)

    def _forget(self, live: LiveTask, ended: asyncio.Task[None]) -> None:
        claim = live.claim
        self._tasks.pop(live, None)
        self._told.discard(live)
        if ended.cancelled():  # before its first instruction
            self._end(live, Cancelled(claim) if live.cancel_asked else Released(claim))

    def _given_back(self, claim: Claim) -> Outcome | None:
        """A started task whose worker stops: it waits again without a failure, unless it must not repeat.
        None if it was not us who cancelled it."""
        if not self._releasing:
            return None
        handler = self._system.handlers.find(claim.name)
        if handler is not None and handler.on_lost is OnLost.PARK:
            return self._runner.lost(claim, "its worker was stopped")
        return Released(claim)

    def _cancel(self, live: LiveTask) -> None:
        """Once: what a handler awaits to clean up is not interrupted again."""
        task = self._tasks.get(live)
        if task is not None and live not in self._told:
            self._told.add(live)
            task.cancel()

    # --- the heartbeat's --------------------------------------------------------------------------------

    def tend(self, now: float) -> None:
        """Record what has ended, keep leases, carry progress and cancels. Raises `TaskError` while the
        database is away; what has ended stays in hand."""
        if not self._place_of:
            return
        if now >= self._next_carry:
            self._next_carry = now + CARRY_SECONDS
            self._look_for_overdue(now)
            self._carry()
        if now >= self._next_renewal:
            self._renew(now)
        self._settle()

    def _renew(self, now: float) -> None:
        lease = self._system.settings.lease_seconds
        with self._lock:
            lives = [*self._running, *(live for live, _ in self._ended)]
        kept = self._system.store.claims.renew([live.claim for live in lives], lease_seconds=lease)
        for live in lives:
            if (live.claim.task_id, live.claim.token) in kept:
                live.lease_ends = now + lease
            else:
                live.lost = True
        self._next_renewal = now + lease / 3

    def _carry(self) -> None:
        running = self._running_ones()
        if not running:
            return
        self._store_progress(running)
        wishes = self._system.store.claims.wishes([live.claim for live in running])
        for live in running:
            live.lost = live.claim.task_id not in wishes
            live.cancel_asked = live.cancel_asked or wishes.get(live.claim.task_id, False)
            if live.cancel_requested():
                self._on_loop(self._cancel, live)

    def _store_progress(self, lives: Sequence[LiveTask]) -> None:
        """As `LiveTask.store_progress`, of all that have something to say: a commit for each of them would
        keep the heartbeat from its renewals."""
        said = [(live.claim, progress) for live in lives if (progress := live.take_progress()) is not None]
        if not said:
            return
        try:
            self._system.store.claims.progress_of(said)
        except TaskError as error:
            log.info("task.progress_lost", tasks=[claim.task_id for claim, _ in said], reason=str(error))

    def _settle(self) -> None:
        """Only this thread takes from `_ended`: what it has settled still lies in front."""
        with self._lock:
            ended = list(self._ended)
        if not ended:
            return
        outcomes = [outcome for _, outcome in ended]
        for settled in self._runner.settle_together(outcomes):
            self._record(outcomes, settled)
        with self._lock:
            del self._ended[: len(ended)]
            for live, _ in ended:
                place = self._place_of.pop(live)
                self._page.put_beside(place, None)
                self._places.append(place)
            self._lock.notify_all()

    def _look_for_overdue(self, now: float) -> None:
        """A handler that neither ends nor heeds its cancellation: its worker takes no more work, and leaves
        when the others have ended. One that blocks the loop itself takes the worker with it."""
        late = self._overdue_ones(now)
        if not late:
            return
        answered = threading.Event()
        self._on_loop(answered.set)
        if not answered.wait(max(1.0, self._system.config.RQ_KILL_GRACE)):
            log.error("float.stuck", tasks=[live.claim.task_id for live in late])
            self._page.set_cause(CauseOfDeath(Cause.TIME_LIMIT, late[0].limit_seconds))
            os._exit(EXIT_STUCK)
        if not self.overdue:
            log.error("task.ran_away", tasks=[live.claim.task_id for live in late])
        self.overdue = True

    # --- together ---------------------------------------------------------------------------------------

    def _on_loop(self, call: Callable[..., object], *arguments: object) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(call, *arguments)

    def _end(self, live: LiveTask, outcome: Outcome) -> None:
        with self._lock:
            if live in self._running:  # else it was given up meanwhile
                self._running.remove(live)
                self._ended.append((live, outcome))
            self._lock.notify_all()

    def _release_all(self) -> None:
        if not self._releasing:
            self._releasing = True
            for live in self._running_ones():
                self._on_loop(self._cancel, live)

    def _give_up(self, lives: Sequence[LiveTask], reason: str) -> None:
        """Record as lost what does not end: the process, and the coroutine with it, is about to."""
        for live in lives:
            self._end(live, self._runner.lost(live.claim, reason))

    def _running_ones(self) -> list[LiveTask]:
        with self._lock:
            return list(self._running)

    def _overdue_ones(self, now: float) -> list[LiveTask]:
        grace = self._system.config.RQ_KILL_GRACE
        return [live for live in self._running_ones() if now > live.started + live.limit_seconds + grace]


def _is_ours(handler: Handler) -> bool:
    """One with a process of its own has its own loop there."""
    return handler.is_async and handler.isolation is Isolation.WORKER
