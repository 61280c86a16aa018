"""Tables that stand between our database and a legacy table in another one: no transaction spans both."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, String, Table, Text

from app.tasks.dialects import LONG_TEXT, PriorityRank, UtcDateTime, short_word
from app.tasks.schema import metadata

# Rows that an import may have marked as moved and that have no task yet: written before the row is marked,
# deleted in the transaction that stores its task.
legacy_stages = Table(
    "legacy_stages",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("source", short_word(32), nullable=False),
    Column("priority", PriorityRank, nullable=False),
    Column("row_key", Text, nullable=False),
    Index("ix_legacy_stages_next", "source", "priority", "id"),
    mysql_engine="InnoDB",
    mysql_charset="utf8mb4",
)

# What rows are still to be told of their tasks: written in the transaction that ends the task, deleted once
# the row has it. `told` is the task's status, or QUEUED for a row that is given back.
legacy_ends = Table(
    "legacy_ends",
    metadata,
    Column("task_id", BigInteger, primary_key=True, autoincrement=False),
    Column("source", short_word(32), nullable=False),
    Column("row_key", Text, nullable=False),
    Column("told", String(12), nullable=False),
    Column("result", LONG_TEXT),
    Column("error", Text),
    Column("attempts", Integer),
    Column("ended_at", UtcDateTime, nullable=False),
    Index("ix_legacy_ends_next", "source", "task_id"),
    mysql_engine="InnoDB",
    mysql_charset="utf8mb4",
)
