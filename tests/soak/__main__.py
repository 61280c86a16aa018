"""`python -m tests.soak`: kill, freeze and empty everything at every step, and see that nothing is lost."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from app.logs import configure_logging
from tests.soak import report
from tests.soak.chapters import CHAPTERS, Options
from tests.soak.lanes import DATABASES
from tests.soak.points import ALL_NAMES
from tests.soak.progress import Progress
from tests.soak.results import Chapter

EXIT_BROKEN = 1


def _names(known: tuple[str, ...]) -> click.ParamType[tuple[str, ...]]:
    class Names(click.ParamType[tuple[str, ...]]):
        name = "name,name"

        def convert(self, value: object, param: object, ctx: object) -> tuple[str, ...]:
            names = tuple(str(value).split(",")) if isinstance(value, str) else known
            if wrong := sorted(set(names) - set(known)):
                self.fail(f"{', '.join(wrong)}: not one of {', '.join(known)}")
            return names

    return Names()


@click.command(help=__doc__)
@click.option("--rounds", type=int, help="Rounds of SIGKILL in all; each chapter has a number by itself.")
@click.option("--faults", default=10, show_default=True, help="Rounds of each other fault on each database.")
@click.option("--minutes", type=float, help="Begin no new round after so long.")
@click.option(
    "--seed", default=1, show_default=True, help="The same seed arms the same points in the same order."
)
@click.option("--databases", type=_names(DATABASES), default=",".join(DATABASES), show_default=True)
@click.option("--only", type=_names(tuple(CHAPTERS)), default=",".join(CHAPTERS), show_default=True)
@click.option(
    "--points", type=_names(ALL_NAMES), default=",".join(ALL_NAMES), help="Crash points; default: all."
)
@click.option(
    "--json", "json_path", type=click.Path(path_type=Path), default=Path("var/soak.json"), show_default=True
)
@click.option("--docs", is_flag=True, help="Write docs/soak.json and docs/soak.md from this run.")
def main(
    rounds: int | None,
    faults: int,
    minutes: float | None,
    seed: int,
    databases: tuple[str, ...],
    only: tuple[str, ...],
    points: tuple[str, ...],
    json_path: Path,
    docs: bool,
) -> None:
    configure_logging("error", json=False)
    options = Options(rounds=rounds, faults=faults, seed=seed, databases=databases, points=points)
    progress = Progress(minutes=minutes)
    chapters: list[Chapter] = []
    said = {"seed": seed, "databases": ", ".join(databases)}
    commit = report.commit()
    figures = report.as_json(chapters, of_commit=commit, options=said, seconds=0)
    for name in only:
        chapters.append(CHAPTERS[name](options, progress))
        figures = report.as_json(chapters, of_commit=commit, options=said, seconds=progress.seconds)
        report.write(figures, json_path)  # a crash of ours must not cost what was found before
    if docs:
        report.publish([figures])
    report.print_report(figures)
    print(f"Figures: {json_path}")
    sys.exit(0 if figures["ok"] else EXIT_BROKEN)


if __name__ == "__main__":
    main()
