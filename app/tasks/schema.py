"""The tables of the core, portable over SQLite, MariaDB/MySQL and PostgreSQL.

Column types and what differs between the databases come from `dialects`. It reads and writes nothing.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    Index,
    Integer,
    MetaData,
    Row,
    SmallInteger,
    String,
    Table,
    Text,
    false,
    text,
    type_coerce,
)
from sqlalchemy.sql.elements import ColumnElement

from app.tasks.dialects import LONG_TEXT as LONG_TEXT
from app.tasks.dialects import PriorityRank as PriorityRank
from app.tasks.dialects import StatusType as StatusType
from app.tasks.dialects import UtcDateTime as UtcDateTime
from app.tasks.dialects import database_now as database_now
from app.tasks.dialects import short_word as short_word
from app.tasks.model import FLOW_RANK, Status

# A row of columns whose types the type checker is not told.
AnyRow = Row[*tuple[Any, ...]]

metadata = MetaData()
_ON_MYSQL: Any = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4"}


def _filled(column: str) -> dict[str, Any]:
    """Leave empty values out of an index where the database can: most rows have none, and PostgreSQL would
    write an entry for them at every update of the row."""
    condition = text(f"{column} IS NOT NULL")
    return {"postgresql_where": condition, "sqlite_where": condition}


_STATUSES = ", ".join(f"'{status}'" for status in Status)

tasks = Table(
    "tasks",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("name", short_word(100), nullable=False),
    Column("status", StatusType, nullable=False),
    Column("priority", PriorityRank, nullable=False),
    Column("epoch", Integer, nullable=False, server_default="1"),
    Column("attempt", Integer, nullable=False, server_default="0"),
    Column("failures", Integer, nullable=False, server_default="0"),
    Column("max_retries", Integer),
    Column("timeout_seconds", Integer),
    Column("payload", LONG_TEXT, nullable=False),
    Column("user_id", short_word(128)),
    Column("active_key", short_word(160)),
    Column("idempotency_key", short_word(128)),
    Column("token", BigInteger),
    Column("holder", short_word(100)),
    Column("lease_until", UtcDateTime),
    Column("confirmed_in", BigInteger, nullable=False, server_default="0"),
    Column("cancel_requested", Boolean, nullable=False, server_default=false()),
    Column("held", Boolean, nullable=False, server_default=false()),
    Column("progress_percent", SmallInteger, nullable=False, server_default="0"),
    Column("progress_step", String(200)),
    Column("result", LONG_TEXT),
    Column("error", Text),
    Column("created_at", UtcDateTime, nullable=False),
    Column("run_at", UtcDateTime),
    Column("waiting_since", UtcDateTime),
    Column("started_at", UtcDateTime),
    Column("ended_at", UtcDateTime),
    CheckConstraint(f"status IN ({_STATUSES})", name="ck_tasks_status"),
    # beyond the ranks of the queues: the lane of a flow or of a pool
    CheckConstraint(f"priority BETWEEN 0 AND 3 OR priority > {FLOW_RANK}", name="ck_tasks_priority"),
    # claims in order of service; the sweeper's look at unconfirmed tickets
    Index("ix_tasks_waiting", "status", "priority", "confirmed_in", "id"),
    # due tasks; NULL for all others
    Index("ix_tasks_run_at", "run_at", **_filled("run_at")),
    # the active-task limit: one row per user and slot
    Index("uq_tasks_active_key", "active_key", unique=True, **_filled("active_key")),
    Index("uq_tasks_idempotency_key", "idempotency_key", unique=True, **_filled("idempotency_key")),
    **_ON_MYSQL,
    mysql_row_format="DYNAMIC",
)


def status_is(status: Status) -> ColumnElement[bool]:
    """The status as a condition beside a list of ids. Spelt so that no planner searches by the status index
    instead: on a table without statistics PostgreSQL took it for the shorter way, past every waiting row."""
    return type_coerce(tasks.c.status, String).concat("") == status.value


routing = Table(
    "routing",
    metadata,
    Column("priority", PriorityRank, primary_key=True, autoincrement=False),
    Column("version", BigInteger, nullable=False),
    Column("redis_percent", SmallInteger, nullable=False),
    Column("name_percents", Text, nullable=False),
    Column("paused", Boolean, nullable=False, server_default=false()),
    Column("fenced_track", String(8)),
    Column("fallback", Boolean, nullable=False, server_default=false()),
    Column("intake", String(8), nullable=False, server_default="open"),
    Column("intake_until", UtcDateTime),
    Column("intake_reason", String(500)),
    # the transfer that has this priority for itself; the track to which it brings rows ahead of the flip
    Column("transfer_id", BigInteger),
    Column("moving_to", String(8)),
    CheckConstraint("redis_percent BETWEEN 0 AND 100", name="ck_routing_percent"),
    **_ON_MYSQL,
)

task_events = Table(
    "task_events",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("task_id", BigInteger, nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Column("kind", String(40), nullable=False),
    Column("detail", Text, nullable=False),
    Index("ix_task_events_task", "task_id"),
    **_ON_MYSQL,
)

workers = Table(
    "workers",
    metadata,
    Column("id", short_word(100), primary_key=True),
    Column("host", String(100), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("track", String(8), nullable=False),
    Column("queues", String(200), nullable=False),
    Column("state", String(10), nullable=False),
    Column("done", BigInteger, nullable=False, server_default="0"),
    Column("started_at", UtcDateTime, nullable=False),
    Column("seen_at", UtcDateTime, nullable=False),
    **_ON_MYSQL,
)

# Tasks beyond their user's limit of running ones, set aside until one of the user's tasks ends.
user_waits = Table(
    "user_waits",
    metadata,
    Column("task_id", BigInteger, primary_key=True, autoincrement=False),
    Column("user_id", short_word(128), nullable=False),
    Column("priority", PriorityRank, nullable=False),
    # a user's next one, and the users that wait
    Index("ix_user_waits_next", "user_id", "priority", "task_id"),
    **_ON_MYSQL,
)

# Imported tasks beyond their user's limit of active ones, until one of that user's tasks ends.
slot_waits = Table(
    "slot_waits",
    metadata,
    Column("task_id", BigInteger, primary_key=True, autoincrement=False),
    Column("user_id", short_word(128), nullable=False),
    Column("priority", PriorityRank, nullable=False),
    # a user's next one, and the users that wait
    Index("ix_slot_waits_next", "user_id", "priority", "task_id"),
    **_ON_MYSQL,
)

# Legacy tables whose rows became tasks: what they call things, as JSON. `writing` is set only inside our own
# transactions, where a database knows no other way to tell a guard that it is us.
legacy_sources = Table(
    "legacy_sources",
    metadata,
    Column("name", short_word(32), primary_key=True),
    Column("definition", LONG_TEXT, nullable=False),
    Column("writing", Boolean, nullable=False, server_default=false()),
    Column("changed_at", UtcDateTime, nullable=False),
    **_ON_MYSQL,
)

# Gates that claims of a user pass one by one: users share them, and the rows never change.
user_gates = Table(
    "user_gates",
    metadata,
    Column("id", SmallInteger, primary_key=True, autoincrement=False),
    **_ON_MYSQL,
)

# Named locks with a lease on the database clock: one sweeper at a time.
locks = Table(
    "locks",
    metadata,
    Column("name", short_word(40), primary_key=True),
    Column("holder", short_word(100), nullable=False),
    Column("until_at", UtcDateTime, nullable=False),
    **_ON_MYSQL,
)

# What the system remembers about itself, e.g. the mode settings of the last start.
memory = Table(
    "memory",
    metadata,
    Column("name", short_word(40), primary_key=True),
    Column("value", Text, nullable=False),
    **_ON_MYSQL,
)

# What runs again and again. `next_run_at` is set for active schedules and for no others.
schedules = Table(
    "schedules",
    metadata,
    Column("name", short_word(80), primary_key=True),
    Column("task", short_word(100), nullable=False),
    Column("cron", String(100)),
    Column("interval_seconds", Integer),
    Column("time_zone", String(60), nullable=False),
    Column("payload", LONG_TEXT, nullable=False),
    Column("priority", PriorityRank, nullable=False),
    Column("user_id", short_word(128)),
    Column("max_retries", Integer),
    Column("timeout_seconds", Integer),
    Column("overlap", String(8), nullable=False),
    Column("origin", String(8), nullable=False),
    Column("state", String(10), nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("next_run_at", UtcDateTime),
    Column("last_run_at", UtcDateTime),
    Column("last_task_id", BigInteger),
    Column("skipped", Integer, nullable=False, server_default="0"),
    Column("skip_reason", String(200)),
    Column("created_at", UtcDateTime, nullable=False),
    Column("changed_at", UtcDateTime, nullable=False),
    CheckConstraint("(cron IS NULL) <> (interval_seconds IS NULL)", name="ck_schedules_recurrence"),
    # the scheduler's look: which is due, and when the next one will be
    Index("ix_schedules_next_run_at", "next_run_at"),
    **_ON_MYSQL,
)

# Runs that bring many waiting tasks from one track to the other. Plan, scope and limits are JSON.
transfers = Table(
    "transfers",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("direction", String(8), nullable=False),
    Column("state", String(10), nullable=False),
    Column("phase", String(40), nullable=False),
    Column("plan", LONG_TEXT, nullable=False),
    Column("plan_hash", String(32), nullable=False),
    Column("limits", Text, nullable=False),
    Column("cursors", Text, nullable=False),
    Column("holder", short_word(100)),
    Column("lease_until", UtcDateTime),
    Column("throttle_reason", String(200)),
    Column("error", Text),
    Column("created_at", UtcDateTime, nullable=False),
    Column("started_at", UtcDateTime),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("ended_at", UtcDateTime),
    **_ON_MYSQL,
)

# Written in the transaction that moves the rows: a killed run knows by an empty `delivered_at` what it had
# marked and may not have pushed. `digest` is over the tickets' ids, ascending.
transfer_batches = Table(
    "transfer_batches",
    metadata,
    Column("transfer_id", BigInteger, primary_key=True, autoincrement=False),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("priority", PriorityRank, nullable=False),
    Column("first_id", BigInteger, nullable=False),
    Column("last_id", BigInteger, nullable=False),
    Column("marked", Integer, nullable=False),
    Column("quarantined", Integer, nullable=False),
    Column("pushed", Integer, nullable=False, server_default="0"),
    Column("read_back", Integer, nullable=False, server_default="0"),
    Column("confirmed", Integer, nullable=False, server_default="0"),
    Column("digest", String(32), nullable=False),
    Column("mark_seconds", Float, nullable=False),
    Column("marked_at", UtcDateTime, nullable=False),
    Column("delivered_at", UtcDateTime),
    **_ON_MYSQL,
)

transfer_events = Table(
    "transfer_events",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("transfer_id", BigInteger, nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Column("kind", String(40), nullable=False),
    Column("detail", Text, nullable=False),
    Index("ix_transfer_events_transfer", "transfer_id"),
    **_ON_MYSQL,
)

# A whole migration with its phases. `record` is what its gates have said, as JSON; only its holder writes it.
procedures = Table(
    "procedures",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("state", String(12), nullable=False),
    Column("phase", String(12), nullable=False),
    Column("plan", LONG_TEXT, nullable=False),
    Column("plan_hash", String(32), nullable=False),
    Column("record", LONG_TEXT, nullable=False),
    Column("holder", short_word(100)),
    Column("lease_until", UtcDateTime),
    Column("error", Text),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("ended_at", UtcDateTime),
    **_ON_MYSQL,
)

# Flows that have records: where in `tasks.priority` the records of each wait.
flows = Table(
    "flows",
    metadata,
    Column("name", short_word(60), primary_key=True),
    Column("lane", SmallInteger, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Index("uq_flows_lane", "lane", unique=True),
    **_ON_MYSQL,
)

# Pools of workers: where in `tasks.priority` their tasks wait, and how many run at a time (NULL: all).
pools = Table(
    "pools",
    metadata,
    Column("name", short_word(40), primary_key=True),
    Column("lane", SmallInteger, nullable=False),
    Column("at_most", Integer),
    Column("created_at", UtcDateTime, nullable=False),
    Index("uq_pools_lane", "lane", unique=True),
    **_ON_MYSQL,
)

# Tasks that have children. `waits`: it is SCHEDULED until they have ended, or until the deadline.
parents = Table(
    "parents",
    metadata,
    Column("task_id", BigInteger, primary_key=True, autoincrement=False),
    Column("waits", Boolean, nullable=False, server_default=false()),
    # an operator lets it run again: those of its children that did not complete are to do so, too
    Column("again", Boolean, nullable=False, server_default=false()),
    Column("deadline_at", UtcDateTime),
    Column("created_at", UtcDateTime, nullable=False),
    Index("ix_parents_waits", "waits"),
    **_ON_MYSQL,
)

# Their children. `ended` follows the task's status; a tagged one waits SCHEDULED until it is admitted.
children = Table(
    "children",
    metadata,
    Column("task_id", BigInteger, primary_key=True, autoincrement=False),
    Column("parent_id", BigInteger, nullable=False),
    Column("phase", short_word(40), nullable=False),
    Column("name", short_word(60), nullable=False),
    Column("tag", short_word(40)),
    Column("admitted", Boolean, nullable=False),
    Column("ended", Boolean, nullable=False, server_default=false()),
    # has a parent open ones; who holds or waits for a place of a tag
    Index("ix_children_parent", "parent_id", "ended"),
    Index("ix_children_open", "ended", "tag", "admitted", "task_id"),
    **_ON_MYSQL,
)

# How many children with a tag may be admitted at a time, on all hosts together.
tag_limits = Table(
    "tag_limits",
    metadata,
    Column("tag", short_word(40), primary_key=True),
    Column("at_most", Integer, nullable=False),
    **_ON_MYSQL,
)

# One row per run of a flow over a batch of records.
flow_execution_logs = Table(
    "flow_execution_logs",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("flow_name", short_word(60), nullable=False),
    Column("flow_instance_id", short_word(100), nullable=False),
    Column("mode", String(12), nullable=False),
    Column("records_claimed", Integer, nullable=False),
    Column("records_completed", Integer, nullable=False),
    Column("records_failed", Integer, nullable=False),
    Column("error_message", Text),
    Column("started_at", UtcDateTime, nullable=False),
    Column("ended_at", UtcDateTime, nullable=False),
    Index("ix_flow_execution_logs_flow", "flow_name", "id"),
    **_ON_MYSQL,
)

# Settings of flows that an operator has stored: `<tier>.<flow>.<key>` and the like.
variables = Table(
    "variables",
    metadata,
    Column("name", short_word(190), primary_key=True),
    Column("value", Text, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    **_ON_MYSQL,
)
