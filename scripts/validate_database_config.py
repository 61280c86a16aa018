"""Try the settings and every named database: can they be read, reached, and are the tables up to date?

Exit 0: all good. 1: a database cannot be reached, or its tables are behind. 2: the settings cannot be used.
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import click

from app.distributed.databases import QUEUE_DATABASE, DatabaseManager
from app.tasks.errors import TaskError
from config import Config, ConfigError

GOOD, PROBLEM, CANNOT_RUN = 0, 1, 2


@click.command(help=__doc__)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.argument("names", nargs=-1)
def main(names: tuple[str, ...], as_json: bool) -> None:
    try:
        config = Config()
        found = [_checked(config, name) for name in names or [QUEUE_DATABASE, *_named(config)]]
    except (ConfigError, ValueError) as error:
        click.echo(str(error), err=True)
        sys.exit(CANNOT_RUN)
    good = all(not checked["problem"] for checked in found)
    click.echo(json.dumps(found, indent=2) if as_json else "\n".join(map(_line, found)))
    sys.exit(GOOD if good else PROBLEM)


def _named(config: Config) -> list[str]:
    """The databases that variables name, in this tier or for all."""
    words = [
        re.sub(rf"^{config.APP_ENV.upper()}_GLOBAL_", "", name).removesuffix("_CONNECTION_STRING")
        for name in config.variables()
        if name.endswith("_CONNECTION_STRING") and not re.match(_other_tiers(config), name)
    ]
    return sorted({word.lower() for word in words} - {QUEUE_DATABASE})


def _other_tiers(config: Config) -> str:
    tiers = {"DEVELOPMENT", "STAGING", "PRODUCTION"} - {config.APP_ENV.upper()}
    return rf"({'|'.join(sorted(tiers))})_GLOBAL_"


def _checked(config: Config, name: str) -> dict[str, Any]:
    manager = DatabaseManager(name, config=config)
    try:
        said = manager.health_check(retry=False) | {"problem": "", "fix": ""}
        if not said["connection"]:
            said["problem"] = f"cannot be reached ({said['error']})"
            said["fix"] = "start the server, or correct the address, name or password"
        elif name == QUEUE_DATABASE:
            said |= _tables(manager)
        return said
    finally:
        manager.close()


def _tables(manager: DatabaseManager) -> dict[str, Any]:
    try:
        status = manager.get_migration_status()
    except TaskError as error:
        return {"problem": str(error), "fix": "let the account read the tables"}
    missing = status["pending_migrations"]
    if not missing:
        return {"current_version": status["current_version"]}
    return {
        "current_version": status["current_version"],
        "problem": f"its tables are behind by {len(missing)}: {', '.join(missing)}",
        "fix": "python -m workers check",
    }


def _line(checked: dict[str, Any]) -> str:
    if checked["problem"]:
        return f"FAIL   {checked['database']}: {checked['problem']}\n       fix: {checked['fix']}"
    return f"PASS   {checked['database']}: answered in {checked['response_time_ms']} ms"


if __name__ == "__main__":
    main()
