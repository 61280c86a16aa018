"""What the three commands that hold tables against rules share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from app.system import System
from app.transfer.integrity import Broken, Rule, broken_rules
from scripts.migration.commands import GOOD, PROBLEM, running_system, say

NAMED = 10


def check(rules_of: Callable[[System], Sequence[Rule]], *, as_json: bool) -> None:
    """Hold the tables against the rules, tell, and exit: 0 all hold, 1 one is broken."""
    with running_system() as system:
        rules = rules_of(system)
        broken = broken_rules(system.store.database, rules)
    value = {
        "rules": [rule.name for rule in rules],
        "broken": [
            {"rule": found.rule.name, "meaning": found.rule.meaning, "keys": found.keys, "more": found.more}
            for found in broken
        ],
    }
    lines = [f"{len(rules)} rules, {len(broken)} broken", *map(_line, broken)]
    say(value, "\n".join(lines), as_json=as_json)
    sys.exit(PROBLEM if broken else GOOD)


def _line(found: Broken) -> str:
    keys = ", ".join(found.keys[:NAMED])
    others = " and more" if found.more or len(found.keys) > NAMED else ""
    return f"{found.rule.name}: it does not hold that {found.rule.meaning}: {keys}{others}"
