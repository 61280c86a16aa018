"""Databases as an operator sees them: do they answer and how fast, are connections left, are indexes used?"""

from __future__ import annotations

from typing import Any

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from app.distributed.databases import QUEUE_DATABASE, DatabaseManager
from app.distributed.flow_runs import own_processor
from app.distributed.processor import DistributedProcessor
from app.monitoring.thresholds import Level, judged
from app.tasks.errors import TaskError

# Counted since the server started, or its counters were reset. The tables are those of the database in use.
_USAGE = {
    "postgresql": "SELECT relname, indexrelname, idx_scan, idx_tup_read FROM pg_stat_user_indexes"
    " WHERE schemaname = ANY (current_schemas(false)) ORDER BY relname, indexrelname",
    "mysql": "SELECT s.table_name, s.index_name, NULL, u.rows_read"
    " FROM (SELECT DISTINCT table_schema, table_name, index_name FROM information_schema.statistics) s"
    " LEFT JOIN information_schema.index_statistics u ON u.table_schema = s.table_schema"
    " AND u.table_name = s.table_name AND u.index_name = s.index_name"
    " WHERE s.table_schema = DATABASE() ORDER BY s.table_name, s.index_name",
    "sqlite": "SELECT tbl_name, name, NULL, NULL FROM sqlite_schema WHERE type = 'index'"
    " ORDER BY tbl_name, name",
}
_SCHEMA_USAGE = (
    "SELECT object_name, index_name, count_read, NULL"
    " FROM performance_schema.table_io_waits_summary_by_index_usage"
    " WHERE object_schema = DATABASE() AND index_name IS NOT NULL ORDER BY object_name, index_name"
)
POOL_ADVICE = (
    "Connections run short: raise DB_POOL_SIZE or DB_MAX_OVERFLOW (for a named database its _POOL_SIZE),"
    " or let fewer threads work in one process."
)


def database_health_check(
    name: str = QUEUE_DATABASE, include_retry: bool = True, *, processor: DistributedProcessor | None = None
) -> dict[str, Any]:
    """`status` healthy, degraded (slow, or only a later try was answered) or unhealthy; `connection`,
    `response_time_ms`, `level` by the thresholds. Never raises for a database that is away; `ConfigError`
    for a name that no variable resolves."""
    own = processor or own_processor()
    said = _manager(own, name).health_check(name, retry=include_retry)
    level = judged(own.system.config, "database_response", said["response_time_ms"]).level
    return said | {"level": (level if said["connection"] else Level.CRITICAL).value}


def connection_pool_monitoring(
    name: str = QUEUE_DATABASE, *, processor: DistributedProcessor | None = None
) -> dict[str, Any]:
    """This process's connections to a database: the pool of `DatabaseManager`, and for the queue's the pools
    that claims and settlements use (`pools`). `utilization_percent` is that of the fullest; `level` and
    `recommendations` by the thresholds. Connects to nothing."""
    own = processor or own_processor()
    said = _manager(own, name).get_pool_status(name)
    pools = {"statements by name": said["utilization_percent"]}
    if name == own.database.name:
        pools |= own.system.store.database.pool_use()
    said["utilization_percent"] = max(pools.values())
    judgement = judged(own.system.config, "pool_use", said["utilization_percent"])
    advice = [] if judgement.level is Level.OK else [POOL_ADVICE]
    return said | {"pools": pools, "level": judgement.level.value, "recommendations": advice}


def index_usage(*, processor: DistributedProcessor | None = None) -> dict[str, Any]:
    """`indexes` of the queue's database: `table`, `index`, `scans`, `rows_read`; None where the server does
    not count, and `note` says then what makes it count. Raises `DatabaseUnavailable`."""
    own = processor or own_processor()
    kind = own.system.store.database.kind
    rows, note = _usage(own, kind)
    names = ("table", "index", "scans", "rows_read")
    return {"database": kind, "indexes": [dict(zip(names, row, strict=True)) for row in rows], "note": note}


def _usage(own: DistributedProcessor, kind: str) -> tuple[list[tuple[Any, ...]], str]:
    if kind == "sqlite":
        return _rows(own, _USAGE[kind]), "SQLite does not count the use of an index."
    if kind == "postgresql":
        return _rows(own, _USAGE[kind]), ""
    if _setting(own, "performance_schema"):
        return _rows(own, _SCHEMA_USAGE), ""
    if _setting(own, "userstat"):
        return _rows(own, _USAGE[kind]), "MariaDB counts the rows read by an index, not its scans."
    plain = _USAGE[kind].partition(" LEFT JOIN")[0].replace("u.rows_read", "NULL")
    note = "The server does not count: SET GLOBAL userstat = 1, or start it with performance_schema=ON."
    return _rows(own, f"{plain} WHERE s.table_schema = DATABASE() ORDER BY 1, 2"), note


def _setting(own: DistributedProcessor, name: str) -> bool:
    try:
        return bool(_rows(own, f"SELECT @@{name}")[0][0])
    except (DBAPIError, TaskError):
        return False  # MySQL knows no userstat


def _rows(own: DistributedProcessor, sql: str) -> list[tuple[Any, ...]]:
    found = own.system.store.database.read(lambda on: on.execute(text(sql)).all())
    return [tuple(row) for row in found]


def _manager(own: DistributedProcessor, name: str) -> DatabaseManager:
    """Whoever has connections to this database already, or else knows how to get them."""
    source = own.source_database
    return source if source is not None and source.name == name else own.database
