"""Measure submission on the running system, with test tasks that are removed again: 50 one after the other in
less than 0.1 s each on average, and of 20 at once at least 18 accepted. Exit 0: so it is. 1: it is not."""

from __future__ import annotations

from dataclasses import asdict

import click

from app.system import System
from app.transfer import performance, trials
from scripts.migration.commands import GOOD, PROBLEM, guarded, json_option, running_system, say


@click.command(help=__doc__)
@click.option("--keep", is_flag=True, help="Leave the test tasks for submit_test_tasks.py --remove.")
@json_option
def main(keep: bool, as_json: bool) -> None:
    with running_system() as system:
        guarded(lambda: measure(system, keep=keep, as_json=as_json))


def measure(system: System, *, keep: bool, as_json: bool) -> int:
    done = performance.validate(system)
    if not keep:
        trials.remove(system)
    lines = [
        f"submission: {done.mean_seconds * 1000:.1f} ms on average of {done.submissions},"
        f" 95 % within {done.p95_seconds * 1000:.1f} ms",
        f"at once: {done.accepted_at_once} of {done.at_once} accepted",
        *done.shortfalls,
    ]
    say(asdict(done) | {"shortfalls": done.shortfalls}, "\n".join(lines), as_json=as_json)
    return GOOD if done.good else PROBLEM


if __name__ == "__main__":
    main()
