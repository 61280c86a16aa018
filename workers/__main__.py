"""`python -m workers`: run a pool, or say what runs."""

from __future__ import annotations

import json
import os
import sys

import click
from rich.console import Console
from rich.table import Table

from app.embedded_redis import EmbeddedRedis, EmbeddedRedisError
from app.logs import configure_logging
from app.system import System, build_system
from app.tasks.errors import RedisUnavailable, TaskError
from app.tasks.store.registry import WorkerRow
from config import Config, ConfigError
from workers.pool import Plan, Pool, die_with_parent
from workers.visiting import Visits

EXIT_CANNOT_RUN = 2


def load_config() -> Config:
    """The settings, or an exit with one sentence per problem."""
    try:
        return Config()
    except ConfigError as error:
        click.echo(str(error), err=True)
        sys.exit(EXIT_CANNOT_RUN)


@click.group(invoke_without_command=True, help=__doc__)
@click.option("--workers", type=click.IntRange(1, 1024), help="Workers per track (RQ_WORKER_COUNT).")
@click.option("--queues", help="Serve only these, in this order: urgent,high")
@click.option("--weights", help="Visit queues by weights, not in strict order: urgent=8,high=4,low=1")
@click.option("--bound-to", type=int, hidden=True, help="Die with this parent process.")
@click.pass_context
def main(
    context: click.Context, workers: int | None, queues: str | None, weights: str | None, bound_to: int | None
) -> None:
    if context.invoked_subcommand is not None:
        return
    if bound_to is not None:
        die_with_parent(bound_to)
    try:
        visits = Visits.parse(queues, weights)
    except ValueError as error:
        raise click.UsageError(f"--queues, --weights: {error}") from None
    config = load_config()
    configure_logging(config.LOG_LEVEL, json=config.LOG_JSON)
    prepare(config)
    sys.exit(Pool(config, Plan.of(config, workers=workers, visits=visits)).run())


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(as_json: bool) -> None:
    """List the workers that are alive, on both tracks. Exit 1 if none is."""
    config = load_config()
    system = build_system(config)
    try:
        rows = system.workers()
    except TaskError as error:
        click.echo(f"Cannot tell: {error}", err=True)
        sys.exit(EXIT_CANNOT_RUN)
    if as_json:
        click.echo(json.dumps([_as_json(row) for row in rows], indent=2))
    else:
        _print_table(system, rows)
    sys.exit(0 if rows else 1)


def prepare(config: Config) -> None:
    """Start the embedded Redis if it is ours, and bring the tables up to date, in a process of its own:
    the pool's parent must hold no connection."""
    if config.embedded_redis and config.RQ_ENABLED:
        try:
            EmbeddedRedis(config).ensure()
        except EmbeddedRedisError as error:
            click.echo(str(error), err=True)
            sys.exit(EXIT_CANNOT_RUN)
    pid = os.fork()
    if pid == 0:
        code = 0
        try:
            system = build_system(config)
            system.prepare()
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


if __name__ == "__main__":
    main()
