"""Stop workers of another system by the process ids that they have recorded, never by a name: SIGTERM, and
SIGKILL only with --kill when the time is over. A number that now belongs to another program is left alone.
Exit 0: none of them runs. 1: some do. 2: nothing was recorded."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import click
import psutil

from app.transfer.errors import NotPossible
from app.transfer.progress import Progress
from scripts.migration.commands import GOOD, PROBLEM, guarded, json_option, say

LOOK_SECONDS = 0.1


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
    found = {path: recorded(path) for path in pid_files}
    living = [process for process in found.values() if process is not None]
    if not dry_run:
        _signal(living, signal.SIGTERM)
        if not _ended(living, limit_seconds) and kill:
            _signal(living, signal.SIGKILL)
            _ended(living, limit_seconds)
    running = [process.pid for process in living if process.is_running() and not _is_zombie(process)]
    value = {"found": [process.pid for process in living], "running": running}
    lines = [f"{path}: {process.pid if process else 'no such process'}" for path, process in found.items()]
    say(value, "\n".join([*lines, f"{len(running)} still run"]), as_json=as_json)
    return PROBLEM if running else GOOD


def recorded(path: Path) -> psutil.Process | None:
    """The process that the file names, if it is still the same one: it must have been there when the file was
    written. Raises `NotPossible` for a file that names none."""
    try:
        pid, written_at = int(path.read_text().strip()), path.stat().st_mtime
    except (OSError, ValueError):
        raise NotPossible(f"{path} names no process") from None
    if pid <= 1 or pid == os.getpid():
        raise NotPossible(f"{path} names {pid}, which is no worker")
    try:
        process = psutil.Process(pid)
        is_younger = process.create_time() > written_at + 1
    except psutil.NoSuchProcess:
        return None
    return None if is_younger or _is_zombie(process) else process


def _signal(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        try:
            process.send_signal(number)  # psutil makes sure that the number was not given away meanwhile
        except psutil.NoSuchProcess:
            continue
        except psutil.AccessDenied:
            raise NotPossible(f"process {process.pid} belongs to somebody else") from None


def _ended(processes: list[psutil.Process], limit_seconds: float) -> bool:
    progress, until = Progress("workers that run:"), time.monotonic() + limit_seconds
    while True:
        left = sum(process.is_running() and not _is_zombie(process) for process in processes)
        progress.step(left - progress.done)
        if not left or time.monotonic() >= until:
            progress.end()
            return not left
        time.sleep(LOOK_SECONDS)


def _is_zombie(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


if __name__ == "__main__":
    main()
