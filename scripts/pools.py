"""Pools of workers: list, create, inspect them; limit how many of their tasks run at a time, on all hosts.

Exit 0: done. 1: tasks of a pool wait, and no worker of it is alive. 2: a wrong name or number, or the
database cannot be reached.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import asdict
from typing import Any

import click

from app.tasks.store.pools import NoSuchPool, PoolFigures
from app.tasks.store.registry import WorkerRow
from scripts.opening import opened

UNSERVED = 1
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(help=__doc__)
def main() -> None:
    """See the module."""


@main.command("list")
@as_json
def show(as_json: bool) -> None:
    """Every pool: its limit, its tasks, its workers."""
    with opened() as system:
        figures = system.store.pools.all()
        alive = Counter(row.pool for row in system.store.registry.workers())
    if as_json:
        click.echo(json.dumps([asdict(one) | {"workers": alive[one.name]} for one in figures]))
    else:
        click.echo("\n".join(_line(one, alive[one.name]) for one in figures) or "There is no pool.")
    sys.exit(UNSERVED if any(one.waiting and not alive[one.name] for one in figures) else 0)


def _line(pool: PoolFigures, workers: int) -> str:
    limit = "no limit" if pool.at_most is None else f"at most {pool.at_most} at a time"
    tasks = f"{pool.running} running, {pool.waiting} waiting, {pool.scheduled} scheduled"
    return f"{pool.name}: {limit}; {workers} workers; {tasks}"


@main.command()
@click.argument("name")
@click.option("--limit", "at_most", type=click.IntRange(min=0), help="At most so many at a time.")
def create(name: str, at_most: int | None) -> None:
    """Create the pool NAME, unless it is there."""
    with opened() as system:
        system.store.pools.open(name)
        if at_most is not None:
            system.store.pools.limit(name, at_most)
    click.echo(f"The pool {name} is there. Its workers: python scripts/start_workers.py --pool {name}")


@main.command()
@click.argument("name")
@click.argument("at_most", type=click.IntRange(min=0))
def limit(name: str, at_most: int) -> None:
    """Let no more than AT_MOST tasks of the pool NAME run at a time. 0 holds it up."""
    with opened() as system:
        system.store.pools.limit(name, at_most)
    click.echo(f"At most {at_most} tasks of the pool {name} run at a time from now on.")


@main.command()
@click.argument("name")
def unlimit(name: str) -> None:
    """Let as many tasks of the pool NAME run as it has workers."""
    with opened() as system:
        system.store.pools.limit(name, None)
    click.echo(f"The pool {name} has no limit.")


@main.command()
@click.argument("name")
@as_json
def inspect(name: str, as_json: bool) -> None:
    """The pool NAME: its figures, its workers on all hosts, and what they run."""
    with opened() as system:
        figures = next((one for one in system.store.pools.all() if one.name == name), None)
        if figures is None:
            raise NoSuchPool(name)
        workers = [row for row in system.store.registry.workers() if row.pool == name]
        runs = system.store.pools.running(name)
    if as_json:
        told: dict[str, Any] = asdict(figures)
        told["workers"] = [_of_worker(row) for row in workers]
        told["tasks"] = [_of_run(row) for row in runs]
        click.echo(json.dumps(told, indent=2))
    else:
        click.echo(_line(figures, len(workers)))
        for row in workers:
            seen = f"seen {row.idle_seconds:.0f} s ago"
            click.echo(f"  {row.worker_id} on {row.host}: {row.state}, {row.done} done, {seen}")
        for run in map(_of_run, runs):
            click.echo(f"  task {run['task']} {run['name']} on {run['worker']} for {run['seconds']:.0f} s")
    sys.exit(UNSERVED if figures.waiting and not workers else 0)


def _of_worker(row: WorkerRow) -> dict[str, Any]:
    return {
        "worker": row.worker_id,
        "host": row.host,
        "pid": row.pid,
        "state": row.state,
        "done": row.done,
        "idle_seconds": round(row.idle_seconds, 1),
    }


def _of_run(row: Any) -> dict[str, Any]:
    seconds = (row.now - row.started_at).total_seconds()
    return {"task": row.id, "name": row.name, "worker": row.holder, "seconds": round(seconds, 1)}


if __name__ == "__main__":
    main()
