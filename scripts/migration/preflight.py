"""Say whether a move can begin: servers, settings, clocks, room, workers. Each problem names its fix.

Exit 0: yes (warnings included). 1: a check failed. 2: something could not be read.
"""

from __future__ import annotations

import sys
from dataclasses import asdict

import click

from app.transfer.preflight import Check, Grade, exit_code, preflight
from scripts.migration.commands import json_option, running_system, say


@click.command(help=__doc__)
@json_option
def main(as_json: bool) -> None:
    with running_system() as system:
        checks = preflight(system)
    code = exit_code(checks)
    value = {"exit_code": code, "checks": [asdict(check) for check in checks]}
    say(value, "\n".join(map(line, checks)), as_json=as_json)
    sys.exit(code)


def line(check: Check) -> str:
    shown = f"{check.grade.value:6} {check.name}: {check.said}"
    return shown if check.grade is Grade.PASS else f"{shown}\n       fix: {check.fix}"


if __name__ == "__main__":
    main()
