"""The ETL at a terminal: `python -m flows.etl prepare`, `deploy`, `run`, `run --here`.

Exit 0: done. 1: the run failed, or has not ended in time. 2: cannot run.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from app.distributed import ChildrenFailed
from app.distributed.deployments import Deployment, Deployments
from app.distributed.table_copy import table_names
from app.logs import configure_logging
from app.system import System, build_system
from app.tasks.errors import TaskError
from app.tasks.handlers import DoNotRetry
from app.tasks.model import ACTIVE, Status
from config import Config, ConfigError
from flows import etl
from flows.etl.sample import make_sample

FAILED, CANNOT_RUN = 1, 2
LOOK_SECONDS = 0.25
MAIN = "main-etl-job/main-etl-deployment"
DEPLOYMENTS = (
    Deployment(MAIN, "main_etl"),
    Deployment("process-table-etl/process-table-etl-deployment", "process_table_etl", {"table": "shop_01"}),
    Deployment("cleanup-flow-1/cleanup-flow-1-deployment", "cleanup_flow1"),
    Deployment(
        "cleanup-flow-2/cleanup-flow-2-deployment",
        "cleanup_flow2",
        {"run": "by hand", "tables": 0, "rows": 0},
    ),
)
Tell = Callable[[int, int], None]


@click.group(help=__doc__)
def main() -> None:
    """See the module."""
    configure_logging("error")


@main.command()
@click.option("--tables", type=click.IntRange(1, 99), default=20, show_default=True)
def prepare(tables: int) -> None:
    """Make a sample source, unless it has tables."""
    with _sentences(), etl.place_of(Config()) as place:
        if present := table_names(place.source):
            click.echo(f"The source has {len(present)} tables already; they are left as they are.")
            return
        click.echo(f"The source has {len(make_sample(place.source, tables=tables))} tables now.")


@main.command()
def deploy() -> None:
    """Store the deployments, let three tables be copied at a time, and list what is deployed."""
    with _sentences(), _opened() as system:
        _deploy(system)
        for one in Deployments(system).all():
            click.echo(f"{one.name}: {one.task}")


@main.command()
@click.option("--here", is_flag=True, help="In this process, without workers.")
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), default=etl.LIMIT_SECONDS)
@click.option("--pool", help="Let the workers of this pool copy the tables.")
@click.option("--cleanup-pool", help="Let the workers of this pool run the cleanups.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.argument("tables", nargs=-1)
def run(
    here: bool,
    timeout: float,
    pool: str | None,
    cleanup_pool: str | None,
    as_json: bool,
    tables: tuple[str, ...],
) -> None:
    """Copy TABLES, or all of the source, and wait for the end."""
    wanted = etl.Run(tables=list(tables), pool=pool, cleanup_pool=cleanup_pool)
    with _sentences():
        result = _here(tables) if here else _by_workers(wanted, timeout)
    if as_json:
        click.echo(json.dumps(result))
        return
    click.echo(f"{len(result['tables'])} tables with {result['rows']} rows were copied and compared.")


def _here(tables: tuple[str, ...]) -> dict[str, Any]:
    with _progress() as tell:
        return etl.run_here(Config(), tables, progress=tell)


def _by_workers(wanted: etl.Run, timeout: float) -> dict[str, Any]:
    with _opened() as system:
        if MAIN not in [one.name for one in Deployments(system).all()]:
            _deploy(system)
        if not system.workers():
            click.echo("No worker is alive: python -m workers, or make start-workers, starts some.", err=True)
        for pool in filter(None, (wanted.pool, wanted.cleanup_pool)):
            system.store.pools.open(pool)
        parent = Deployments(system).run(MAIN, wanted.model_dump(exclude_none=True))
        with _progress() as tell:
            return _wait(system, parent, time.monotonic() + timeout, tell)


def _wait(system: System, parent: int, deadline: float, tell: Tell) -> dict[str, Any]:
    while True:
        task = system.store.queries.task(parent)
        tally = system.queue.families.tally_of(parent)
        tell(sum(count for status, count in tally.items() if status not in ACTIVE), sum(tally.values()))
        if task.status is Status.COMPLETED:
            result: dict[str, Any] = task.result
            return result
        if task.status not in ACTIVE:
            raise _RunFailed(task.error or f"The run {parent} was {task.status.value.lower()}.")
        if time.monotonic() >= deadline:
            raise _RunFailed(f"The run {parent} has not ended in time, and goes on.")
        time.sleep(LOOK_SECONDS)


class _RunFailed(Exception):
    """The sentence says what became of the run."""


def _deploy(system: System) -> None:
    Deployments(system).put(DEPLOYMENTS)
    if etl.TAG not in system.queue.families.limits():
        system.queue.families.limit(etl.TAG, etl.TABLES_AT_A_TIME)


@contextmanager
def _opened() -> Iterator[System]:
    """The task system, whose workers must know the flow, too."""
    config = Config()
    if "flows.etl" not in config.TASK_MODULES:
        modules = ",".join([*config.TASK_MODULES, "flows.etl"])
        raise ConfigError([f"Set TASK_MODULES={modules} here and for the workers."])
    system = build_system(config)
    try:
        system.prepare_tables()
        yield system
    finally:
        system.close()


@contextmanager
def _sentences() -> Iterator[None]:
    """Problems end the command with a sentence."""
    try:
        yield
    except (ChildrenFailed, _RunFailed) as error:
        click.echo(str(error), err=True)
        sys.exit(FAILED)
    except (ConfigError, TaskError, DoNotRetry, OSError, ValueError) as error:
        click.echo(str(error), err=True)
        sys.exit(CANNOT_RUN)


@contextmanager
def _progress() -> Iterator[Tell]:
    columns = (TextColumn("etl"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("etl", total=None)
        yield lambda done, total: progress.update(bar, completed=done, total=total or None)


if __name__ == "__main__":
    main()
