"""The table at the end of a run, and the page docs/soak.md: both are written from the run's JSON alone."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.soak.chapters import CHAPTERS
from tests.soak.points import STEPS
from tests.soak.results import Chapter

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "soak.md"
FIGURES = ROOT / "docs" / "soak.json"
JUDGED = ("lost", "doubled", "wrong", "late")
COLUMNS = ("rounds", "hits", "tasks", *JUDGED)


def commit() -> str:
    """The commit that is checked out, with "-dirty" if files differ from it. Ask before a run, not after."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*", "--abbrev=12"]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def machine() -> str:
    return f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"


def as_json(
    chapters: Sequence[Chapter], *, of_commit: str, options: Mapping[str, Any], seconds: float
) -> dict[str, Any]:
    """Everything that a run found. `ok` is false if any promise was broken."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": of_commit,
        "machine": machine(),
        "options": dict(options) | {"load average": round(os.getloadavg()[2], 1)},
        "seconds": round(seconds),
        "ok": not any(chapter.problems for chapter in chapters),
        "chapters": [chapter.as_json() for chapter in chapters],
    }


def joined(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Runs of different chapters as one, each chapter with the run that it comes from."""
    of_run = ("at", "commit", "machine", "options", "seconds")
    chapters = [
        dict(chapter) | {"run": chapter.get("run") or {name: run[name] for name in of_run if name in run}}
        for run in runs
        for chapter in run["chapters"]
    ]
    return {"ok": all(run["ok"] for run in runs), "chapters": chapters}


def page(figures: Mapping[str, Any]) -> str:
    """The text of docs/soak.md."""
    return "\n".join(_page_lines(figures)) + "\n"


def _page_lines(figures: Mapping[str, Any]) -> Iterator[str]:
    yield from _INTRODUCTION.strip().splitlines()
    yield from ("", "## Figures", "")
    yield verdict(figures)
    yield from _without_figures({chapter["name"] for chapter in figures["chapters"]})
    if any("commit" not in chapter["run"] for chapter in figures["chapters"]):
        yield from ("", *_WITHOUT_COMMIT.strip().splitlines())
    for chapter in figures["chapters"]:
        yield from ("", f"### {chapter['title'][0].upper()}{chapter['title'][1:]}", "")
        run = chapter["run"]
        options = ", ".join(f"{name} {value}" for name, value in run["options"].items())
        yield f"{run['at']}, {_measured(run)}, {run['machine']}; {options}."
        yield ""
        yield from _table(chapter)
        if chapter["problems"]:
            yield ""
            yield from (f"- {sentence}" for sentence in chapter["problems"])


def _without_figures(known: Collection[str]) -> Iterator[str]:
    """What the introduction tells of and nobody wrote down a run of."""
    missing = [f"- `{name}`: {run.__doc__}" for name, run in CHAPTERS.items() if name not in known]
    if missing:
        yield from (
            "",
            "No run of these is written down here; `make soak ONLY=NAME DOCS=1` does it:",
            "",
            *missing,
        )


def verdict(figures: Mapping[str, Any]) -> str:
    """What was judged, and how it came out, in a sentence."""
    lines = [line for chapter in figures["chapters"] for line in chapter["lines"] if line["ours"]]
    tasks, rounds = (sum(line[column] for line in lines) for column in ("tasks", "rounds"))
    found = ", ".join(f"{sum(line[column] for line in lines)} {column}" for column in JUDGED)
    judged = f"Of {tasks:,} tasks in {rounds:,} rounds: {found}."
    if not figures["ok"] or any(line[column] for line in lines for column in JUDGED):
        return f"**Promises were broken, see below.** {judged}"
    return f"{judged} That was judged; how long it took is shown, and was not."


def _measured(run: Mapping[str, Any]) -> str:
    return f"commit {run['commit']}" if "commit" in run else "commit not recorded"


def _table(chapter: Mapping[str, Any]) -> Iterator[str]:
    words = sorted({what for line in chapter["lines"] for what in line["seconds"]})
    head = ["what", *COLUMNS, *(f"{word}: p50 / max s" for word in words)]
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for line in chapter["lines"]:
        cells = [_named(line["name"]), *(str(line[column]) for column in COLUMNS)]
        cells += [_pair(line["seconds"].get(word)) for word in words]
        yield f"| {' | '.join(cells)} |"
    totals = [str(sum(line[column] for line in chapter["lines"])) for column in COLUMNS]
    if len(chapter["lines"]) > 1:
        yield f"| all | {' | '.join(totals)} |{' |' * len(words)}"


def _named(name: str) -> str:
    return f"`{name}`: {STEPS[name]}" if name in STEPS else name


