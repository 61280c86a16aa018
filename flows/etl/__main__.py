"""The ETL at a terminal: `python -m flows.etl prepare`, `deploy`, `run`, `run --here`.

Exit 0: done. 1: the run failed, or has not ended in time. 2: cannot run.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from app.distributed import ChildrenFailed
from app.distributed.deployments import Deployments
from app.distributed.table_copy import table_names
from app.logs import configure_logging
from app.system import System, build_system
from app.tasks.errors import TaskError
from app.tasks.handlers import DoNotRetry
from app.tasks.model import ACTIVE, Status
from config import ROOT, Config, ConfigError
from flows import etl
from flows.etl.deployed import DEPLOYMENTS, MAIN, RunFailed
from flows.etl.sample import make_sample

FAILED, CANNOT_RUN = 1, 2
LOOK_SECONDS = 0.25
PREFECT_VENV = ROOT / ".venv-prefect"
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
    with _sentences():
        config = Config()
        if _chosen(config):
            _deploy_on_prefect(config)
            return
        with _opened(config) as system:
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
        config = Config()
        if here:
            result = _here(config, tables)
        elif _chosen(config):
            result = _by_prefect(config, wanted, timeout)
        else:
            result = _by_workers(config, wanted, timeout)
    if as_json:
        click.echo(json.dumps(result))
        return
    click.echo(f"{len(result['tables'])} tables with {result['rows']} rows were copied and compared.")


def _here(config: Config, tables: tuple[str, ...]) -> dict[str, Any]:
    with _progress() as tell:
        return etl.run_here(config, tables, progress=tell)


def _by_workers(config: Config, wanted: etl.Run, timeout: float) -> dict[str, Any]:
    with _opened(config) as system:
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
            raise RunFailed(task.error or f"The run {parent} was {task.status.value.lower()}.")
        if time.monotonic() >= deadline:
            raise RunFailed(f"The run {parent} has not ended in time, and goes on.")
        time.sleep(LOOK_SECONDS)


def _deploy(system: System) -> None:
    Deployments(system).put(DEPLOYMENTS)
    if etl.TAG not in system.queue.families.limits():
        system.queue.families.limit(etl.TAG, etl.TABLES_AT_A_TIME)


# --- Prefect, where the settings name a server ------------------------------------------------------------


def _chosen(config: Config) -> bool:
    """True if Prefect is to run it, which is said; its client may be in the environment that make makes."""
    if config.PREFECT_API_URL is None:
        click.echo("On Twintrack's own workers; with PREFECT_API_URL on Prefect's.", err=True)
        return False
    if find_spec("prefect") is None:
        _go_on_where_prefect_is()
    server, pool = config.shown("PREFECT_API_URL"), config.PREFECT_WORK_POOL
    click.echo(f"On Prefect at {server}, by the workers of its pool {pool}.", err=True)
    return True


def _go_on_where_prefect_is() -> None:
    python = PREFECT_VENV / "bin" / "python"
    if Path(sys.prefix) == PREFECT_VENV or not python.exists():
        wanted = "PREFECT_API_URL is set, and Prefect is not installed: make prefect-setup"
        raise ConfigError([f"{wanted} installs it; without the setting Twintrack's own workers are used."])
    os.execv(python, [str(python), *sys.orig_argv[1:]])


def _deploy_on_prefect(config: Config) -> None:
    from flows.etl import prefect_client

    for name in prefect_client.deploy(config):
        click.echo(f"{name}: work pool {config.PREFECT_WORK_POOL}")
    click.echo(_worker_command(config), err=True)


def _by_prefect(config: Config, wanted: etl.Run, timeout: float) -> dict[str, Any]:
    from flows.etl import prefect_client

    if wanted.pool or wanted.cleanup_pool:
        raise ConfigError(["On Prefect the deployments name the pool: set PREFECT_WORK_POOL, and deploy."])
    if not prefect_client.deployed(config):
        prefect_client.deploy(config)
    if not prefect_client.worker_lives(config):
        click.echo(f"No worker is alive. {_worker_command(config)}", err=True)
    with _progress() as tell:
        return prefect_client.run(config, wanted.tables, timeout_seconds=timeout, progress=tell)


def _worker_command(config: Config) -> str:
    return f"A worker: .venv-prefect/bin/prefect worker start --pool {config.PREFECT_WORK_POOL}"


# --- what the commands have in common ---------------------------------------------------------------------


@contextmanager
def _opened(config: Config) -> Iterator[System]:
    """The task system, whose workers must know the flow, too."""
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
    except (ChildrenFailed, RunFailed) as error:
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
