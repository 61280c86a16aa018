"""Hold tasks against the limits of their users. Exit 1: a rule is broken by the users or tasks named."""

from __future__ import annotations

import click

from app.system import System
from app.transfer.integrity import Rule, user_rules
from scripts.migration.checking import check
from scripts.migration.commands import json_option


@click.command(help=__doc__)
@json_option
def main(as_json: bool) -> None:
    check(rules, as_json=as_json)


def rules(system: System) -> list[Rule]:
    config = system.config
    return user_rules(active_limit=config.MAX_ACTIVE_TASKS_PER_USER, concurrency=config.RQ_USER_CONCURRENCY)


if __name__ == "__main__":
    main()
