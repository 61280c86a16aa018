"""How every command of a migration begins and ends: settings, exit codes, JSON or text.

Exit 0: all is well. 1: a problem was found. 2: it could not run, or not say everything.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import click

from app.logs import configure_logging
from app.system import System, build_system
from app.tasks.errors import RoutingTaken, TaskError
from app.transfer.archive import ArchiveRefused
from app.transfer.dumps import DumpFailed
from app.transfer.errors import NotPossible, TransferError
from config import Config, ConfigError

GOOD, PROBLEM, CANNOT_RUN = 0, 1, 2

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@contextmanager
def running_system() -> Iterator[System]:
    """The system of the settings in force. What keeps the block from running ends the command with a
    sentence and exit code 2."""
    configure_logging("error")
    try:
        system = build_system(Config())
    except (ConfigError, ValueError) as error:
        stop(str(error))
    try:
        yield system
    except (TaskError, ArchiveRefused, DumpFailed, OSError) as error:
        stop(str(error))
    finally:
        system.close()


def guarded(body: Callable[[], int]) -> None:
    """Run a command's body and exit with what it answers: 1 for a run that did not come to its end, 2 for one
    that could not begin. SIGTERM interrupts it as Ctrl+C does."""
    signal.signal(signal.SIGTERM, _as_interrupt)
    try:
        sys.exit(body())
    except (NotPossible, RoutingTaken) as error:
        stop(str(error))
    except TransferError as error:
        click.echo(_told(f"Not complete: {error}", error), err=True)
        sys.exit(PROBLEM)
    except TaskError as error:
        stop(_told(f"Not complete: {error}", error))
    except KeyboardInterrupt as error:
        click.echo(_told("Stopped", error), err=True)
        sys.exit(PROBLEM)


def _as_interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _told(sentence: str, error: BaseException) -> str:
    """With what whoever was interrupted has noted about the way on."""
    return ". ".join([sentence, *getattr(error, "__notes__", ())])


def stop(sentence: str) -> NoReturn:
    """End the command: it cannot run."""
    click.echo(sentence, err=True)
    sys.exit(CANNOT_RUN)


def say(value: Any, text: str, *, as_json: bool) -> None:
    """Print the outcome in the wanted form."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False) if as_json else text.rstrip("\n"))


def stamp() -> str:
    """A folder's name that sorts by time."""
    return datetime.now(UTC).strftime("%Y%m%d-%H%M%S")


def baselines(system: System) -> Path:
    return system.config.VAR_DIR / "baselines"


def backups(system: System) -> Path:
    return system.config.VAR_DIR / "backups"
