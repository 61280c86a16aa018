"""legacy sources: what imported tables call things, and imported tasks that wait for a place of their user"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from app.tasks.schema import LONG_TEXT, PriorityRank, UtcDateTime, short_word

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "legacy_sources",
        sa.Column("name", short_word(32), nullable=False),
        sa.Column("definition", LONG_TEXT, nullable=False),
        sa.Column("writing", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("changed_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
        mysql_charset="utf8mb4",
        mysql_engine="InnoDB",
    )
    op.create_table(
        "slot_waits",
        sa.Column("task_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("user_id", short_word(128), nullable=False),
        sa.Column("priority", PriorityRank(), nullable=False),
        sa.PrimaryKeyConstraint("task_id"),
        mysql_charset="utf8mb4",
        mysql_engine="InnoDB",
    )
    op.create_index("ix_slot_waits_next", "slot_waits", ["user_id", "priority", "task_id"], unique=False)


def downgrade() -> None:
    op.drop_index("ix_slot_waits_next", table_name="slot_waits")
    op.drop_table("slot_waits")
    op.drop_table("legacy_sources")
