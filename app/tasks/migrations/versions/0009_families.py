"""families: parents, their children, and limits of tags"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from app.tasks.schema import UtcDateTime, short_word

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_MYSQL: Any = {"mysql_charset": "utf8mb4", "mysql_engine": "InnoDB"}


def upgrade() -> None:
    op.create_table(
        "parents",
        sa.Column("task_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("waits", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("again", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("deadline_at", UtcDateTime(), nullable=True),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("task_id"),
        **_MYSQL,
    )
    op.create_index("ix_parents_waits", "parents", ["waits"])
    op.create_table(
        "children",
        sa.Column("task_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("parent_id", sa.BigInteger(), nullable=False),
        sa.Column("phase", short_word(40), nullable=False),
        sa.Column("name", short_word(60), nullable=False),
        sa.Column("tag", short_word(40), nullable=True),
        sa.Column("admitted", sa.Boolean(), nullable=False),
        sa.Column("ended", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.PrimaryKeyConstraint("task_id"),
        **_MYSQL,
    )
    op.create_index("ix_children_parent", "children", ["parent_id", "ended"])
    op.create_index("ix_children_open", "children", ["ended", "tag", "admitted", "task_id"])
    op.create_table(
        "tag_limits",
        sa.Column("tag", short_word(40), nullable=False),
        sa.Column("at_most", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("tag"),
        **_MYSQL,
    )


def downgrade() -> None:
    op.drop_table("tag_limits")
    op.drop_table("children")
    op.drop_table("parents")
