"""Stop workers of another system by the process ids that they have recorded, never by a name: SIGTERM, and
SIGKILL only with --kill when the time is over. A number that now belongs to another program is left alone.
Exit 0: none of them runs. 1: some do. 2: nothing was recorded."""

from __future__ import annotations

from pathlib import Path

import click

from app.transfer.old_workers import stop
from app.transfer.progress import Progress
from scripts.migration.commands import GOOD, PROBLEM, guarded, json_option, say


@click.command(help=__doc__)
@click.option(
    "--pid-file",
    "pid_files",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path),
    help="A file that holds the process id of one worker.",
)
@click.option("--limit", "limit_seconds", type=click.FloatRange(min=0), default=60.0, show_default=True)
@click.option("--kill", is_flag=True, help="Kill what has not stopped in time; its task is lost.")
@click.option("--dry-run", is_flag=True, help="Say what would be stopped.")
@json_option
def main(pid_files: tuple[Path, ...], limit_seconds: float, kill: bool, dry_run: bool, as_json: bool) -> None:
    guarded(lambda: stop_workers(pid_files, limit_seconds, kill=kill, dry_run=dry_run, as_json=as_json))


def stop_workers(
    pid_files: tuple[Path, ...], limit_seconds: float, *, kill: bool, dry_run: bool, as_json: bool
) -> int:
    progress = Progress("workers that run:")
    try:
        done = stop(
            pid_files,
            limit_seconds=limit_seconds,
            kill=kill,
            dry_run=dry_run,
            waiting=lambda left: progress.step(left - progress.done),
        )
    finally:
        progress.end()
    value = {"found": [pid for pid in done.found.values() if pid], "running": done.running}
    lines = [f"{path}: {pid or 'no such process'}" for path, pid in done.found.items()]
    say(value, "\n".join([*lines, f"{len(done.running)} still run"]), as_json=as_json)
    return PROBLEM if done.running else GOOD


if __name__ == "__main__":
    main()
