"""Runs that fan out, and what is deployed: list, show, and say why something does not go on.

Exit 0: good. 1: a problem was found. 2: wrong use, or it could not run.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from typing import Any

import click

from app.distributed.deployments import Deployments
from app.monitoring.stuck_runs import stuck_runs
from scripts.opening import opened

PROBLEM = 1
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(help=__doc__)
def main() -> None:
    """See the module."""


@main.command("list")
@click.option("--flow", help="Only runs of this task name: main_etl")
@click.option("--limit", type=click.IntRange(1, 1000), default=30, show_default=True)
@as_json
def show_all(flow: str | None, limit: int, as_json: bool) -> None:
    """The newest runs, each with how many of its children are in which state."""
    with opened(with_tables=False) as system:
        runs = system.queue.families.newest_runs(limit=limit, task_name=flow)
    told = [
        _of_run(row) | {"children": {status.value: n for status, n in tally.items()}} for row, tally in runs
    ]
    if as_json:
        click.echo(json.dumps(told, indent=2))
        return
    for one in told:
        children = ", ".join(f"{n} {status}" for status, n in sorted(one["children"].items()))
        click.echo(f"{one['run']}  {one['flow']}  {one['status']}  since {one['created_at']}  {children}")


@main.command()
@click.argument("run", type=int)
@as_json
def show(run: int, as_json: bool) -> None:
    """One RUN, child by child."""
    with opened(with_tables=False) as system:
        task = system.store.queries.task(run)
        children = [_of_child(row) for row in system.queue.families.children_of(run)]
    told = {"run": run, "flow": task.name, "status": task.status.value, "error": task.error}
    if as_json:
        click.echo(json.dumps(told | {"children": children}, indent=2))
        return
    click.echo(f"{run}  {task.name}  {task.status}{f'  {task.error}' if task.error else ''}")
    for one in children:
        words = (one["phase"], one["child"], one["status"], one["worker"] or "", one["error"] or "")
        click.echo("  " + "  ".join(words).rstrip())


@main.command()
@as_json
def deployments(as_json: bool) -> None:
    """The names by which tasks are started."""
    with opened(with_tables=False) as system:
        found = Deployments(system).all()
    if as_json:
        click.echo(json.dumps([{"name": one.name, "task": one.task} for one in found], indent=2))
        return
    for one in found:
        click.echo(f"{one.name}: {one.task}")


@main.command()
@as_json
def workers(as_json: bool) -> None:
    """How many live workers each host has, and what they serve. Exit 1 if there is none."""
    with opened(with_tables=False) as system:
        found = Counter((row.host, row.queues) for row in system.workers())
    told = [{"host": host, "serves": serves, "workers": n} for (host, serves), n in sorted(found.items())]
    if as_json:
        click.echo(json.dumps(told, indent=2))
    else:
        lines = [f"{one['host']}: {one['workers']} for {one['serves']}" for one in told]
        click.echo("\n".join(lines) or "No worker is alive.")
    sys.exit(0 if told else PROBLEM)


@main.command()
@as_json
def diagnose(as_json: bool) -> None:
    """Why runs do not go on, a sentence each. Exit 1 if something keeps one from it."""
    with opened(with_tables=False) as system:
        found = stuck_runs(system)
    if as_json:
        told = [{"run": one.run, "tasks": one.tasks, "reason": one.reason, "fix": one.fix} for one in found]
        click.echo(json.dumps(told, indent=2))
    else:
        click.echo("\n".join(one.sentence for one in found) or "Nothing keeps a run from going on.")
    sys.exit(PROBLEM if found else 0)


def _of_run(row: Any) -> dict[str, Any]:
    return {
        "run": row.id,
        "flow": row.name,
        "status": row.status.value,
        "created_at": f"{row.created_at:%Y-%m-%dT%H:%M:%SZ}",
        "error": row.error,
    }


def _of_child(row: Any) -> dict[str, Any]:
    return {
        "phase": row.phase,
        "child": row.name,
        "status": row.status.value,
        "attempt": row.attempt,
        "worker": row.holder,
        "error": row.error,
    }


if __name__ == "__main__":
    main()
