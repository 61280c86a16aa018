"""Hold the tables against each other. Exit 1: a rule is broken, by the rows that are named."""

from __future__ import annotations

import click

from app.transfer.integrity import consistency_rules
from scripts.migration.checking import check
from scripts.migration.commands import json_option


@click.command(help=__doc__)
@json_option
def main(as_json: bool) -> None:
    check(lambda _: consistency_rules(), as_json=as_json)


if __name__ == "__main__":
    main()
