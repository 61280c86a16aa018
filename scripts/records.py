"""Records of flows: how they are, what is wrong, reports, upkeep, capacity.

Exit 0: good. 1: a problem was found. 2: wrong use, or it could not run.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any

import click

from app import monitoring
from app.distributed.databases import DatabaseManager
from app.distributed.processor import DistributedProcessor
from app.logs import configure_logging
from app.monitoring import rounds
from app.monitoring.reports import owners, processing_performance_monitoring
from app.monitoring.upkeep import COMPLETED_DAYS, FAILED_DAYS, FAILED_RETRIES
from app.tasks.errors import TaskError
from app.tasks.model import Schedule
from config import Config, ConfigError

GOOD, PROBLEM, CANNOT_RUN = 0, 1, 2
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
dry_run = click.option("--dry-run", is_flag=True, help="Change nothing; say what would be.")
hours_option = click.option(
    "--hours", type=click.FloatRange(0, min_open=True), default=24.0, show_default=True, help="The window."
)


@contextmanager
def opened() -> Iterator[DistributedProcessor]:
    """A processor over the settings in force; what keeps the block from running ends the command."""
    configure_logging("error")
    try:
        database = DatabaseManager(Config())
        with closing(database), DistributedProcessor(database) as processor:
            yield processor
    except (ConfigError, TaskError, ValueError) as error:
        click.echo(str(error), err=True)
        sys.exit(CANNOT_RUN)


def say(value: Any, text: str, as_json: bool) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False) if as_json else text)


@click.group(help=__doc__)
def main() -> None:
    """See the module."""


@main.command()
@as_json
def status(as_json: bool) -> None:
    """Counts, the health grade, and what is beyond a threshold. Exit 1 unless healthy."""
    with opened() as processor:
        found = monitoring.distributed_queue_monitoring(processor=processor)
    health, counts = found["queue_health_assessment"], found["overall_queue_status"]
    lines = [f"{health['queue_health']}, {health['health_score']} of 100", *_pairs(counts)]
    figures = [metric["message"] for metric in found["metrics"]]
    lines += ["", *(figures or found["operational_alerts"])]
    lines += ["", *found["recommendations"]]
    say(found, "\n".join(lines).rstrip(), as_json)
    sys.exit(GOOD if health["queue_health"] == "healthy" else PROBLEM)


@main.command()
@as_json
def diagnose(as_json: bool) -> None:
    """What is wrong, a sentence each. Exit 1 if something is."""
    with opened() as processor:
        found = monitoring.distributed_processing_diagnostics(processor=processor)
    issues = found["issues_found"]
    say(found, "\n".join(issues) or "Nothing is wrong.", as_json)
    sys.exit(PROBLEM if issues else GOOD)


@main.command()
@click.argument("what", type=click.Choice(["rate", "errors", "flows", "owners", "indexes"]))
@hours_option
@as_json
def report(what: str, hours: float, as_json: bool) -> None:
    """Rows of one report: rate by hour, error patterns, flows side by side, owners, use of indexes.

    Exit 1 if `owners` finds one whose lease is over.
    """
    with opened() as processor:
        found = REPORTS[what](processor, hours)
    say(found, _table(found) or "Nothing to report.", as_json)
    sys.exit(PROBLEM if any(row.get("suspicious") for row in found) else GOOD)


def _performance(processor: DistributedProcessor, hours: float, *, errors: bool = False) -> dict[str, Any]:
    return processing_performance_monitoring(hours, errors, processor=processor)


def _flows(processor: DistributedProcessor, hours: float) -> list[dict[str, Any]]:
    by_flow = _performance(processor, hours)["flow_metrics"]
    return [{"flow_name": flow, **figures} for flow, figures in by_flow.items()]


def _indexes(processor: DistributedProcessor, _hours: float) -> list[dict[str, Any]]:
    found = monitoring.index_usage(processor=processor)
    if found["note"]:
        click.echo(found["note"], err=True)
    return list(found["indexes"])


REPORTS: Mapping[str, Callable[[DistributedProcessor, float], list[dict[str, Any]]]] = {
    "rate": lambda processor, hours: _performance(processor, hours)["hourly_metrics"],
    "errors": lambda p, hours: _performance(p, hours, errors=True)["error_analysis"]["top_errors"],
    "flows": _flows,
    "owners": lambda processor, _hours: owners(processor=processor),
    "indexes": _indexes,
}


@main.command()
@click.option("--orphans/--no-orphans", default=True, help="Bring orphaned records back.")
@click.option("--reset/--no-reset", default=True, help="Let failed records wait again.")
@click.option("--timeout-hours", type=click.FloatRange(0), help="Age of a claim; default: as set for flows.")
@click.option("--max-retries", type=click.IntRange(0), default=3, show_default=True)
@dry_run
@as_json
def maintain(
    orphans: bool, reset: bool, timeout_hours: float | None, max_retries: int, dry_run: bool, as_json: bool
) -> None:
    """Bring orphaned records back, and let failed ones below the limit wait again."""
    with opened() as processor:
        found = monitoring.distributed_system_maintenance(
            orphans, reset, timeout_hours, max_retries, dry_run, processor=processor
        )
    cleaned = found["cleanup_results"]["records_cleaned"]
    again = found["reset_results"]["records_reset"]
    would = "would be " if dry_run else ""
    say(found, f"{cleaned} orphaned records {would}brought back, {again} failed ones {would}reset", as_json)


@main.command()
@click.option("--completed-days", type=click.FloatRange(0), default=COMPLETED_DAYS, show_default=True)
@click.option("--failed-days", type=click.FloatRange(0), default=FAILED_DAYS, show_default=True)
@click.option("--failed-retries", type=click.IntRange(0), default=FAILED_RETRIES, show_default=True)
@click.option("--flow", help="Only records of this flow.")
@dry_run
@as_json
def purge(
    completed_days: float,
    failed_days: float,
    failed_retries: int,
    flow: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Delete records that completed long ago, and those that failed long ago for good."""
    with opened() as processor:
        found = monitoring.purge_records(
            completed_days, failed_days, failed_retries, dry_run, flow=flow, processor=processor
        )
    would = "would be deleted" if dry_run else "deleted"
    say(
        found, f"{found['completed_deleted']} completed and {found['failed_deleted']} failed {would}", as_json
    )


