"""`make bench-import`: a trial of many rows for each shape of the table, on servers of its own."""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path

import click

from tests.acceptance.stack import Stack
from tests.imports.trial import Trial, settings
from tests.servers import MariaDbServer, PostgresServer, RedisServer

KINDS = ["mariadb", "postgresql", "sqlite"]


@click.command(help=__doc__)
@click.option("--rows", default=200_000, show_default=True)
@click.option("--shape", "shapes", type=click.Choice(["new", "old"]), multiple=True, default=("new", "old"))
@click.option("--workers", default=2, show_default=True, help="On each of the two tracks.")
@click.option(
    "--deadline", default=1800.0, show_default=True, help="Seconds until everything must have ended."
)
@click.option("--database", type=click.Choice(KINDS), default="mariadb")
@click.option("--theirs", type=click.Choice(KINDS), help="The old table is in a database of its own.")
def main(
    rows: int, shapes: tuple[str, ...], workers: int, deadline: float, database: str, theirs: str | None
) -> None:
    with RedisServer() as redis:
        for shape in shapes:
            redis.client().flushall()
            other = nullcontext() if theirs is None else _fresh(theirs)
            with _fresh(database) as url, other as their_url, tempfile.TemporaryDirectory() as folder:
                began = time.monotonic()
                stack = Stack(Path(folder) / "var", url, redis.url, **settings())
                made = Trial(stack, url, rows=rows, old_shape=shape == "old", theirs=their_url)
                with closing(stack), closing(made) as trial:
                    figures = trial.run(pool_workers=workers, deadline_seconds=deadline)
                    for name, value in asdict(figures).items():
                        click.echo(f"{shape} shape  {name:24} {value}")
                click.echo(f"{shape} shape  seconds in all           {time.monotonic() - began:.1f}")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    click.echo(f"largest process          {peak:.0f} MB; lost 0, run twice 0, wrongly named 0")


@contextmanager
def _fresh(kind: str) -> Iterator[str]:
    """The URL of an empty database of this kind."""
    if kind == "sqlite":
        with tempfile.TemporaryDirectory() as folder:
            yield f"sqlite:///{folder}/trial.db"
        return
    made = MariaDbServer() if kind == "mariadb" else PostgresServer()
    with made as server, server.database() as url:
        yield url


if __name__ == "__main__":
    main()
