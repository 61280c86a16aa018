"""An ETL as an example of a fan-out: every table of one database is copied into another, then two cleanups.

    TASK_MODULES=app.handlers,flows.etl     lets workers run it
    python -m flows.etl prepare             makes a source of 20 tables, if there is none
    python -m flows.etl run                 starts `main_etl` and waits; with --here in this process

ETL_SOURCE_CONNECTION_STRING and ETL_TARGET_CONNECTION_STRING name the databases, without them two SQLite
files in VAR_DIR/etl; ETL_PARQUET_FOLDER asks for Parquet files, too. A run that is repeated replaces what the
one before has brought.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from app.distributed import ChildrenFailed, DatabaseManager, Undone, fan_out, gather
from app.distributed.parquet import remove_half_written
from app.distributed.table_copy import CopyFailed, Row, copy_table, table_names
from app.tasks.errors import DatabaseUnavailable
from app.tasks.handlers import DoNotRetry, TaskContext, task
from app.tasks.model import Status
from config import Config

SOURCE, TARGET = "etl_source", "etl_target"
TAG = "database"
TABLES_AT_A_TIME = 3
RETRIES, RETRY_SECONDS = 2, 10.0
LIMIT_SECONDS = 3600.0
RUNS = "etl_runs"


class Run(BaseModel):
    """What `main_etl` is asked for: these tables, or all of the source, by the workers of these pools."""

    tables: list[str] = []
    pool: str | None = None
    cleanup_pool: str | None = None


class OneTable(BaseModel):
    """What one child is asked for."""

    table: str


class Summary(BaseModel):
    """What the tables of a run have brought."""

    run: str
    tables: int
    rows: int


@dataclass(frozen=True, slots=True)
class Place:
    """Where an ETL reads and writes."""

    source: DatabaseManager
    target: DatabaseManager
    parquet_folder: Path | None = None


@contextmanager
def place_of(config: Config) -> Iterator[Place]:
    """The databases that the variables name; closed at the end. Raises `ConfigError`."""
    folder = config.VAR_DIR.resolve() / "etl"
    folder.mkdir(parents=True, exist_ok=True)
    names = {name: f"{name.upper()}_CONNECTION_STRING" for name in (SOURCE, TARGET)}
    known = config.with_default_variables({names[name]: f"sqlite:///{folder}/{name}.db" for name in names})
    source, target = (DatabaseManager(name, config=known) for name in names)
    wanted = config.variable("ETL_PARQUET_FOLDER")
    try:
        yield Place(source, target, Path(wanted) if wanted else None)
    finally:
        source.close()
        target.close()


# --- the work: the same in both modes ---------------------------------------------------------------------


def tidy(row: Row) -> Row:
    """The row as the target wants it: no blanks around texts, and nothing where they are empty."""
    return {key: value.strip() or None if isinstance(value, str) else value for key, value in row.items()}


def process_table(place: Place, table: str) -> dict[str, Any]:
    """Copy one table. Returns its rows and checksum, which source (tidied) and target have in common."""
    found = copy_table(place.source, place.target, table, tidy, parquet_folder=place.parquet_folder)
    return asdict(found)


def remove_leftovers(place: Place) -> dict[str, Any]:
    """The first cleanup: Parquet files that a killed worker has left half-written."""
    folder = place.parquet_folder
    past = time.time() - LIMIT_SECONDS
    return {"removed": 0 if folder is None else remove_half_written(folder, older_than=past)}


def record_run(place: Place, summary: Summary) -> dict[str, Any]:
    """The second cleanup: a row in `etl_runs` of the target, one per run."""
    place.target.execute_query(
        f"CREATE TABLE IF NOT EXISTS {RUNS}"
        " (run VARCHAR(60) PRIMARY KEY, table_count INTEGER NOT NULL, row_count BIGINT NOT NULL)"
    )
    place.target.execute_transaction(
        [
            (f"DELETE FROM {RUNS} WHERE run = :run", summary.model_dump(include={"run"})),  # noqa: S608
            (f"INSERT INTO {RUNS} VALUES (:run, :tables, :rows)", summary.model_dump()),  # noqa: S608
        ]
    )
    return {"recorded": 1}


def summed(run: str, copied: Mapping[str, Any]) -> Summary:
    """What the second cleanup is to record of a run."""
    return Summary(run=run, tables=len(copied), rows=sum(one["rows"] for one in copied.values()))


def told(copied: Mapping[str, Any], cleanups: Mapping[str, Any]) -> dict[str, Any]:
    """What a run returns, whoever runs it."""
    return {"tables": dict(copied), "rows": summed("", copied).rows, "cleanups": dict(cleanups)}


# --- distributed: a task per table ------------------------------------------------------------------------


@task("main_etl", payload=Run)
def main_etl(payload: Run, context: TaskContext) -> dict[str, Any]:
    """A child per table, at most three at a time over all hosts; then both cleanups, side by side."""
    tables = {name: {"table": name} for name in payload.tables or all_tables()}
    copying = fan_out(context, "tables", "process_table_etl", tables, tag=TAG, pool=payload.pool)
    copied = gather(copying, limit_seconds=LIMIT_SECONDS)
    summary = {"cleanup_flow2": summed(str(context.task_id), copied).model_dump()}
    pool = payload.cleanup_pool
    first = fan_out(context, "cleanups", "cleanup_flow1", {"cleanup_flow1": {}}, pool=pool)
    second = fan_out(context, "cleanups", "cleanup_flow2", summary, pool=pool)
    return told(copied, gather(first) | gather(second))


@task("process_table_etl", payload=OneTable, max_retries=RETRIES, retry_base_seconds=RETRY_SECONDS)
def process_table_etl(payload: OneTable) -> dict[str, Any]:
    """Copy one table."""
    with place_of(Config()) as place:
        return process_table(place, payload.table)


@task("cleanup_flow1")
def cleanup_flow1(payload: dict[str, Any]) -> dict[str, Any]:
    """Remove what was left half-written."""
    with place_of(Config()) as place:
        return remove_leftovers(place)


@task("cleanup_flow2", payload=Summary)
def cleanup_flow2(payload: Summary) -> dict[str, Any]:
    """Record the run."""
    with place_of(Config()) as place:
        return record_run(place, payload)


def all_tables() -> list[str]:
    """The tables of the source. Raises `ConfigError` and `DatabaseUnavailable`."""
    with place_of(Config()) as place:
        return table_names(place.source)


# --- task mode: the same in one process -------------------------------------------------------------------


def run_here(
    config: Config,
    tables: Sequence[str] = (),
    *,
    pause: Callable[[float], None] = time.sleep,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """What `main_etl` returns, without workers. Raises `ChildrenFailed` as it does, `ConfigError`, and
    `DatabaseUnavailable` if the source does not answer at all. `progress(done, total)` is told of tables."""
    with place_of(config) as place:
        names = list(tables) or table_names(place.source)
        found: dict[str, Any] = {}
        for name in names:
            progress(len(found), len(names))
            found[name] = _tried(place, name, pause)
        progress(len(found), len(names))
        failed = {name: one for name, one in found.items() if isinstance(one, Undone)}
        if failed:
            raise ChildrenFailed(failed)
        summary = summed(f"here {time.time():.6f}", found)
        with ThreadPoolExecutor(2) as side_by_side:
            first = side_by_side.submit(remove_leftovers, place)
            second = side_by_side.submit(record_run, place, summary)
        return told(found, {"cleanup_flow1": first.result(), "cleanup_flow2": second.result()})


def _tried(place: Place, table: str, pause: Callable[[float], None]) -> Any:
    for retries_left in reversed(range(RETRIES + 1)):
        try:
            return process_table(place, table)
        except DoNotRetry as error:
            return Undone(Status.FAILED, str(error))
        except (CopyFailed, DatabaseUnavailable, OSError) as error:
            if not retries_left:
                return Undone(Status.FAILED, str(error))
        pause(RETRY_SECONDS)
    raise AssertionError