@main.command()
@as_json
def capacity(as_json: bool) -> None:
    """How much the running processes could do, and how many are wanted. Exit 1 if more are."""
    with opened() as processor:
        found = monitoring.calculate_capacity_utilization(processor=processor)
    say(found, "\n".join(_pairs(found)), as_json)
    sys.exit(PROBLEM if found["scale_up"] else GOOD)


@main.group(invoke_without_command=True)
@as_json
@click.pass_context
def schedules(context: click.Context, as_json: bool) -> None:
    """The rounds that are made by the clock, with their next runs; `install` puts them in place."""
    if context.invoked_subcommand is not None:
        return
    with opened() as processor:
        found = [_schedule_row(one) for one in rounds.installed(processor.system)]
    say(found, _table(found) or "None is in place: python scripts/records.py schedules install", as_json)


@schedules.command()
@click.option("--time-zone", default="UTC", show_default=True, help="Whose clock: Europe/Berlin")
def install(time_zone: str) -> None:
    """Put the schedules in place that are missing; those that are there stay as they are."""
    with opened() as processor:
        system = processor.system
        if not rounds.is_known(system):
            modules = ",".join([*system.config.TASK_MODULES, rounds.__name__])
            raise ValueError(f"Set TASK_MODULES={modules} here and for the workers.")
        system.prepare_tables()
        new = rounds.install(system, time_zone=time_zone)
    click.echo(f"{len(new)} schedules are new{': ' if new else '.'}{', '.join(new)}")


@schedules.command()
def remove() -> None:
    """Remove them; what they have started goes on."""
    with opened() as processor:
        names = [schedule.name for schedule in rounds.installed(processor.system)]
        for name in names:
            processor.system.queue.schedules.remove(name)
    click.echo(f"{len(names)} schedules were removed.")


def _schedule_row(schedule: Schedule) -> dict[str, Any]:
    times = {"next_run_at": schedule.next_run_at, "last_run_at": schedule.last_run_at}
    return {
        "name": schedule.name,
        **{name: None if at is None else at.isoformat(timespec="seconds") for name, at in times.items()},
        "rule": f"{schedule.recurrence.cron} {schedule.recurrence.time_zone}",
        "state": schedule.state.value,
    }


def _pairs(values: Mapping[str, Any]) -> list[str]:
    return [
        f"{name.replace('_', ' '):<28} {'-' if value is None else value}" for name, value in values.items()
    ]


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    lines = [list(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    padded = (
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines
    )
    return "\n".join(line.rstrip() for line in padded)


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else " ".join(str(value).split())[:100]


if __name__ == "__main__":
    main()
