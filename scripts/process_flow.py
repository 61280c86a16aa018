"""Process the records of a flow, by several processes that are started again when they die.

Each process imports MODULE, which declares the flow's business logic with @business_logic. The command ends
when no record waits; with --follow it goes on until Ctrl+C or SIGTERM, which let every process finish the
record that it is at. While the database is away, all wait for it.

Exit 0: no record waits any more, or it was stopped. 1: processes died again and again. 2: cannot run.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import click
import structlog
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from app.distributed import DatabaseManager, DistributedProcessor
from app.distributed.flow_runs import FlowRunner, Tally, logic_for, logic_of
from app.logs import configure_logging
from app.tasks.errors import DatabaseUnavailable, TaskError
from config import Config, ConfigError

ENDED, DIED, CANNOT_RUN = 0, 1, 2
LOOK_SECONDS = 0.5
COUNT_SHARE = 20  # counting a flow's records takes a twentieth of the time at most: it may have millions
IDLE_SECONDS = 1.0
AWAY_SECONDS = 5.0
BACKOFF_SECONDS = (1.0, 30.0)
DEATHS_IN_A_ROW = 6

log = structlog.get_logger(__name__)


@click.command(help=__doc__)
@click.argument("flow")
@click.option(
    "--module", required=True, help="Where the business logic is, for example flows.survey.workflow."
)
@click.option("--processes", type=click.IntRange(1, 64), default=3, show_default=True)
@click.option("--batch-size", type=click.IntRange(1, 10_000), help="Default: as the flow is set to.")
@click.option("--follow", is_flag=True, help="Go on waiting for records.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@click.option("--bound-to", type=int, hidden=True, help="Be one of the processes of this parent.")
def main(
    flow: str,
    module: str,
    processes: int,
    batch_size: int | None,
    follow: bool,
    as_json: bool,
    bound_to: int | None,
) -> None:
    configure_logging("error")
    try:
        importlib.import_module(module)
        with DistributedProcessor(DatabaseManager(Config())) as processor:
            logic_for(processor, flow)
            if bound_to is not None:
                _process(processor, flow, batch_size, follow=follow, parent=bound_to)
                return
            arguments = [flow, "--module", module, *(["--follow"] if follow else [])]
            arguments += ["--batch-size", str(batch_size)] if batch_size is not None else []
            crew = Crew(arguments, processes)
            _watch(crew, processor, flow, as_json=as_json)
    except ImportError as error:
        _stop(f"{module} cannot be imported: {error}")
    except (ConfigError, ValueError, TaskError) as error:
        _stop(str(error))
    sys.exit(ENDED if crew.deaths_in_a_row < DEATHS_IN_A_ROW else DIED)


def _stop(sentence: str) -> NoReturn:
    click.echo(sentence, err=True)
    sys.exit(CANNOT_RUN)


# --- one process ------------------------------------------------------------------------------------------


def _process(
    processor: DistributedProcessor, flow: str, batch_size: int | None, *, follow: bool, parent: int
) -> None:
    """Work off batches until there are none, or until a signal, or until the parent is gone."""
    stopping = False

    def stop(*_: object) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)

    def stopped() -> bool:
        return stopping or os.getppid() != parent

    runner = FlowRunner(processor, flow, logic_of(flow), stopped=stopped)
    while not stopped():
        tally = Tally()
        with suppress(DatabaseUnavailable):  # it comes back, and its clients need no new processes
            size = batch_size or int(processor.settings_of(flow).get_variable("distributed_batch_size"))
            runner.work_off(size, tally)
            if not follow and not processor.has_open_records(flow):
                return
        time.sleep(IDLE_SECONDS / 4 if tally.claimed else IDLE_SECONDS)


# --- the parent -------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Place:
    """One of the processes, and when it may be started again."""

    process: subprocess.Popen[bytes] | None = None
    start_at: float = 0.0
    done: bool = False


@dataclass(slots=True)
class Crew:
    """The processes of this command; who dies is started again, later each time."""

    arguments: list[str]
    count: int
    restarts: int = 0
    deaths_in_a_row: int = 0
    places: list[_Place] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.places = [_Place() for _ in range(self.count)]

    @property
    def has_dead(self) -> bool:
        """True if some process has ended since the last look."""
        return any(place.process is not None and place.process.poll() is not None for place in self.places)

    @property
    def is_over(self) -> bool:
        return self.deaths_in_a_row >= DEATHS_IN_A_ROW or all(place.done for place in self.places)

    def look(self, *, moved: bool) -> None:
        """Start who is to be started. `moved`: records have ended since a process died."""
        if moved:
            self.deaths_in_a_row = 0
        for place in self.places:
            if place.process is not None and place.process.poll() is not None:
                self._ended(place, place.process.returncode)
            if place.process is None and not place.done and time.monotonic() >= place.start_at:
                command = [sys.executable, str(Path(__file__).resolve()), *self.arguments]
                place.process = subprocess.Popen([*command, "--bound-to", str(os.getpid())])

    def _ended(self, place: _Place, code: int) -> None:
        place.process = None
        if code == 0:
            place.done = True
            return
        self.restarts += 1
        self.deaths_in_a_row += 1
        shortest, longest = BACKOFF_SECONDS
        place.start_at = time.monotonic() + min(longest, shortest * 2 ** (self.deaths_in_a_row - 1))

    def stop(self) -> None:
        """Let every process finish its record, and wait for that."""
        running = [place.process for place in self.places if place.process is not None]
        for process in running:
            process.terminate()
        for process in running:
            process.wait()


class Figures:
    """How the flow's records stand, from now and then."""

    def __init__(
        self, count: Callable[[], dict[str, Any]], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._count = count
        self._clock = clock
        self._next = 0.0
        self.status: dict[str, Any] = {}
        self.look(at_once=True)

    @property
    def ended(self) -> int:
        return int(self.status["completed_records"]) + int(self.status["failed_records"])

    def look(self, *, at_once: bool = False) -> bool:
        """Count again, if that is not too soon or is to be `at_once`. True: records have ended since. Raises
        `DatabaseUnavailable` the first time; later the old figures stay until it is back."""
        began = self._clock()
        if not at_once and began < self._next:
            return False
        before = self.ended if self.status else 0
        try:
            self.status = self._count()
        except DatabaseUnavailable as error:
            if not self.status:
                raise
            log.error("flow.waits_for_database", reason=str(error))
            self._next = self._clock() + AWAY_SECONDS
            return False
        self._next = began + COUNT_SHARE * (self._clock() - began)
        return self.ended > before


def _watch(crew: Crew, processor: DistributedProcessor, flow: str, *, as_json: bool) -> None:
    began, figures = time.monotonic(), Figures(lambda: processor.get_queue_status(flow))
    before = figures.ended
    stopping = False

    def stop(*_: object) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    columns = (TextColumn(flow), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task(flow, total=None)
        while not stopping and not crew.is_over:
            crew.look(moved=figures.look(at_once=crew.has_dead))
            progress.update(bar, completed=figures.ended, total=figures.status["total_records"])
            time.sleep(LOOK_SECONDS)
        crew.stop()
        figures.look(at_once=True)
        progress.update(bar, completed=figures.ended, total=figures.status["total_records"])
    seconds = time.monotonic() - began
    _tell(
        figures.status | {"seconds": round(seconds, 2), "restarts": crew.restarts},
        figures.ended - before,
        as_json,
    )


def _tell(status: dict[str, Any], ended: int, as_json: bool) -> None:
    rate = round(ended / max(status["seconds"], 0.01))
    if as_json:
        click.echo(json.dumps(status | {"ended": ended, "records_per_second": rate}))
        return
    click.echo(
        f"{ended} records ended in {status['seconds']} s ({rate} per second);"
        f" completed {status['completed_records']}, failed {status['failed_records']},"
        f" left {status['pending_records'] + status['processing_records']};"
        f" {status['restarts']} processes started again."
    )


if __name__ == "__main__":
    main()
