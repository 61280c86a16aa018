"""What a person sees while a run goes on: a bar on a terminal, nothing in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Screen(Protocol):
    def advance(self) -> None:
        """One more picture is done."""

    def note(self, sentence: str) -> None:
        """Something worth knowing happened; the same sentence is shown once."""


class PlainScreen:
    """Notes only, on standard error."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def advance(self) -> None:
        pass

    def note(self, sentence: str) -> None:
        if sentence not in self._said:
            self._said.add(sentence)
            print(sentence, file=sys.stderr, flush=True)


@contextmanager
def screen_for(total: int) -> Iterator[Screen]:
    """A screen for a run over `total` pictures: a moving bar if standard error is a terminal."""
    if not sys.stderr.isatty() or not total:
        yield PlainScreen()
        return
    with _bar(total) as screen:
        yield screen


@contextmanager
def _bar(total: int) -> Iterator[Screen]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("Describing"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    # A pipe on standard output must get its lines untouched.
    with Progress(*columns, console=Console(stderr=True), redirect_stdout=sys.stdout.isatty()) as progress:
        bar = progress.add_task("", total=total, rate="")

        class Bar(PlainScreen):
            def advance(self) -> None:
                progress.advance(bar)
                speed = progress.tasks[0].speed
                progress.update(bar, rate=f"{speed:.1f}/s" if speed else "")

        yield Bar()
