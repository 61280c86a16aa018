"""The names by which the ETL is started, on Twintrack's own workers and on Prefect's alike."""

from __future__ import annotations

from app.distributed.deployments import Deployment

MAIN = "main-etl-job/main-etl-deployment"
TABLE = "process-table-etl/process-table-etl-deployment"
CLEANUP_1 = "cleanup-flow-1/cleanup-flow-1-deployment"
CLEANUP_2 = "cleanup-flow-2/cleanup-flow-2-deployment"
DEPLOYMENTS = (
    Deployment(MAIN, "main_etl"),
    Deployment(TABLE, "process_table_etl", {"table": "shop_01"}),
    Deployment(CLEANUP_1, "cleanup_flow1"),
    Deployment(CLEANUP_2, "cleanup_flow2", {"run": "by hand", "tables": 0, "rows": 0}),
)


class RunFailed(Exception):
    """The sentence says what became of the run."""
