"""What every private server has in common: a folder, a port, a process and its end.

Each server has its own temporary folder and port, is stopped by its process id, and dies with the
process that started it. Nothing here touches a server that was running before.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

import psutil

from tests.waiting import wait_until

START_SECONDS = 60.0
STOP_SECONDS = 30.0
# Below the ports that the kernel gives to clients: a client that retries while its server is down
# could otherwise be given the server's own port, connect to itself and keep the server from restarting.
PORTS = range(18_000, 32_000)


class ServerMissingError(Exception):
    """A server's program is not installed."""


class ServerStartError(Exception):
    """A server did not start; the message ends with its log."""


def program(name: str, *patterns: str) -> str:
    """Path of an installed program. Raises ServerMissingError."""
    folders = [
        str(folder) for pattern in patterns for folder in sorted(Path("/").glob(pattern), reverse=True)
    ]
    path = shutil.which(name, path=os.pathsep.join([*folders, os.environ["PATH"], "/usr/sbin"]))
    if path is None:
        raise ServerMissingError(f"{name} is not installed: run `make test`, which installs what tests need.")
    return path


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nothing uses now, and that no other call is given until this process ends.

    Runs of the tests side by side see each other's choice by the UDP port of the same number, which is held:
    so a server that a test has stopped finds its port free when it comes back.
    """
    for port in random.sample(PORTS, min(len(PORTS), 200)):
        sign, probe = socket.socket(type=socket.SOCK_DGRAM), socket.socket()
        with contextlib.suppress(OSError), sign, probe:
            sign.bind(("127.0.0.1", port))
            probe.bind(("127.0.0.1", port))
            sign.detach()  # open as long as this process
            return port
    raise ServerStartError("No free port found.")


def dying_with_parent(command: list[str]) -> list[str]:
    """The command, wrapped so that the kernel kills it when the thread that starts it is gone."""
    # Not a preexec_fn: forking Python code is refused (with a warning) once threads run.
    wrapper = shutil.which("setpriv")
    return [wrapper, "--pdeathsig", "KILL", "--", *command] if wrapper else command


class Server(ABC):
    """One server process that a test may stop, kill, freeze and start again on the same data."""

    start_seconds: ClassVar[float] = START_SECONDS

    def __init__(self) -> None:
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="twintrack-test-"))
        self.process: subprocess.Popen[bytes] | None = None
        self._prepared = False

    @abstractmethod
    def command(self) -> list[str]:
        """The command line of the server."""

    @abstractmethod
    def answers(self) -> bool:
        """True when a client gets a reply."""

    def prepare(self) -> None:  # noqa: B027  # most servers need none
        """Create the data folder, once."""

    @property
    def user(self) -> str | None:
        """The user to run as; None keeps the user of the tests."""
        return None

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        assert self.process is not None, "the server was not started"
        return self.process.pid

    @property
    def running(self) -> bool:
        """True while the process lives."""
        return self.process is not None and self.process.poll() is None

    def start(self) -> Self:
        """Start on the same port and data as before and wait until it answers."""
        assert not self.running, "the server runs already"
        if not self._prepared:
            self.prepare()
            self._prepared = True
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                dying_with_parent(self.command()),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                user=self.user,
                group=self.user,
                extra_groups=[] if self.user else None,
            )
        wait_until(self._up, deadline_seconds=self.start_seconds, what=f"{self!r} answers; log: {self.log}")
        return self

    def stop(self) -> None:
        """End the server in good order; a frozen one too. Does nothing when it is not running."""
        if self.running:
            self.thaw()
            self._end(self.stop_signal)

    def kill9(self) -> None:
        """Kill the server and all its processes at once, as a power cut would."""
        if self.running:
            self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """Stop the server's clock: it keeps its connections and answers nothing until `thaw`."""
        wait_until(self._stands_still, deadline_seconds=60, what="all of the server's processes to stop")

    def _stands_still(self) -> bool:
        """Stop what still runs: a process may have been born while its parent was being stopped."""
        moving = [process for process in self.processes() if _moves(process)]
        _signal(moving, signal.SIGSTOP)
        return not moving

    def thaw(self) -> None:
        """Let a frozen server go on."""
        _signal(self.processes(), signal.SIGCONT)

    def close(self) -> None:
        """Stop the server and remove its folder."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def processes(self) -> list[psutil.Process]:
        """The server's process and all its children that live."""
        if not self.running:
            return []
        leader = psutil.Process(self.pid)
        return [leader, *filter(alive, leader.children(recursive=True))]

    @property
    def log(self) -> Path:
        """What the server printed."""
        return self.folder / "server.log"

    @property
    def stop_signal(self) -> signal.Signals:
        """The signal that ends the server in good order."""
        return signal.SIGTERM

    def __enter__(self) -> Self:
        try:
            return self if self.running else self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(port={self.port})"

    def _up(self) -> bool:
        if not self.running:
            raise ServerStartError(f"{self!r} did not start:\n{self.log.read_text(errors='replace')[-2000:]}")
        return self.answers()

    def _end(self, how: signal.Signals) -> None:
        assert self.process is not None
        family = self.processes()
        # The parent first: children that die before it would show it a death that a power cut hides.
        _signal(family if how == signal.SIGKILL else family[:1], how)
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._end(signal.SIGKILL)
        wait_until(
            lambda: not any(map(alive, family)),
            deadline_seconds=STOP_SECONDS,
            what=f"all processes of {self!r} are gone",
        )


def alive(process: psutil.Process) -> bool:
    """True when the process runs or is stopped; false for a dead one that nobody has collected yet."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _moves(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_STOPPED)
    except psutil.NoSuchProcess:
        return False


def _signal(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)
