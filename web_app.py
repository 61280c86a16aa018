"""The web entrance: `python web_app.py` serves pages and API, with workers beside it if the settings say so.

One process tree: this process owns the embedded Redis, the worker pool and the web workers, and takes
them all with it when it ends, by whatever signal.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import click
import structlog
from flask import Flask
from gunicorn.app.base import BaseApplication

from app import create_app
from app.embedded_redis import EmbeddedRedis, EmbeddedRedisError
from app.logs import configure_logging
from app.system import build_system
from app.tasks.errors import TaskError
from app.web.parts import LAUNCHER
from app.welcome import add_samples, welcome
from config import Config, ConfigError

PORT_WAIT_SECONDS = 15.0
THREADS = 32
GRACE_SECONDS = 10
EXIT_CANNOT_RUN = 2

log = structlog.get_logger(__name__)


class CannotStart(Exception):
    """One sentence for the person at the terminal."""


class WebServer(BaseApplication):  # type: ignore[misc]
    """gunicorn with threads, in this process: no configuration file, no command line of its own."""

    def __init__(self, config: Config, listener: socket.socket, pool: WorkerPool | None) -> None:
        self._config = config
        self._listener = listener
        self._pool = pool
        super().__init__()

    def load_config(self) -> None:
        settings: dict[str, Any] = {
            "bind": f"fd://{self._listener.fileno()}",
            "worker_class": "gthread",
            "workers": 1,
            "threads": THREADS,
            "timeout": 60,
            "graceful_timeout": GRACE_SECONDS,
            "loglevel": "warning",
            "proc_name": "twintrack",
            "when_ready": self._when_ready,
            "worker_int": _end_streams,
            "on_exit": self._on_exit,
            "post_fork": _post_fork,
            "control_socket_disable": True,
        }
        for name, value in settings.items():
            if name in self.cfg.settings:
                self.cfg.set(name, value)

    def load(self) -> Flask:
        app = create_app(self._config)
        app.extensions[LAUNCHER] = MigrationLauncher(self._config)
        # what is loaded stays: walking over it again and again took a quarter of a large batch's time
        gc.collect()
        gc.freeze()
        return app

    def _when_ready(self, _server: object) -> None:
        if self._pool is not None:
            self._pool.start()
        welcome(self._config)

    def _on_exit(self, _server: object) -> None:
        if self._pool is not None:
            self._pool.stop()


class WorkerPool:
    """The pool as a child process in a session of its own: Ctrl+C reaches it through us, in order."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "workers", "--bound-to", str(os.getpid())]
        folder = os.path.dirname(os.path.abspath(__file__))
        self._process = subprocess.Popen(command, cwd=folder, start_new_session=True)

    def stop(self) -> None:
        """Let running tasks finish within the shutdown time, then end the pool."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            process.wait(self._config.RQ_SHUTDOWN_TIMEOUT + 5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class MigrationLauncher:
    """Starts the command that runs a migration, as a process that outlives us; its log is in VAR_DIR."""

    def __init__(self, config: Config) -> None:
        self._config = config

    def __call__(self, verb: str) -> None:
        folder = Path(__file__).resolve().parent
        command = [sys.executable, "-m", "scripts.migration.run_migration", f"--{verb}"]
        with (self._config.VAR_DIR / "migration.log").open("ab") as said:
            process = subprocess.Popen(
                command,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        log.info("migration.started", verb=verb, pid=process.pid)
        threading.Thread(target=process.wait, name="migration-end", daemon=True).start()  # leaves no zombie


def _end_streams(worker: Any) -> None:
    """Tell open event streams that the process is leaving, so that they do not hold it up."""
    stopping = getattr(worker.wsgi, "extensions", {}).get("stopping")
    if stopping is not None:
        stopping.set()


def _post_fork(_server: object, worker: Any) -> None:
    """The web worker dies with its arbiter, even by kill -9."""
    from workers.dying import die_with_parent

    die_with_parent(worker.ppid)
    ended = worker.handle_exit

    def leave(number: int, frame: Any) -> None:
        _end_streams(worker)
        ended(number, frame)

    worker.handle_exit = leave


def listen(config: Config) -> socket.socket:
    """A listening socket, waiting for a port that its last owner is just giving up.

    Raises `CannotStart`.
    """
    deadline = time.monotonic() + PORT_WAIT_SECONDS
    told = False
    while True:
        listener = socket.socket(socket.AF_INET6 if ":" in config.HOST else socket.AF_INET)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((config.HOST, config.PORT))
            listener.listen(512)
        except OSError as error:
            listener.close()
            if error.errno not in (98, 48):
                raise CannotStart(
                    f"Cannot listen on {config.HOST}:{config.PORT}: {error.strerror}."
                ) from None
            if time.monotonic() >= deadline:
                raise CannotStart(
                    f"Port {config.PORT} is taken by another program: stop it, or choose another with"
                    f" PORT={config.PORT + 1}."
                ) from None
            if not told:
                told = True
                click.echo(f"Port {config.PORT} is taken; waiting up to {PORT_WAIT_SECONDS:.0f} s for it.")
            time.sleep(0.25)
        else:
            return listener


def serve(config: Config) -> None:
    """Run until a signal ends it. Raises `CannotStart`."""
    listener = listen(config)
    redis_server = _start_redis(config)
    try:
        _prepare(config)
        integrated = config.RQ_WORKER_MODE in ("integrated", "hybrid")
        WebServer(config, listener, WorkerPool(config) if integrated else None).run()
    finally:
        if redis_server is not None:
            redis_server.stop()


def _start_redis(config: Config) -> EmbeddedRedis | None:
    if not (config.embedded_redis and config.RQ_ENABLED):
        return None
    server = EmbeddedRedis(config)
    try:
        server.ensure()
    except EmbeddedRedisError as error:
        raise CannotStart(str(error)) from None
    return server


def _prepare(config: Config) -> None:
    """Tables, mode settings and samples; leaves no connection open, since web workers are forked."""
    system = build_system(config)
    try:
        system.prepare()
        if config.APP_ENV == "development":
            add_samples(system)
    except TaskError as error:
        raise CannotStart(f"The database cannot be prepared: {error}") from None
    finally:
        system.close()


@click.command(help=__doc__)
@click.option("--host", help="Address to listen on (HOST).")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on (PORT).")
def main(host: str | None, port: int | None) -> None:
    overrides = {name: value for name, value in (("HOST", host), ("PORT", port)) if value is not None}
    try:
        config = Config(**overrides)
        configure_logging(config.LOG_LEVEL, json=config.LOG_JSON)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        serve(config)
    except (ConfigError, CannotStart, ValueError) as error:
        click.echo(str(error), err=True)
        sys.exit(EXIT_CANNOT_RUN)


if __name__ == "__main__":
    main()
