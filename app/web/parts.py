"""What the web part keeps on the Flask app, with types: the one place that knows the names of the slots."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, cast

from flask import Flask, current_app

if TYPE_CHECKING:
    from app.system import System
    from app.tasks.queue import TaskQueue
    from app.tasks.store import Store

SYSTEM = "twintrack"
CLOSING = "stopping"
CLOCK = "twintrack.clock"
LAUNCHER = "twintrack.launcher"


def install(app: Flask, system: System, clock: Callable[[], datetime]) -> None:
    """Fill the slots. An entrance sets `app.extensions["stopping"]` when the process shuts down."""
    app.extensions[SYSTEM] = system
    app.extensions[CLOSING] = threading.Event()
    app.extensions[CLOCK] = clock


def system() -> System:
    return cast("System", current_app.extensions[SYSTEM])


def queue() -> TaskQueue:
    return system().queue


def store() -> Store:
    return system().store


def closing() -> threading.Event:
    return cast("threading.Event", current_app.extensions[CLOSING])


def launcher() -> Callable[[str], None] | None:
    """What starts a migration's process for a verb, `resume` or `rollback`; None: the entrance gave none."""
    return cast("Callable[[str], None] | None", current_app.extensions.get(LAUNCHER))


def now() -> datetime:
    """The clock by which a pause of intake ends, aware UTC."""
    return cast("Callable[[], datetime]", current_app.extensions[CLOCK])()