def _pair(figures: Mapping[str, float] | None) -> str:
    return "" if figures is None else f"{figures['p50']:.2f} / {figures['max']:.2f} (n={figures['count']})"


def print_report(figures: Mapping[str, Any]) -> None:
    """The tables on a terminal."""
    for chapter in figures["chapters"]:
        print(f"\n{chapter['title']}")
        words = sorted({what for line in chapter["lines"] for what in line["seconds"]})
        print(
            f"{'':<34}" + "".join(f"{column:>8}" for column in COLUMNS) + "".join(f"{w:>26}" for w in words)
        )
        for line in chapter["lines"]:
            cells = "".join(f"{line[column]:>8}" for column in COLUMNS)
            cells += "".join(f"{_pair(line['seconds'].get(word)):>26}" for word in words)
            print(f"{line['name'][:33]:<34}{cells}")
        for sentence in (*chapter["problems"], *chapter["notes"]):
            print(f"  ! {sentence}", file=sys.stderr)
    print(f"\nCommit {figures['commit']}. {verdict(figures)}")


def publish(runs: Sequence[Mapping[str, Any]], *, figures: Path = FIGURES, text: Path = PAGE) -> None:
    """Write docs/soak.json, and docs/soak.md from it. Chapters that no run has stay as they are there."""
    new = joined(runs)
    names = {chapter["name"] for chapter in new["chapters"]}
    old = json.loads(figures.read_text())["chapters"] if figures.exists() else []
    kept = [chapter for chapter in old if chapter["name"] not in names]
    chapters = kept + new["chapters"]
    write({"ok": not any(chapter["problems"] for chapter in chapters), "chapters": chapters}, figures)
    text.write_text(page(json.loads(figures.read_text())))


def write(figures: Mapping[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n")


_INTRODUCTION = """
# Soak: what survives which death

This page is written from `docs/soak.json`, by `make soak DOCS=1` or by `python -m tests.soak.report` from
the figures of several runs. No figure here was typed by a person: `tests/unit/test_soak_page.py` holds the
page to the file. Figures are of one small machine, on which other things ran too; read them as an order.

A round gives an installation (four queues, both tracks, real worker processes, a real database and
Redis) a mixed load: quick tasks, failing ones, retries at once and later, scheduled ones, cancels,
handlers that must not repeat, handlers that write to the database. Then one process kills itself with
SIGKILL at exactly one named step, alone or, one time in three, with its whole tree; the pool, or the
harness, starts it again, and the round ends when every task has ended. `RQ_TICKET_GRACE` is 1 s there.

Where a backlog moves, a round has one on one track, a stream of new tasks, workers of both kinds, and a
mover that carries it to the other. Then the mover, a sweeper, a submitter, a Redis worker or a poller dies
at a step of its own, or a server dies at a step of the mover's; in turns the transfer is resumed, or turned
back, until it is closed, the way back to the database while Redis is still dead. One that says it is
complete must have left no row. A rollback at a random moment comes amid a move of rows of which a Redis
worker has started some; then every row must be what the baseline says, and what never started must be as
it was in every column but those of its wait, and be run by pollers alone; one time in five Redis is dead
from then on.

The judge shares no table with the product. Handlers append their starts and ends to a file; what was
accepted is noted by the submitter; a trigger writes down each recorded end. *Lost* is an accepted task
that did not end, *doubled* one whose end was recorded twice, whose attempt started twice, which started
again without a recorded retry or reclaim, or whose effect was committed twice; *wrong* one that ended
otherwise than its handler says; *late* one that had not ended by the round's deadline: a minute, 90 s for
Redis, 120 s for a tree, a host or a move. *Hits* counts the rounds in which what was meant to happen
happened: a process died at the step (a step that is never hit fails the run), tasks ran when a tree was
killed, or were still open when Redis's fault was over, a woken worker's result was refused, a hostile
handler started and failed once, a rollback ended a move and brought rows back that had been in Redis.
`tests/soak/test_oracle.py` shows the judge each kind of broken promise.

Times are from the kill (for a whole tree on this host: from the restart) to the next start of what the
dead one had popped, claimed or started, waiting behind other tasks included, or until all had ended. The
default lease is 30 s; the tasks of another host's dead worker must wait for its end.
For the stock worker, *lost* is a job that has not ended and is in no queue and no registry, *late* one
that a registry still shows as running.

A process that is frozen in the middle of a transaction on SQLite holds the one write lock there is: until
it wakes, nobody can record anything. The frozen workers here are frozen between two transactions.
"""

_WITHOUT_COMMIT = """
Where the commit was not recorded, the figures cannot be held to any state of the code, and a fault of Redis
counted as a hit without a look.
"""


if __name__ == "__main__":
    publish([json.loads(Path(name).read_text()) for name in sys.argv[1:]])
