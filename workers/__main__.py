"""`python -m workers`: run a pool, or say what runs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict

import click
from rich.console import Console
from rich.table import Table

from app.embedded_redis import EmbeddedRedis, EmbeddedRedisError
from app.logs import configure_logging
from app.system import System, build_system
from app.tasks.errors import RedisUnavailable, TaskError
from app.tasks.handlers import load_handlers
from app.tasks.store.pools import DEFAULT
from app.tasks.store.registry import WorkerRow
from config import Config, ConfigError
from workers.board import PoolStatus, pools
from workers.dying import die_with_parent
from workers.pool import Plan, Pool
from workers.reloading import adopted_from
from workers.visiting import Visits

EXIT_CANNOT_RUN = 2


def load_config(**overrides: int) -> Config:
    """The settings, or an exit with one sentence per problem."""
    try:
        return Config(**overrides)
    except ConfigError as error:
        click.echo(str(error), err=True)
        sys.exit(EXIT_CANNOT_RUN)


@click.group(invoke_without_command=True, help=__doc__)
@click.option("--workers", type=click.IntRange(1, 1024), help="Workers per track (RQ_WORKER_COUNT).")
@click.option("--queues", help="Serve only these, in this order: urgent,high")
@click.option("--weights", help="Visit queues by weights, not in strict order: urgent=8,high=4,low=1")
@click.option("--pool", default=DEFAULT, show_default=True, help="Take the tasks of this pool alone.")
@click.option("--memory-mb", type=click.IntRange(0), help="Memory of a worker (RQ_WORKER_MEMORY_MB).")
@click.option("--bound-to", type=int, hidden=True, help="Die with this parent process.")
@click.option("--adopt", hidden=True, help="Children of the program that this process was before.")
@click.pass_context
def main(
    context: click.Context,
    workers: int | None,
    queues: str | None,
    weights: str | None,
    pool: str,
    memory_mb: int | None,
    bound_to: int | None,
    adopt: str | None,
) -> None:
    if context.invoked_subcommand is not None:
        return
    if bound_to is not None:
        die_with_parent(bound_to)
    try:
        visits = Visits.parse(queues, weights)
    except ValueError as error:
        raise click.UsageError(f"--queues, --weights: {error}") from None
    if pool != DEFAULT and (queues or weights):
        raise click.UsageError("--queues, --weights: the workers of a pool serve no queues")
    config = load_config(**({} if memory_mb is None else {"RQ_WORKER_MEMORY_MB": memory_mb}))
    configure_logging(config.LOG_LEVEL, json=config.LOG_JSON)
    prepare(config, pool)
    plan = Plan.of(config, workers=workers, visits=visits, pool=pool)
    sys.exit(Pool(config, plan, adopted=adopted_from(adopt)).run())


@main.command()
def check() -> None:
    """Try settings, handlers and database without starting anything. Exit 2 if a pool could not start.

    The tables are brought up to date; routing and schedules stay as the running processes have them.
    """
    config = load_config()
    try:
        load_handlers(config.TASK_MODULES)
    except ImportError as error:
        click.echo(f"A module of TASK_MODULES cannot be imported: {error}", err=True)
        sys.exit(EXIT_CANNOT_RUN)
    _beside(config, System.prepare_tables)
    click.echo("A pool can start.")


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(as_json: bool) -> None:
    """List the workers that are alive, on both tracks, and the pools of this host. Exit 1 if no worker is."""
    config = load_config()
    system = build_system(config)
    local = list(pools(config.VAR_DIR / "pools", config.VAR_DIR / "locks"))
    try:
        rows = system.workers()
    except TaskError as error:
        click.echo(f"Cannot tell: {error}", err=True)
        sys.exit(EXIT_CANNOT_RUN)
    if as_json:
        said = {"workers": [_as_json(row) for row in rows], "pools": [asdict(pool) for pool in local]}
        click.echo(json.dumps(said, indent=2))
    else:
        _print_table(system, rows)
        _print_pools(local)
    sys.exit(0 if rows else 1)


def prepare(config: Config, pool: str = DEFAULT) -> None:
    """Start the embedded Redis if it is ours, bring the tables up to date, and create the pool."""
    if config.embedded_redis and config.RQ_ENABLED:
        try:
            EmbeddedRedis(config).ensure()
        except EmbeddedRedisError as error:
            click.echo(str(error), err=True)
            sys.exit(EXIT_CANNOT_RUN)
    prepare_database(config, pool)


def prepare_database(config: Config, pool: str = DEFAULT) -> None:
    """Make ready to run."""

    def work(system: System) -> None:
        system.prepare()
        if pool != DEFAULT:
            system.store.pools.open(pool)

    _beside(config, work)


def _beside(config: Config, prepare: Callable[[System], None]) -> None:
    """Prepare in a process of its own: the pool's parent must hold no connection."""
    pid = os.fork()
    if pid == 0:
        code = 0
        try:
            system = build_system(config)
            prepare(system)
            system.close()
        except (TaskError, ValueError) as error:
            click.echo(f"The workers cannot start: {error}", err=True)
            code = EXIT_CANNOT_RUN
        sys.stderr.flush()
        os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code:
        sys.exit(EXIT_CANNOT_RUN)


def _as_json(row: WorkerRow) -> dict[str, object]:
    names = ("worker_id", "host", "pid", "track", "queues", "state", "done", "idle_seconds")
    return {name: getattr(row, name) for name in names}


def _print_table(system: System, rows: list[WorkerRow]) -> None:
    table = Table("worker", "track", "queues", "state", "done", "seen")
    for row in rows:
        seen = f"{row.idle_seconds:.0f} s ago"
        table.add_row(row.worker_id, row.track, row.queues, row.state, str(row.done), seen)
    console = Console()
    console.print(table if rows else "No worker is alive. Start some with: python -m workers")
    if system.tickets is not None:
        try:
            lengths = system.tickets.lengths()
            console.print("tickets: " + ", ".join(f"{p} {n}" for p, n in lengths.items()))
        except RedisUnavailable:
            console.print("tickets: Redis is away")


def _print_pools(local: list[PoolStatus]) -> None:
    console = Console()
    for pool in local:
        table = Table(
            "slot", "worker", "starts", "task", "note", title=f"pool {pool.pool} ({pool.pid}), {pool.state}"
        )
        for slot in pool.slots:
            task = "" if slot.task_id is None else f"{slot.task_id} for {slot.task_seconds} s"
            note = slot.leaving or slot.last_end
            if slot.down:
                note = f"DOWN after {slot.quick_deaths} quick deaths; {slot.last_end}"
            table.add_row(slot.name, slot.worker_id, str(slot.starts), task, note)
        console.print(table)


if __name__ == "__main__":
    main()
