"""pools: their lanes and limits"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from app.tasks.schema import UtcDateTime, short_word

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_MYSQL: Any = {"mysql_charset": "utf8mb4", "mysql_engine": "InnoDB"}


def upgrade() -> None:
    op.create_table(
        "pools",
        sa.Column("name", short_word(40), nullable=False),
        sa.Column("lane", sa.SmallInteger(), nullable=False),
        sa.Column("at_most", sa.Integer(), nullable=True),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
        **_MYSQL,
    )
    op.create_index("uq_pools_lane", "pools", ["lane"], unique=True)


def downgrade() -> None:
    op.drop_table("pools")
