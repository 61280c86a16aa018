"""records: lanes of flows, the log of their runs, and the view that shows their queue"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from app.tasks.schema import UtcDateTime, short_word

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_MYSQL: Any = {"mysql_charset": "utf8mb4", "mysql_engine": "InnoDB"}
_QUEUES = "priority BETWEEN 0 AND 3"
_QUEUES_AND_LANES = "priority BETWEEN 0 AND 3 OR priority > 100"

_VIEW = """
CREATE VIEW processing_queue AS
SELECT id, name AS flow_name, payload,
       CASE WHEN status IN ('SCHEDULED', 'QUEUED') THEN 'pending'
            WHEN status = 'PROCESSING' THEN 'processing'
            WHEN status = 'COMPLETED' THEN 'completed'
            ELSE 'failed' END AS status,
       holder AS flow_instance_id, started_at AS claimed_at,
       CASE WHEN status = 'COMPLETED' THEN ended_at END AS completed_at,
       error AS error_message, failures AS retry_count, created_at,
       COALESCE(ended_at, started_at, waiting_since, created_at) AS updated_at
FROM tasks WHERE priority > 100
"""


def upgrade() -> None:
    op.create_table(
        "flows",
        sa.Column("name", short_word(60), nullable=False),
        sa.Column("lane", sa.SmallInteger(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
        **_MYSQL,
    )
    op.create_index("uq_flows_lane", "flows", ["lane"], unique=True)
    op.create_table(
        "flow_execution_logs",
        sa.Column(
            "id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False
        ),
        sa.Column("flow_name", short_word(60), nullable=False),
        sa.Column("flow_instance_id", short_word(100), nullable=False),
        sa.Column("mode", sa.String(length=12), nullable=False),
        sa.Column("records_claimed", sa.Integer(), nullable=False),
        sa.Column("records_completed", sa.Integer(), nullable=False),
        sa.Column("records_failed", sa.Integer(), nullable=False),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("started_at", UtcDateTime(), nullable=False),
        sa.Column("ended_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        **_MYSQL,
    )
    op.create_index("ix_flow_execution_logs_flow", "flow_execution_logs", ["flow_name", "id"])
    _allow(_QUEUES, _QUEUES_AND_LANES)
    op.execute(_VIEW)


def downgrade() -> None:
    op.execute("DROP VIEW processing_queue")
    _allow(_QUEUES_AND_LANES, _QUEUES)
    op.drop_table("flow_execution_logs")
    op.drop_table("flows")


def _allow(before: str, after: str) -> None:
    """Let `tasks.priority` be something else."""
    if op.get_bind().dialect.name != "sqlite":
        op.drop_constraint("ck_tasks_priority", "tasks", type_="check")
        op.create_check_constraint("ck_tasks_priority", "tasks", after)
        return
    # SQLite cannot change a constraint, and its manual has this for those that need no row to be written
    # (https://www.sqlite.org/lang_altertable.html, 7); the text of the table is what it obeys.
    bind = op.get_bind()
    version = bind.exec_driver_sql("PRAGMA schema_version").scalar_one()
    bind.exec_driver_sql("PRAGMA writable_schema = ON")
    changed = bind.exec_driver_sql(
        "UPDATE sqlite_schema SET sql = replace(sql, ?, ?) WHERE type = 'table' AND name = 'tasks'",
        (f"({before})", f"({after})"),
    )
    assert changed.rowcount == 1
    bind.exec_driver_sql(f"PRAGMA schema_version = {int(version) + 1}")
    bind.exec_driver_sql("PRAGMA writable_schema = OFF")
