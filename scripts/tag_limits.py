"""How many children with a tag may be on their way at a time, on all hosts together: set, lift and list.

Exit 0: done. 2: a wrong tag or number, or the database cannot be reached.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from app.system import build_system
from app.tasks.errors import TaskError
from app.tasks.families import Families
from config import Config, ConfigError

CANNOT_RUN = 2


@contextmanager
def opened() -> Iterator[Families]:
    """The verbs over the configured database; problems end the command with a sentence."""
    try:
        system = build_system(Config())
        try:
            system.prepare_tables()
            yield system.queue.families
        finally:
            system.close()
    except (ConfigError, TaskError, ValueError) as error:
        click.echo(str(error), err=True)
        sys.exit(CANNOT_RUN)


@click.group(help=__doc__)
def main() -> None:
    """See the module."""


@main.command("set")
@click.argument("tag")
@click.argument("at_most", type=click.IntRange(min=0))
def limit(tag: str, at_most: int) -> None:
    """Admit no more than AT_MOST children with TAG at a time: database 3"""
    with opened() as families:
        families.limit(tag, at_most)
        click.echo(f"At most {at_most} children with the tag {tag} are on their way at a time from here on.")


@main.command("unset")
@click.argument("tag")
def lift(tag: str) -> None:
    """Let children with TAG start as they come."""
    with opened() as families:
        families.limit(tag, None)
        click.echo(f"The tag {tag} has no limit.")


@main.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(as_json: bool) -> None:
    """The tags that have a limit."""
    with opened() as families:
        limits = families.limits()
    if as_json:
        click.echo(json.dumps(limits))
        return
    for tag, at_most in limits.items():
        click.echo(f"{tag}: {at_most}")


if __name__ == "__main__":
    main()
