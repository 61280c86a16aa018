"""How a command that looks at the task system begins and ends: settings, tables, exit code 2."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from app.logs import configure_logging
from app.system import System, build_system
from app.tasks.errors import TaskError
from config import Config, ConfigError

CANNOT_RUN = 2


@contextmanager
def opened(*, with_tables: bool = True) -> Iterator[System]:
    """The task system over the settings in force; problems end the command with a sentence. Without
    `with_tables` the database is not touched before the block does."""
    configure_logging("error")
    try:
        system = build_system(Config())
        try:
            if with_tables:
                system.prepare_tables()
            yield system
        finally:
            system.close()
    except (ConfigError, TaskError, ValueError) as error:
        click.echo(str(error), err=True)
        sys.exit(CANNOT_RUN)
