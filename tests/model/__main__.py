"""`make model`: search every configuration, then try every mutant. Exit code 1 if a verdict is wrong.

Arguments name configurations or mutants; without any, all are tried, and `--traces` tells how each mutant is
caught.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from tests.model.configurations import CONFIGURATIONS, MUTANTS, NOT_TAKEN
from tests.model.draft import Edge
from tests.model.search import TABLE, Verdict, name_of, search
from tests.model.state import Scenario

LINE = "{:<44} {:>10,} {:>8.1f}  {}"


def main(arguments: Sequence[str]) -> int:
    names = [one for one in arguments if not one.startswith("-")]
    unknown = [name for name in names if name not in CONFIGURATIONS and name not in MUTANTS]
    if unknown:
        print(f"no such configuration or mutant: {', '.join(unknown)}", file=sys.stderr)
        return 2
    problems = _configurations(names) + _mutants(names, traces="--traces" in arguments or bool(names))
    print("every verdict is as it must be" if problems == 0 else f"{problems} verdicts are wrong")
    return 1 if problems else 0


def _configurations(names: Sequence[str]) -> int:
    chosen = {name: one for name, one in CONFIGURATIONS.items() if not names or name in names}
    problems, states, began = 0, 0, time.process_time()
    edges: set[Edge] = set()
    if chosen:
        print("{:<44} {:>10} {:>8}  {}".format("configuration", "states", "CPU s", "verdict"))
    for name, scenario in chosen.items():
        verdict = _timed(name, scenario, "P1 to P5 hold, nothing stuck")
        problems += bool(verdict.wrong)
        states += verdict.states
        edges |= verdict.edges
        if verdict.wrong:
            _tell(verdict)
    if not names:
        print(LINE.format("together", states, time.process_time() - began, ""))
        problems += _untaken(edges)
    return problems


def _untaken(edges: set[Edge]) -> int:
    """Edges of the product's table that nothing here has taken, beyond those that have a reason."""
    left = {edge for edge in TABLE - edges if edge[:3] not in NOT_TAKEN}
    for edge in sorted(left):
        print(f"no configuration takes: {name_of(edge)}")
    return len(left)


def _mutants(names: Sequence[str], *, traces: bool) -> int:
    chosen = {name: one for name, one in MUTANTS.items() if not names or name in names}
    problems = 0
    if chosen:
        print("\n{:<44} {:>10} {:>8}  {}".format("mutant", "states", "CPU s", "caught by"))
    for name, mutant in chosen.items():
        verdict = _timed(name, mutant.scenario(), "NOT CAUGHT")
        caught = verdict.wrong.startswith(mutant.caught_by)
        twin = search(mutant.clean())
        if twin.wrong:
            print(f"    its twin without the change is not clean: {twin.wrong}")
        problems += not caught or bool(twin.wrong)
        if traces or not caught:
            _tell(verdict)
    return problems


def _timed(name: str, scenario: Scenario, clean: str) -> Verdict:
    began = time.process_time()
    verdict = search(scenario)
    print(LINE.format(name, verdict.states, time.process_time() - began, verdict.wrong or clean), flush=True)
    return verdict


def _tell(verdict: Verdict) -> None:
    for number, step in enumerate(verdict.trace, 1):
        print(f"    {number:>3}. {step}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
