"""Records written by plain SQL, and a processor beside them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from app.distributed import DatabaseManager, DistributedProcessor
from config import Config
from tests.contract.rows import Rows

LANES = {"survey": 101, "invoices": 102}
# How fast a loaded machine answers is no matter of these tests.
UNHURRIED = {"ALERT_DATABASE_RESPONSE_WARNING": 60_000.0, "ALERT_DATABASE_RESPONSE_CRITICAL": 60_000.0}


@contextmanager
def processor_over(rows: Rows, **settings: Any) -> Iterator[DistributedProcessor]:
    """As another process has it, over the same tables."""
    settings = {"DATABASE_URL": rows.url, "RQ_ENABLED": False} | UNHURRIED | settings
    database = DatabaseManager(Config.for_tests({}, **settings))
    with closing(database), DistributedProcessor(database) as processor:
        yield processor


def open_lanes(rows: Rows) -> None:
    for name, lane in LANES.items():
        rows.execute(
            "INSERT INTO flows (name, lane, created_at) VALUES (:name, :lane, :at)",
            name=name,
            lane=lane,
            at=rows.at(-9999),
        )


def put_records(rows: Rows, status: str, count: int = 1, *, flow: str = "survey", **columns: Any) -> int:
    """Records of a flow; returns the first id."""
    return rows.put(status, count=count, name=flow, priority=LANES[flow], **columns)


def put_ended(
    rows: Rows,
    status: str,
    count: int = 1,
    *,
    flow: str = "survey",
    ago: float,
    took: float = 10,
    **columns: Any,
) -> int:
    """Records that ended so many seconds ago, so many seconds after their claim."""
    times = {"ended_at": rows.at(-ago), "started_at": rows.at(-ago - took)}
    return put_records(rows, status, count, flow=flow, **times, **columns)


def put_claimed(
    rows: Rows,
    count: int = 1,
    *,
    flow: str = "survey",
    ago: float,
    lease: float = 3600,
    holder: str = "host:1",
) -> int:
    """Records that were claimed so many seconds ago; a negative `lease` is over."""
    times = {"started_at": rows.at(-ago), "lease_until": rows.at(lease)}
    return put_records(rows, "PROCESSING", count, flow=flow, holder=holder, **times)


def put_run(rows: Rows, *, instance: str, records: int, seconds: float, ago: float, failed: int = 0) -> None:
    """A line of the log of runs."""
    rows.execute(
        "INSERT INTO flow_execution_logs (flow_name, flow_instance_id, mode, records_claimed,"
        " records_completed, records_failed, started_at, ended_at)"
        " VALUES ('survey', :instance, 'distributed', :claimed, :completed, :failed, :began, :ended)",
        instance=instance,
        claimed=records,
        completed=records - failed,
        failed=failed,
        began=rows.at(-ago - seconds),
        ended=rows.at(-ago),
    )
