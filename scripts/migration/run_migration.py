"""Run a whole migration to Redis, phase by phase: prepare, hybrid, migrate, redis only, validate, clean up.
Each phase has gates; the first that does not open stops the run and says what to do next. Without --confirm
it shows the plan and its hash, and changes nothing.

Exit 0: done. 1: a gate did not open, or it was interrupted; --resume goes on. 2: it could not run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import click

from app.system import System
from app.tasks.model import PRIORITIES, Priority
from app.transfer import history
from app.transfer.errors import NotPossible
from app.transfer.mover import Moving
from app.transfer.plans import Limits
from app.transfer.procedure import verbs
from app.transfer.procedure.gates import Outcome
from app.transfer.procedure.phases import ACCEPTABLE, checklist
from app.transfer.procedure.plan import CANARIES, Choices, Phase, make_procedure_plan
from app.transfer.procedure.records import Procedure, ProcedureRecords, State
from app.transfer.procedure.runner import GateClosed, Listener, Runner
from scripts.migration.commands import GOOD, PROBLEM, guarded, json_option, running_system, say
from scripts.migration.moving import Show
from scripts.migration.procedure_report import plan_text, procedure_json, procedure_text

VERBS = ("plan", "status", "resume", "pause", "abort", "rollback")


@dataclass(frozen=True, slots=True)
class Asked:
    """One call: the verb, and what belongs to it."""

    verb: str | None
    confirm: str | None
    choices: Choices
    priorities: tuple[str, ...]
    planned: bool
    drain_seconds: float
    as_json: bool


@click.command(help=__doc__)
@click.option("--plan", "verb", flag_value="plan", help="Show the plan and its hash.")
@click.option("--confirm", metavar="HASH", help="Run the plan that has this hash.")
@click.option("--status", "verb", flag_value="status", help="Show the last procedure and its checklist.")
@click.option("--resume", "verb", flag_value="resume", help="Go on where it was cut short, or after a pause.")
@click.option("--pause", "verb", flag_value="pause", help="Let the one that runs wait.")
@click.option("--abort", "verb", flag_value="abort", help="End it where it is.")
@click.option("--rollback", "verb", flag_value="rollback", help="Bring everything back to the database.")
@click.option("--planned", is_flag=True, help="Rollback: first hold new tasks and let the waiting ones end.")
@click.option("--drain-seconds", type=click.FloatRange(min=0), default=600.0, show_default=True)
@click.option(
    "--priority",
    "priorities",
    multiple=True,
    type=click.Choice([p.value for p in PRIORITIES]),
    help="Rollback: only of these.",
)
@click.option("--hybrid-percent", type=click.IntRange(0, 99), help="Share of the Redis track meanwhile.")
@click.option("--hybrid-seconds", type=click.FloatRange(min=0), default=60.0, show_default=True)
@click.option("--trial-seconds", type=click.FloatRange(min=0), default=60.0, show_default=True)
@click.option("--hold", is_flag=True, help="Hold new tasks while rows move.")
@click.option("--running-seconds", type=click.FloatRange(min=0), default=60.0, show_default=True)
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), help="Most rows a second.")
@click.option("--batch-size", type=click.IntRange(1, 100_000), default=Limits().batch_rows, show_default=True)
@click.option(
    "--patience",
    type=click.FloatRange(min=1),
    default=90.0,
    show_default=True,
    help="Seconds that a verification looks at what is suspect.",
)
@click.option(
    "--canary", "canaries", type=click.IntRange(1), multiple=True, default=CANARIES, show_default=True
)
@click.option(
    "--accept",
    "accepted",
    multiple=True,
    type=click.Choice(sorted(ACCEPTABLE)),
    help="Let this gate pass though it does not hold; also with --resume.",
)
@click.option("--stop-pid-file", "pid_files", multiple=True, type=click.Path(), help="Old workers to stop.")
@click.option("--source", type=click.Path(), help="A mapping file of another task table.")
@click.option("--alter", is_flag=True, help="Import: add the word for moved rows to the table's status.")
@click.option("--install-guard", is_flag=True, help="Import: install the trigger against late old workers.")
@click.option("--old-workers-stopped", is_flag=True, help="Import: none lives, no trigger is needed.")
@click.option("--history", "page", type=click.Path(), default=str(history.DEFAULT), show_default=True)
@json_option
def main(
    verb: str | None,
    confirm: str | None,
    priorities: tuple[str, ...],
    planned: bool,
    drain_seconds: float,
    as_json: bool,
    **choices: Any,
) -> None:
    if verb is not None and confirm is not None:
        raise click.UsageError(f"--confirm begins a migration; --{verb} does not")
    asked = Asked(verb, confirm, _choices(**choices), priorities, planned, drain_seconds, as_json)
    with running_system() as system:
        guarded(lambda: obey(system, asked))


def _choices(*, rate: float | None, batch_size: int, patience: float, page: str, **same: Any) -> Choices:
    return Choices(
        rows_per_second=rate, batch_rows=batch_size, patience_seconds=patience, history=page, **same
    )


def obey(system: System, asked: Asked) -> int:
    """Do what was asked for; returns the exit code."""
    if asked.verb == "status":
        return tell(_last(system), asked)
    if asked.verb == "pause":
        return tell(verbs.pause(system), asked, good=True)
    if asked.verb == "abort":
        return tell(verbs.abort(system, reason="aborted by an operator"), asked, good=True)
    if asked.verb in ("resume", "rollback"):
        return go_on(system, asked)
    plan = make_procedure_plan(system, asked.choices)
    if asked.confirm is None:
        say(plan.to_json() | {"hash": plan.hash}, plan_text(plan), as_json=asked.as_json)
        return GOOD
    with Shown(asked) as listener:
        return run(verbs.begin(system, plan, confirmed=asked.confirm, listener=listener), asked)


def go_on(system: System, asked: Asked) -> int:
    with Shown(asked) as listener:
        if asked.verb == "resume":
            runner = verbs.resume(system, accepted=asked.choices.accepted, listener=listener)
            return tell(_last(system), asked, good=True) if runner is None else run(runner, asked)
        runner = verbs.roll_back(
            system,
            priorities=[Priority(word) for word in asked.priorities],
            planned=asked.planned,
            drain_seconds=asked.drain_seconds,
            listener=listener,
        )
        return run(runner, asked)


def run(runner: Runner, asked: Asked) -> int:
    """Walk to the end, or to the gate that does not open."""
    try:
        done = runner.run()
    except GateClosed as error:
        closed = {"phase": error.phase.value, "gate": error.gate, "said": error.outcome.said}
        value = {"procedure": runner.procedure_id, "stopped": closed | {"fix": error.outcome.fix}}
        say(value, f"Stopped: {error}\nNext: {error.outcome.fix}", as_json=asked.as_json)
        return PROBLEM
    except KeyboardInterrupt as error:
        error.add_note(f"Procedure {runner.procedure_id} can be resumed: --resume")
        raise
    return tell(done, asked)


def tell(procedure: Procedure, asked: Asked, *, good: bool = False) -> int:
    say(procedure_json(procedure), procedure_text(procedure), as_json=asked.as_json)
    lines = checklist(procedure)
    done = procedure.state in (State.COMPLETED, State.ROLLED_BACK, State.RUNNING)
    return GOOD if good or (done and all(line.met is not False for line in lines)) else PROBLEM


def _last(system: System) -> Procedure:
    found = ProcedureRecords(system.store.database).latest()
    if found is None:
        raise NotPossible("there has been no procedure yet: --plan shows what it would do")
    return found


class Shown:
    """What a terminal is told while it runs: a line per gate, and one that moves with the rows."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._show: Show | None = None

    def __enter__(self) -> Listener:
        return Listener(phase=self._phase, gate=self._gate, moving=self._moving)

    def __exit__(self, *_: object) -> None:
        self._clear()

    def _clear(self) -> None:
        if self._show is not None:
            self._show.end()
            self._show = None

    def _phase(self, phase: Phase) -> None:
        if not self._asked.as_json:
            click.echo(f"{phase.value}")

    def _gate(self, _: Phase, gate: str, outcome: Outcome) -> None:
        self._clear()
        if not self._asked.as_json:
            click.echo(f"  {'open  ' if outcome.passed else 'CLOSED'}  {gate:17} {outcome.said}")

    def _moving(self, moving: Moving) -> None:
        if self._show is None:
            self._show = Show("moving", moving.planned)
        self._show(moving)


if __name__ == "__main__":
    main()
