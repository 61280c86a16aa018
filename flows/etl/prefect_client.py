"""The ETL on a Prefect server, as its users see it: what is deployed there, a run, its end.

The server, its key and the work pool are those of the settings, whatever profile of Prefect is active; a
server that asks for a user and password takes them from PREFECT_API_AUTH_STRING, which Prefect reads itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from httpx import HTTPStatusError, RequestError
from prefect import get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.objects import State
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_KEY, PREFECT_API_URL, temporary_settings
from prefect.utilities.callables import parameter_schema
from prefect.workers.process import ProcessWorker

from app.distributed import Undone
from config import ROOT, Config, ConfigError
from flows import etl
from flows.etl import prefect_flows
from flows.etl.deployed import DEPLOYMENTS, MAIN, RunFailed

LOOK_SECONDS = 1.0
ENTRY = "flows/etl/prefect_flows.py"
FLOWS = {
    one.name: one
    for one in (
        prefect_flows.main_etl_job,
        prefect_flows.process_table_etl,
        prefect_flows.cleanup_flow_1,
        prefect_flows.cleanup_flow_2,
    )
}
REFUSALS = (401, 403)


def deploy(config: Config) -> list[str]:
    """Make the work pool, its limit and the tag's, and the deployments. Returns their names.

    The tag's limit is left as it is if there is one. Raises `ConfigError` if the server cannot be used, as
    all of these do.
    """
    with _server(config) as client:
        _make_pool(client, config.PREFECT_WORK_POOL, config.PREFECT_CONCURRENCY_LIMIT)
        _limit_tag(client)
        for one in DEPLOYMENTS:
            flow_name, _, name = one.name.partition("/")
            flow = FLOWS[flow_name]
            client.create_deployment(
                client.create_flow(flow),
                name,
                parameters=one.payload,
                parameter_openapi_schema=parameter_schema(flow).model_dump_for_openapi(),
                enforce_parameter_schema=True,
                work_pool_name=config.PREFECT_WORK_POOL,
                entrypoint=f"{ENTRY}:{flow.fn.__name__}",
                pull_steps=[{"prefect.deployments.steps.set_working_directory": {"directory": str(ROOT)}}],
            )
        return [one.name for one in DEPLOYMENTS]


def run(
    config: Config, tables: list[str], *, timeout_seconds: float, progress: Callable[[int, int], None]
) -> dict[str, Any]:
    """Start the main deployment and wait for its end. Returns what `run_here` does, raises `RunFailed`.
    `progress(done, total)` is told of its children."""
    deadline = time.monotonic() + timeout_seconds
    with _server(config) as client:
        main = client.read_deployment_by_name(MAIN).id
        parent = client.create_flow_run_from_deployment(main, parameters={"tables": tables or None}).id
        while not (state := client.read_flow_run(parent).state).is_final():
            if time.monotonic() >= deadline:
                raise RunFailed(f"The run {parent} has not ended in time, and goes on.")
            progress(*_tally(client, parent))
            time.sleep(LOOK_SECONDS)
        progress(*_tally(client, parent))
    return _result(state)


def deployed(config: Config) -> bool:
    """True if the main deployment is there."""
    with _server(config) as client:
        try:
            client.read_deployment_by_name(MAIN)
        except ObjectNotFound:
            return False
        return True


def worker_lives(config: Config) -> bool:
    """True if the work pool has a worker that has been heard of lately."""
    with _server(config) as client:
        workers = client.read_workers_for_work_pool(config.PREFECT_WORK_POOL)
        return any(worker.status == "ONLINE" for worker in workers)


def _result(state: State) -> dict[str, Any]:
    found = prefect_flows.brought(state)
    if isinstance(found, Undone):
        raise RunFailed(found.error)
    result: dict[str, Any] = found
    return result


def _tally(client: SyncPrefectClient, parent: Any) -> tuple[int, int]:
    ended = [child.state.is_final() for child in prefect_flows.children(client, parent)]
    return sum(ended), len(ended)


def _make_pool(client: SyncPrefectClient, name: str, limit: int) -> None:
    try:
        pool = client.read_work_pool(name)
    except ObjectNotFound:
        template = ProcessWorker.get_default_base_job_template()
        made = WorkPoolCreate(name=name, type="process", base_job_template=template, concurrency_limit=limit)
        client.create_work_pool(made)
        return
    if pool.type != "process":
        raise ConfigError([f"The work pool {name} is of the type {pool.type}, and not process."])
    client.update_work_pool(name, WorkPoolUpdate(concurrency_limit=limit))


def _limit_tag(client: SyncPrefectClient) -> None:
    name = f"tag:{etl.TAG}"
    try:
        client.read_global_concurrency_limit_by_name(name)
    except ObjectNotFound:
        limit = GlobalConcurrencyLimitCreate(name=name, limit=etl.TABLES_AT_A_TIME)
        client.create_global_concurrency_limit(limit)


@contextmanager
def _server(config: Config) -> Iterator[SyncPrefectClient]:
    """A client of the server. What keeps it from answering becomes a `ConfigError`, without the key."""
    settings = {PREFECT_API_URL: config.PREFECT_API_URL, PREFECT_API_KEY: config.PREFECT_API_KEY}
    chosen = {name: value for name, value in settings.items() if value is not None}
    where = f"Prefect at {config.shown('PREFECT_API_URL')}"
    sentence = ""
    try:
        with temporary_settings(chosen), get_client(sync_client=True) as client:
            yield client
    except HTTPStatusError as error:
        status = error.response.status_code
        sentence = f"{where} answered with {status}."
        if status in REFUSALS:
            sentence = f"{where} refused us ({status}): set PREFECT_API_KEY, or PREFECT_API_AUTH_STRING."
    except RequestError as error:
        sentence = f"{where} does not answer ({type(error).__name__}); make prefect-server starts one here."
    if sentence:  # outside the except block: its traceback would show headers
        raise ConfigError([sentence])
