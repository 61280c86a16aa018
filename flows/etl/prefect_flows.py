"""The ETL as flows of Prefect 3: the functions of `flows.etl`, with a flow run per table on the work pool.

A worker of Prefect loads this file; `flows.etl.prefect_client` deploys it. Workers on several hosts share no
folder, so what a run returns travels as the message of its last state, as JSON.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator, Mapping
from typing import Any
from uuid import UUID

from prefect import flow, get_client, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterParentFlowRunId
from prefect.client.schemas.objects import FlowRun, State
from prefect.deployments import run_deployment
from prefect.runtime import flow_run as this_run
from prefect.states import Completed, Failed

from app.distributed import ChildrenFailed, Undone
from app.distributed.fan_out import ChildrenLate
from app.distributed.table_copy import CopyFailed
from app.tasks.errors import DatabaseUnavailable
from app.tasks.handlers import DoNotRetry
from app.tasks.model import Status
from config import ConfigError
from flows import etl
from flows.etl.deployed import CLEANUP_1, CLEANUP_2, TABLE

LOOK_SECONDS = 1.0
PAGE = 200
# Those that come with a sentence for people; whatever else is raised, Prefect tells with its traceback.
FAILURES = (CopyFailed, ChildrenFailed, ChildrenLate, DoNotRetry, DatabaseUnavailable, ConfigError, OSError)


@flow(name="main-etl-job")
def main_etl_job(tables: list[str] | None = None) -> State:
    """A flow run per table, then both cleanups side by side. A retry of it repeats only what failed."""
    try:
        names = tables or etl.all_tables()
        copied = gathered(fanned_out(TABLE, {name: {"table": name} for name in names}))
        summary = etl.summed(str(this_run.id), copied).model_dump()
        first = fanned_out(CLEANUP_1, {"cleanup_flow1": {}})
        second = fanned_out(CLEANUP_2, {"cleanup_flow2": summary})
        return completed(etl.told(copied, gathered(first | second)))
    except FAILURES as error:
        return Failed(message=str(error))


@flow(name="process-table-etl")
def process_table_etl(table: str) -> State:
    """Copy one table."""
    try:
        return completed(copy_table(table))
    except FAILURES as error:
        return Failed(message=str(error))


@flow(name="cleanup-flow-1")
def cleanup_flow_1() -> State:
    """Remove what was left half-written."""
    return completed(etl.cleanup_flow1({}))


@flow(name="cleanup-flow-2")
def cleanup_flow_2(run: str, tables: int, rows: int) -> State:
    """Record the run."""
    return completed(etl.cleanup_flow2(etl.Summary(run=run, tables=tables, rows=rows)))


def worth_another_try(task: Any, task_run: Any, state: State) -> bool:
    """What a table's failure says of the next try."""
    return not isinstance(state.result(raise_on_failure=False), DoNotRetry)


@task(
    name="copy-table",
    tags=[etl.TAG],
    retries=etl.RETRIES,
    retry_delay_seconds=etl.RETRY_SECONDS,
    retry_condition_fn=worth_another_try,
    cache_policy=NO_CACHE,
)
def copy_table(table: str) -> dict[str, Any]:
    """The part of a table's run that takes a place of the tag's limit, through its retries, too."""
    copied: dict[str, Any] = etl.process_table_etl(etl.OneTable(table=table))
    return copied


# --- parents and children ---------------------------------------------------------------------------------


def fanned_out(deployment: str, parameters: Mapping[str, Any]) -> dict[str, UUID]:
    """Start a run of the deployment per name, as a child of this one. A child that an earlier try of this run
    has started stands, unless it has ended without success."""
    with get_client(sync_client=True) as client:
        wanted = client.read_deployment_by_name(deployment).id
        earlier = {
            child.name: child.id
            for child in sorted(children(client, this_run.id), key=lambda child: child.created)
            if child.deployment_id == wanted and (not child.state.is_final() or child.state.is_completed())
        }
    return {
        name: earlier.get(name)
        or run_deployment(deployment, parameters=given, flow_run_name=name, timeout=0).id
        for name, given in parameters.items()
    }


def gathered(runs: Mapping[str, UUID]) -> dict[str, Any]:
    """What these children returned, by name. Raises `ChildrenFailed`, and `ChildrenLate` after the time limit
    of the ETL; those that are late go on."""
    deadline = time.monotonic() + etl.LIMIT_SECONDS
    with get_client(sync_client=True) as client:
        while True:
            states = {child.id: child.state for child in children(client, this_run.id)}
            still_open = [name for name, run in runs.items() if not states[run].is_final()]
            if not still_open:
                break
            if time.monotonic() >= deadline:
                raise ChildrenLate(still_open, etl.LIMIT_SECONDS)
            time.sleep(LOOK_SECONDS)
    found = {name: brought(states[run]) for name, run in runs.items()}
    if failed := {name: one for name, one in found.items() if isinstance(one, Undone)}:
        raise ChildrenFailed(failed)
    return found


def children(client: SyncPrefectClient, parent: UUID | str) -> Iterator[FlowRun]:
    """All runs that a run and its earlier tries have started."""
    own = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[parent]))
    for offset in itertools.count(0, PAGE):
        page = client.read_flow_runs(flow_run_filter=own, limit=PAGE, offset=offset)
        yield from page
        if len(page) < PAGE:
            return


def completed(result: Any) -> State:
    """The last state of a run that returns this."""
    return Completed(message=json.dumps(result))


def brought(state: State) -> Any:
    """What the run whose last state this is returned, or an `Undone`."""
    if state.is_completed() and state.message:
        return json.loads(state.message)
    ended = Status.CANCELLED if state.is_cancelled() else Status.FAILED
    return Undone(ended, state.message or state.name)
