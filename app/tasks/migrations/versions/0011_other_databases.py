"""legacy tables in other databases: what stands between them and ours"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from app.tasks.dialects import LONG_TEXT
from app.tasks.schema import PriorityRank, UtcDateTime, short_word

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_MYSQL: Any = {"mysql_charset": "utf8mb4", "mysql_engine": "InnoDB"}


def upgrade() -> None:
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "legacy_stages",
        sa.Column("id", number, autoincrement=True, nullable=False),
        sa.Column("source", short_word(32), nullable=False),
        sa.Column("priority", PriorityRank(), nullable=False),
        sa.Column("row_key", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        **_MYSQL,
    )
    op.create_index("ix_legacy_stages_next", "legacy_stages", ["source", "priority", "id"])
    op.create_table(
        "legacy_ends",
        sa.Column("task_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("source", short_word(32), nullable=False),
        sa.Column("row_key", sa.Text(), nullable=False),
        sa.Column("told", sa.String(12), nullable=False),
        sa.Column("result", LONG_TEXT, nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=True),
        sa.Column("ended_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("task_id"),
        **_MYSQL,
    )
    op.create_index("ix_legacy_ends_next", "legacy_ends", ["source", "task_id"])


def downgrade() -> None:
    op.drop_table("legacy_ends")
    op.drop_table("legacy_stages")
