"""the core tables"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from app.tasks.schema import LONG_TEXT, PriorityRank, StatusType, UtcDateTime, short_word

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def _index(name: str, column: str, *, unique: bool) -> None:
    """An index without the rows that have no value, where the database can leave them out."""
    filled = sa.text(f"{column} IS NOT NULL")
    op.create_index(name, "tasks", [column], unique=unique, postgresql_where=filled, sqlite_where=filled)


def upgrade() -> None:
    op.create_table(
        "locks",
        sa.Column("name", short_word(40), nullable=False),
        sa.Column("holder", short_word(100), nullable=False),
        sa.Column("until_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
        mysql_charset="utf8mb4",
        mysql_engine="InnoDB",
    )
    op.create_table(
        "memory",
        sa.Column("name", short_word(40), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
        mysql_charset="utf8mb4",
        mysql_engine="InnoDB",
    )
    op.create_table(
        "routing",
        sa.Column("priority", PriorityRank(), autoincrement=False, nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("redis_percent", sa.SmallInteger(), nullable=False),
        sa.Column("name_percents", sa.Text(), nullable=False),
        sa.Column("paused", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("fenced_track", sa.String(length=8), nullable=True),
        sa.Column("fallback", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("intake", sa.String(length=8), server_default="open", nullable=False),
        sa.Column("intake_until", UtcDateTime(), nullable=True),
        sa.Column("intake_reason", sa.String(length=500), nullable=True),
        sa.CheckConstraint("redis_percent BETWEEN 0 AND 100", name="ck_routing_percent"),
        sa.PrimaryKeyConstraint("priority"),
        mysql_charset="utf8mb4",
        mysql_engine="InnoDB",
    )
    op.create_table(
        "task_events",
        sa.Column(
            "id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False
        ),
        sa.Column("task_id", sa.BigInteger(), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("kind", sa.String(length=40), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        mysql_charset="utf8mb4",
        mysql_engine="InnoDB",
    )
    op.create_index("ix_task_events_task", "task_events", ["task_id"], unique=False)
    op.create_table(
        "tasks",
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("name", short_word(100), nullable=False),
        sa.Column("status", StatusType(length=12), nullable=False),
        sa.Column("priority", PriorityRank(), nullable=False),
        sa.Column("epoch", sa.Integer(), server_default="1", nullable=False),
        sa.Column("attempt", sa.Integer(), server_default="0", nullable=False),
        sa.Column("failures", sa.Integer(), server_default="0", nullable=False),
        sa.Column("max_retries", sa.Integer(), nullable=True),
        sa.Column("timeout_seconds", sa.Integer(), nullable=True),
        sa.Column("payload", LONG_TEXT, nullable=False),
        sa.Column("user_id", short_word(128), nullable=True),
        sa.Column("active_key", short_word(160), nullable=True),
        sa.Column("idempotency_key", short_word(128), nullable=True),
        sa.Column("token", sa.BigInteger(), nullable=True),
        sa.Column("holder", short_word(100), nullable=True),
        sa.Column("lease_until", UtcDateTime(), nullable=True),
        sa.Column("confirmed_in", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("cancel_requested", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("held", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("progress_percent", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("progress_step", sa.String(length=200), nullable=True),
        sa.Column("result", LONG_TEXT, nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("run_at", UtcDateTime(), nullable=True),
        sa.Column("waiting_since", UtcDateTime(), nullable=True),
        sa.Column("started_at", UtcDateTime(), nullable=True),
        sa.Column("ended_at", UtcDateTime(), nullable=True),
        sa.CheckConstraint(
            "status IN ('SCHEDULED', 'QUEUED', 'DISPATCHED', 'PROCESSING',"
            " 'COMPLETED', 'FAILED', 'CANCELLED', 'QUARANTINED')",
            name="ck_tasks_status",
        ),
        sa.CheckConstraint("priority BETWEEN 0 AND 3", name="ck_tasks_priority"),
        sa.PrimaryKeyConstraint("id"),
        mysql_charset="utf8mb4",
        mysql_engine="InnoDB",
        mysql_row_format="DYNAMIC",
    )
    _index("ix_tasks_run_at", "run_at", unique=False)
    op.create_index("ix_tasks_waiting", "tasks", ["status", "priority", "confirmed_in", "id"], unique=False)
    _index("uq_tasks_active_key", "active_key", unique=True)
    _index("uq_tasks_idempotency_key", "idempotency_key", unique=True)
    op.create_table(
        "workers",
        sa.Column("id", short_word(100), nullable=False),
        sa.Column("host", sa.String(length=100), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("track", sa.String(length=8), nullable=False),
        sa.Column("queues", sa.String(length=200), nullable=False),
        sa.Column("state", sa.String(length=10), nullable=False),
        sa.Column("done", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("started_at", UtcDateTime(), nullable=False),
        sa.Column("seen_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        mysql_charset="utf8mb4",
        mysql_engine="InnoDB",
    )


def downgrade() -> None:
    op.drop_table("workers")
    op.drop_index("uq_tasks_idempotency_key", table_name="tasks")
    op.drop_index("uq_tasks_active_key", table_name="tasks")
    op.drop_index("ix_tasks_waiting", table_name="tasks")
    op.drop_index("ix_tasks_run_at", table_name="tasks")
    op.drop_table("tasks")
    op.drop_index("ix_task_events_task", table_name="task_events")
    op.drop_table("task_events")
    op.drop_table("routing")
    op.drop_table("memory")
    op.drop_table("locks")
