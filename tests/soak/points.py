"""Crash points: the named steps from pop to end at which a process kills itself, exactly there.

The harness arms one point in a page of shared memory; every process of the installation looks at the page
when it passes a point. The first that passes the armed one for the n-th time notes that it did, and dies.
Nothing of the product knows of this: `tests.soak.hooks` and the soak's own handlers call `passing`.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import signal
import struct
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import psutil

from app.tasks.runner import boot_clock

STEPS = {
    "fetch.unsent": "before the take script is sent",
    "fetch.unanswered": "the take script is sent, its answer is not read",
    "fetch.answered": "tickets are popped, nothing is claimed",
    "claim.open": "rows are claimed, COMMIT is not sent",
    "claim.committed": "rows are claimed and committed, nothing is started",
    "run.first": "first instruction of a handler",
    "run.middle": "in the middle of a handler",
    "run.last": "last instruction of a handler",
    "settle.open": "ends are written, COMMIT is not sent",
    "settle.committed": "ends are committed, tickets are not ended",
    "end.unsent": "before the finish script is sent",
    "end.unanswered": "the finish script is sent, its answer is not read",
    "end.answered": "tickets are ended",
    "push.unsent": "a worker moved a row, its ticket is not sent",
    "push.unanswered": "a worker sent a ticket, the answer is not read",
    "push.answered": "a worker's ticket is pushed",
    "heal.open": "the sweeper moved rows, COMMIT is not sent",
    "heal.committed": "the sweeper's move is committed, no ticket is sent",
    "heal.unsent": "before the sweeper sends tickets",
    "heal.unanswered": "the sweeper sent tickets, the answer is not read",
    "heal.answered": "the sweeper's tickets are pushed",
    "submit.open": "a submitter has not sent its row",
    "submit.committed": "a submitter's row is committed, its ticket is not sent",
    "submit.unanswered": "a submitter sent the ticket, the answer is not read",
    "submit.pushed": "a submitter's ticket is pushed, nobody was told",
}
NAMES = tuple(STEPS)
# Of a mover, which no pool runs.
MOVER_STEPS = {
    "begin.open": "the transfer and its routing are written, COMMIT is not sent",
    "begin.committed": "the transfer is recorded, no row is moved",
    "mark.open": "a batch is marked, COMMIT is not sent",
    "mark.committed": "a batch is marked, no ticket is sent",
    "move.unsent": "before a batch's tickets are sent",
    "move.unanswered": "a batch's tickets are sent, the answer is not read",
    "move.answered": "a batch's tickets are pushed, and not read back",
    "look.unsent": "before a queue is read back",
    "look.unanswered": "a queue is to be read back, the answer is not read",
    "look.answered": "a batch's tickets are read back, which nobody knows",
    "deliver.open": "a batch's delivery is written, COMMIT is not sent",
    "deliver.committed": "a batch is delivered",
    "flip.open": "the routing is flipped, COMMIT is not sent",
    "flip.committed": "the routing is flipped, nothing was counted since",
    "finish.open": "the end is written, COMMIT is not sent",
    "finish.committed": "the end is committed, nobody was told",
}
# A recall touches no Redis before its end, and flips as it begins.
RECALL_STEPS = tuple(
    name for name in MOVER_STEPS if name.partition(".")[0] in ("begin", "mark", "deliver", "finish")
)
ALL_NAMES = (*NAMES, *MOVER_STEPS)
ROLES = ("", "worker", "poller", "sweeper", "submitter", "mover")  # "": whoever passes
_PAGE = struct.Struct("=qqqqqq")  # round (0: nothing is armed), point, pass, scope, role, server
ENVIRONMENT = "SOAK_FOLDER"


class Scope(StrEnum):
    """What dies: the process at the point, its pool with everything below it, or a server under its hands."""

    PROCESS = "process"
    TREE = "tree"
    SERVER = "server"


@dataclass(frozen=True, slots=True)
class Armed:
    """What the page says: the point, for whom, at which pass, and what dies there."""

    number: int
    point: str
    nth: int
    scope: Scope
    role: str
    server: int


@dataclass(frozen=True, slots=True)
class Hit:
    """A process died here, or a server did. `at` is on the clock of the ledgers."""

    point: str
    pid: int
    at: float
    role: str


class ArmedPoint:
    """The page, as the harness writes it and every process of the installation reads it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        path = folder / "armed.page"
        if not path.exists():
            path.write_bytes(b"\0" * _PAGE.size)
        with path.open("r+b") as file:
            self._page = mmap.mmap(file.fileno(), _PAGE.size)

    def arm(
        self, number: int, point: str, *, nth: int, scope: Scope, role: str = "", server: int = 0
    ) -> None:
        """From now on the n-th pass of the point by one process of the role is its last, or that of the
        server with this process id. Rounds are numbered from 1."""
        rest = (ALL_NAMES.index(point), nth, list(Scope).index(scope), ROLES.index(role), server)
        _PAGE.pack_into(self._page, 0, 0, *rest)
        _PAGE.pack_into(self._page, 0, number, *rest)

    def disarm(self) -> None:
        _PAGE.pack_into(self._page, 0, *[0] * 6)

    def read(self) -> Armed | None:
        number, point, nth, scope, role, server = _PAGE.unpack_from(self._page)
        return (
            Armed(number, ALL_NAMES[point], nth, list(Scope)[scope], ROLES[role], server) if number else None
        )

    def hit(self, number: int) -> Hit | None:
        """Who died in this round."""
        path = self._path(number)
        try:
            return Hit(**json.loads(path.read_text()))
        except (FileNotFoundError, json.JSONDecodeError):
            return None

    def claim(self, number: int, hit: Hit) -> bool:
        """True for the one process that may die in this round; its hit is written down."""
        try:
            file = os.open(self._path(number), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return False
        fields = {"point": hit.point, "pid": hit.pid, "at": hit.at, "role": hit.role}
        os.write(file, json.dumps(fields).encode())
        os.close(file)
        return True

    def _path(self, number: int) -> Path:
        return self._folder / f"hit-{number}.json"


class Passes:
    """This process's own passes of the armed point."""

    def __init__(self) -> None:
        self.role = "worker"
        self.pool_pid = 0
        self._armed: ArmedPoint | None = None
        self._round = 0
        self._count = 0

    def passing(self, *points: str) -> None:
        """The process is at these points now. Does not return if one of them is armed for it."""
        if self._armed is None:
            folder = os.environ.get(ENVIRONMENT)
            if folder is None:
                return
            self._armed = ArmedPoint(Path(folder))
        armed = self._armed.read()
        if armed is None or armed.point not in points or armed.role not in ("", self.role):
            return
        if armed.number != self._round:
            self._round, self._count = armed.number, 0
        self._count += 1
        hit = Hit(armed.point, os.getpid(), boot_clock(), self.role)
        if self._count >= armed.nth and self._armed.claim(armed.number, hit):
            self._die(armed)

    def _die(self, armed: Armed) -> None:
        if armed.scope is Scope.SERVER:
            kill_server(armed.server)
            return
        if armed.scope is Scope.TREE and self.pool_pid:
            os.kill(self.pool_pid, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)


def kill_server(pid: int) -> None:
    """SIGKILL, the leader first: children that die before it would show it a death that a power cut hides."""
    leader = psutil.Process(pid)
    for process in (leader, *leader.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


here = Passes()
passing = here.passing
