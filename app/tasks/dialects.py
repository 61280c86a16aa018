"""Column types, and what differs between the databases as SQL expressions."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import DateTime, Dialect, SmallInteger, String, Text, TypeDecorator
from sqlalchemy.dialects import mysql
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from app.tasks.model import Priority, Status


class UtcDateTime(TypeDecorator[datetime]):
    """Aware UTC in Python; a zoned timestamp on PostgreSQL, UTC without zone elsewhere. Microseconds."""

    impl = DateTime
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> Any:
        if dialect.name in ("mysql", "mariadb"):
            return dialect.type_descriptor(mysql.DATETIME(fsp=6))
        return dialect.type_descriptor(DateTime(timezone=dialect.name == "postgresql"))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without zone reached the database layer")
        utc = value.astimezone(UTC)
        return utc if dialect.name == "postgresql" else utc.replace(tzinfo=None)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        # SQLite gives an expression's value as text
        moment: datetime = datetime.fromisoformat(value) if isinstance(value, str) else value
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


class StatusType(TypeDecorator[Status]):
    """The status word."""

    impl = String(12)
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        return None if value is None else str(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> Status | None:
        return None if value is None else Status(value)


class PriorityRank(TypeDecorator[Priority]):
    """0 urgent to 3 low, so that an index sorts by order of service."""

    impl = SmallInteger
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> int | None:
        return None if value is None else Priority(value).rank

    def process_result_value(self, value: Any, dialect: Dialect) -> Priority | None:
        return None if value is None else Priority.of_rank(value)


class database_now(FunctionElement[datetime]):  # noqa: N801 (reads as an SQL function)
    """The database's clock, plus `seconds` if given: leases and due times are judged by it alone."""

    type = UtcDateTime()
    inherit_cache = True
    name = "database_now"

    def __init__(self, seconds: Any = None) -> None:
        super().__init__(*(() if seconds is None else (seconds,)))


def _seconds_of(element: Any, compiler: Any, **kw: Any) -> str | None:
    clauses = list(element.clauses)
    return compiler.process(clauses[0], **kw) if clauses else None


@compiles(database_now)
def _now_mysql(element: Any, compiler: Any, **kw: Any) -> str:
    seconds = _seconds_of(element, compiler, **kw)
    now = "UTC_TIMESTAMP(6)"
    return now if seconds is None else f"({now} + INTERVAL ({seconds}) SECOND)"


@compiles(database_now, "postgresql")
def _now_postgresql(element: Any, compiler: Any, **kw: Any) -> str:
    seconds = _seconds_of(element, compiler, **kw)
    now = "clock_timestamp()"
    return now if seconds is None else f"({now} + make_interval(secs => {seconds}))"


@compiles(database_now, "sqlite")
def _now_sqlite(element: Any, compiler: Any, **kw: Any) -> str:
    # SQLAlchemy stores SQLite times as text with six digits of a second; SQLite itself knows three.
    seconds = _seconds_of(element, compiler, **kw)
    shift = "" if seconds is None else f", ({seconds}) || ' seconds'"
    return f"(strftime('%Y-%m-%d %H:%M:%f', 'now'{shift}) || '000')"


LONG_TEXT = Text().with_variant(mysql.MEDIUMTEXT(), "mysql", "mariadb")


def short_word(length: int) -> Any:
    """Short words of our own alphabet. Compared byte by byte: MySQL would fold case and trailing blanks."""
    return String(length).with_variant(mysql.VARCHAR(length, collation="utf8mb4_bin"), "mysql", "mariadb")
