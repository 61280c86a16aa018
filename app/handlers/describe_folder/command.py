"""The command line of `python -m app.handlers.describe`: parse, build, call."""

from __future__ import annotations

import json
import secrets
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

import click

from app.handlers.describe_folder.api import NotReachable, ServerTrouble, TaskApi
from app.handlers.describe_folder.journal import Journal, OutputUnusable, journal_in
from app.handlers.describe_folder.pictures import Found, Picture, find_pictures
from app.handlers.describe_folder.run import FOLDER_SETTING, FolderNotAllowed, FolderRun
from app.handlers.describe_folder.screen import screen_for
from app.handlers.outbound import checked_url
from app.tasks.model import PRIORITIES
from config import Config, ConfigError

THIS_MACHINE = frozenset({"127.0.0.1", "localhost", "::1"})

ALL_DESCRIBED, SOME_FAILED, CANNOT_RUN = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Summary:
    """`already_done` were described by an earlier run into the same file; `other_files` are no pictures."""

    pictures: int
    described: int
    failed: int
    already_done: int
    not_done: int
    other_files: int
    unreadable: int
    seconds: float

    @property
    def exit_code(self) -> int:
        return SOME_FAILED if self.failed or self.not_done or self.unreadable else ALL_DESCRIBED


def _server_url(_: click.Context, __: click.Parameter, value: str | None) -> str:
    if value is None:
        try:
            return f"http://127.0.0.1:{Config().PORT}"
        except ConfigError as error:
            raise click.UsageError(str(error)) from None
    try:
        return checked_url(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command(
    "python -m app.handlers.describe",
    epilog="Exit status: 0 every picture has its alt text, 1 some have not, 2 nothing could be done.",
)
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--priority", type=click.Choice([str(one) for one in PRIORITIES]), default="normal", show_default=True
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Append the lines to this file; with the same file, a later run does only what is left.",
)
@click.option(
    "--url", callback=_server_url, help="The Twintrack server; default: this machine, at the setting PORT."
)
@click.option("--token", help="The server's API token; default for this machine: the setting API_TOKEN.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def main(
    folder: Path, priority: str, output: Path | None, url: str, token: str | None, as_json: bool
) -> None:
    """Write an alt text for every picture below FOLDER, as JSON lines.

    The pictures are read by the server's workers, which open only what lies below the folders of their
    setting DESCRIBE_FOLDERS. Ctrl+C stops at any moment; with --output, the same command continues.
    """
    started = time.monotonic()
    found = find_pictures(folder)
    for place in found.unreadable:
        click.echo(f"{place} cannot be read.", err=True)
    with _usable(folder), _journal(output) as journal, TaskApi(url, token or _own_token(url)) as api:
        left = [picture for picture in found.pictures if picture.path not in journal.described]
        described, failed = _run(api, journal, left, priority=priority, salt=_salt(output))
    summary = Summary(
        pictures=len(found.pictures),
        described=described,
        failed=failed,
        already_done=len(found.pictures) - len(left),
        not_done=len(left) - described - failed,
        other_files=found.others,
        unreadable=len(found.unreadable),
        seconds=round(time.monotonic() - started, 2),
    )
    _show(summary, found, output, as_json=as_json)
    sys.exit(summary.exit_code)


def _run(
    api: TaskApi, journal: Journal, pictures: list[Picture], *, priority: str, salt: str
) -> tuple[int, int]:
    """How many were described and how many failed, also when the run is stopped by Ctrl+C."""
    with screen_for(len(pictures)) as screen:
        run = FolderRun(api, journal, screen, priority=priority, salt=salt)
        try:
            with _stopped_by_ctrl_c(run):
                run.run(pictures)
        except KeyboardInterrupt:
            screen.note("Stopped.")
    return run.described, run.failed


@contextmanager
def _stopped_by_ctrl_c(run: FolderRun) -> Iterator[None]:
    """The first Ctrl+C stops the run between two steps, where each picture that ended has its line and is
    counted; a second one does not wait for the server's answer."""
    asked = False

    def stop(*_: object) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        run.stop()

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
        if asked:
            raise KeyboardInterrupt
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _usable(folder: Path) -> Iterator[None]:
    """Say in one sentence why nothing can be done, and leave."""
    try:
        yield
    except FolderNotAllowed:
        _leave(
            f"The server may not read {folder.resolve()}: add this folder, or one above it, to its setting"
            f" {FOLDER_SETTING} and start it again."
        )
    except NotReachable as trouble:
        _leave(f"{trouble} Start one with `make run`, or name another with --url; done work is kept.")
    except (ServerTrouble, OutputUnusable) as trouble:
        _leave(str(trouble))


def _leave(sentence: str) -> NoReturn:
    click.echo(sentence, err=True)
    sys.exit(CANNOT_RUN)


@contextmanager
def _journal(output: Path | None) -> Iterator[Journal]:
    if output is None:
        yield Journal(lambda line: click.echo(line, nl=False))
        return
    with journal_in(output) as journal:
        yield journal


def _salt(output: Path | None) -> str:
    # Without a file that remembers, every run is a new one.
    return secrets.token_hex(8) if output is None else str(output.resolve())


def _own_token(url: str) -> str | None:
    """This machine's API token, which no other machine must ever get."""
    if urlsplit(url).hostname not in THIS_MACHINE:
        return None
    try:
        return Config().API_TOKEN
    except ConfigError as error:
        _leave(str(error))


def _show(summary: Summary, found: Found, output: Path | None, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"summary": asdict(summary)}))
        return
    parts = [f"{summary.described} described", f"{summary.failed} failed"]
    parts += [f"{summary.already_done} already done"] if summary.already_done else []
    parts += [f"{summary.not_done} not done"] if summary.not_done else []
    parts += [f"{summary.other_files} other files skipped"] if summary.other_files else []
    click.echo(f"{summary.pictures} pictures: {', '.join(parts)}; {summary.seconds:g} s.", err=True)
    if summary.failed and output is not None:
        click.echo(f"{output} says what failed and why; the same command tries that again.", err=True)
    if summary.not_done and output is not None:
        click.echo("The same command continues where this one stopped.", err=True)
