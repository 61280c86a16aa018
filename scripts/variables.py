"""Settings of flows: store them for every host, list them, and say where a value comes from.

Exit 0: done. 1: there is no such variable. 2: a wrong name or value, or the database cannot be reached.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict

import click

from app.distributed.flow_settings import KEYS, ConfigManager, read_value
from app.distributed.variables import StoredVariables, WrongVariable
from app.tasks.database import Database
from app.tasks.errors import TaskError
from app.tasks.migrate import migrate
from config import Config, ConfigError

GOOD, NOT_THERE, CANNOT_RUN = 0, 1, 2
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@contextmanager
def opened() -> Iterator[tuple[Config, Database]]:
    """The settings and their database, with its tables; problems end the command with a sentence."""
    try:
        config = Config()
        database = Database(config.DATABASE_URL, pool_size=1)
        config.VAR_DIR.mkdir(mode=0o700, parents=True, exist_ok=True)
        migrate(database)
        yield config, database
    except (ConfigError, TaskError, WrongVariable, ValueError) as error:
        click.echo(str(error), err=True)
        sys.exit(CANNOT_RUN)


@click.group(help=__doc__)
def main() -> None:
    """See the module."""


@main.command("set")
@click.argument("name")
@click.argument("value")
def store(name: str, value: str) -> None:
    """Store a variable: staging.survey.max_retries 5"""
    with opened() as (_, database):
        read_value(name.rpartition(".")[2], value, name=name)
        StoredVariables(database).set(name, value)
        click.echo(f"{name} is {value} now, for every process that asks for it from here on.")


@main.command("unset")
@click.argument("name")
def forget(name: str) -> None:
    """Remove a stored variable."""
    with opened() as (_, database):
        if not StoredVariables(database).remove(name):
            click.echo(
                f"There is no variable {name}. `python scripts/variables.py list` names them.", err=True
            )
            sys.exit(NOT_THERE)
        click.echo(f"{name} is removed.")


@main.command("list")
@as_json
def list_all(as_json: bool) -> None:
    """All stored variables."""
    with opened() as (_, database):
        found = StoredVariables(database).all()
    if as_json:
        click.echo(json.dumps(found, indent=2))
    elif not found:
        click.echo("No variable is stored. For example: python scripts/variables.py set global.max_retries 5")
    else:
        click.echo("\n".join(f"{name:<60} {value}" for name, value in found.items()))


@main.command()
@click.argument("flow")
@click.argument("keys", nargs=-1)
@as_json
def trace(flow: str, keys: tuple[str, ...], as_json: bool) -> None:
    """Where a flow's values come from: every place that was looked at, the first with a value wins."""
    with opened() as (config, database):
        manager = ConfigManager(flow, config=config, database=database)
        steps = {key: manager.trace(key) for key in keys or KEYS}
        values = {key: manager.get_variable(key) for key in steps}
    if as_json:
        shown = {key: {"value": values[key], "places": [asdict(p) for p in steps[key]]} for key in steps}
        click.echo(json.dumps(shown, indent=2))
        return
    for key, places in steps.items():
        winner = next((place for place in places if place.text is not None), None)
        meaning = f"   ({KEYS[key].meaning})" if key in KEYS else ""
        click.echo(f"{key} = {values[key]}{meaning}")
        for place in places:
            mark = ">" if place is winner else " "
            click.echo(
                f"  {mark} {place.name:<56} {place.origin:<12} {'' if place.text is None else place.text}"
            )


if __name__ == "__main__":
    main()
