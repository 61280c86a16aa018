"""Hold every task against what a task must be by itself. Exit 1: a rule is broken by the tasks named."""

from __future__ import annotations

import click

from app.transfer.integrity import task_rules
from scripts.migration.checking import check
from scripts.migration.commands import json_option


@click.command(help=__doc__)
@json_option
def main(as_json: bool) -> None:
    check(lambda system: task_rules(system.handlers), as_json=as_json)


if __name__ == "__main__":
    main()
