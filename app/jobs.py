"""What a stock RQ worker calls for a ticket: claim the row, run its handler, record the end.

Correct by itself: the claim, the lease and the settle are the same as in our own workers. The command is

    rq worker -c app.rq_settings --serializer app.tasks.tickets.rq_format.TicketSerializer \\
        --job-class app.tasks.tickets.rq_format.TicketJob urgent high normal low
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
from typing import Any

import structlog
from rq.timeouts import JobTimeoutException

from app.system import System, build_system
from app.tasks.errors import TaskError
from app.tasks.handlers import TimeLimitExceeded
from app.tasks.model import Status, Waits
from app.tasks.runner import LiveTask, Runner, boot_clock
from app.tasks.store.settling import Settled
from app.tasks.tickets.rq_format import ticket_failure, ticket_result
from config import Config

log = structlog.get_logger(__name__)

_system: System | None = None
_user = 0  # the process that has used it, and may have connections open in it


class TicketFailed(Exception):
    """The task's run failed; the row says what comes next. Raised so that RQ shows the job as failed."""


def run_ticket(task_id: int, epoch: int) -> dict[str, Any]:
    """Run the task that a ticket names; returns what was recorded. A worthless ticket is no error."""
    system = _own_system()
    holder = f"rq:{socket.gethostname()[:40]}:{os.getpid()}:{secrets.token_hex(3)}"
    lease = system.settings.lease_seconds
    lease_ends = boot_clock() + lease
    answer = system.store.claims.tickets([(task_id, epoch)], holder=holder, lease_seconds=lease)
    answer = system.store.turns.without_taken(answer)
    if answer.refused:
        # its queue is paused or fenced: the ticket is spent, so the row must not count as confirmed
        system.store.dispatched.unconfirm(answer.refused)
        return {"task": task_id, "status": "paused"}
    if not answer.won:
        return {"task": task_id, "status": "stale"}
    live = LiveTask(answer.won[0], system.store, lease_ends=lease_ends)
    with _Renewal(system, live):
        settled = _run(system, live)
    if settled is None:
        return {"task": task_id, "status": "not started"}
    system.queue.push_moved(settled.moves)
    return _answer(live, settled)


def _run(system: System, live: LiveTask) -> Settled | None:
    runner = Runner(
        system.store,
        system.handlers,
        system.settings,
        time_limit=lambda seconds: _RqLimit(),
        families=system.queue.families,
    )
    return runner.run(live)


def _answer(live: LiveTask, settled: Settled) -> dict[str, Any]:
    task_id = live.claim.task_id
    status = settled.recorded.get(task_id)
    if status is None:
        return {"task": task_id, "status": "lost"}
    if status is not Status.COMPLETED and not isinstance(live.outcome, Waits):
        raise TicketFailed(ticket_failure(task_id, status, getattr(live.outcome, "error", "")))
    return ticket_result(task_id, status)


class _RqLimit:
    """RQ's own alarm ends a run that is too long; here its exception becomes ours."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> None:
        if kind is not None and issubclass(kind, JobTimeoutException):
            raise TimeLimitExceeded from error


class _Renewal:
    """A thread that keeps the lease, carries progress and asks for cancels while the handler runs."""

    def __init__(self, system: System, live: LiveTask) -> None:
        self._system = system
        self._live = live
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="lease", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _work(self) -> None:
        claims, lease = self._system.store.claims, self._system.settings.lease_seconds
        next_renewal = boot_clock() + lease / 3
        while not self._over.wait(1.0):
            try:
                wishes = claims.wishes([self._live.claim])
                self._live.lost = self._live.claim.task_id not in wishes
                self._live.cancel_asked = wishes.get(self._live.claim.task_id, False)
                self._live.store_progress()
                if boot_clock() >= next_renewal:
                    next_renewal = boot_clock() + lease / 3
                    claims.renew([self._live.claim], lease_seconds=lease)
            except TaskError as error:
                log.warning("lease.not_renewed", task=self._live.claim.task_id, reason=str(error))


def prepare() -> None:
    """Wire the parts in a worker that will fork, so that no job has to: half of a short one's work.

    Opens nothing. Raises `ConfigError` or `ValueError` for settings that cannot work.
    """
    global _system, _user
    _system, _user = build_system(Config()), 0


def _own_system() -> System:
    """The parts, used by no other process: RQ forks a child per job, which must not share connections."""
    global _user
    if _system is None or _user not in (0, os.getpid()):
        prepare()
    assert _system is not None
    _user = os.getpid()
    return _system
