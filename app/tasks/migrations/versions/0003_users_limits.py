"""limits of running tasks per user: who waits, and the gates that claims pass"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from app.tasks.schema import PriorityRank, short_word

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

GATES = 64


def upgrade() -> None:
    op.create_table(
        "user_waits",
        sa.Column("task_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("user_id", short_word(128), nullable=False),
        sa.Column("priority", PriorityRank(), nullable=False),
        sa.PrimaryKeyConstraint("task_id"),
        mysql_charset="utf8mb4",
        mysql_engine="InnoDB",
    )
    op.create_index("ix_user_waits_next", "user_waits", ["user_id", "priority", "task_id"], unique=False)
    gates = op.create_table(
        "user_gates",
        sa.Column("id", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("id"),
        mysql_charset="utf8mb4",
        mysql_engine="InnoDB",
    )
    op.bulk_insert(gates, [{"id": number} for number in range(GATES)])


def downgrade() -> None:
    op.drop_table("user_gates")
    op.drop_index("ix_user_waits_next", table_name="user_waits")
    op.drop_table("user_waits")
