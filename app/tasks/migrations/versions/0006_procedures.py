"""procedures: the recorded phases of a whole migration and of its rollback"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from app.tasks.schema import LONG_TEXT, UtcDateTime, short_word

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "procedures",
        sa.Column(
            "id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False
        ),
        sa.Column("state", sa.String(length=12), nullable=False),
        sa.Column("phase", sa.String(length=12), nullable=False),
        sa.Column("plan", LONG_TEXT, nullable=False),
        sa.Column("plan_hash", sa.String(length=32), nullable=False),
        sa.Column("record", LONG_TEXT, nullable=False),
        sa.Column("holder", short_word(100), nullable=True),
        sa.Column("lease_until", UtcDateTime(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.Column("ended_at", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        mysql_charset="utf8mb4",
        mysql_engine="InnoDB",
    )


def downgrade() -> None:
    op.drop_table("procedures")
