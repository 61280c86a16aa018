"""A table copied from one named database to another, row by row through a function, and proven equal.

Owns the types that tables of different databases have in common. Knows nothing of tasks; a copy may be
repeated at any time, and leaves the target as it was if it fails.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Dialect,
    Double,
    Float,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    String,
    Table,
    Text,
    delete,
    insert,
    inspect,
    select,
)
from sqlalchemy import DateTime as SqlDateTime
from sqlalchemy.dialects.mysql import DATETIME, LONGBLOB, LONGTEXT
from sqlalchemy.engine import Connection
from sqlalchemy.exc import NoSuchTableError, SQLAlchemyError
from sqlalchemy.types import NullType, TypeDecorator, TypeEngine

from app.distributed import parquet
from app.distributed.databases import DatabaseManager
from app.tasks.handlers import DoNotRetry

ROWS_AT_A_TIME = 1000
CHECKSUM_BITS = 128
LONGEST_VARCHAR = 1000
KEY_CHARACTERS = 255
MYSQL = ("mysql", "mariadb")
# Who writes into SQLite waits this long for another writer.
SQLITE_PATIENCE_MS = 60_000

Row = dict[str, Any]
Transform = Callable[[Row], Row]


class NoSuchTable(DoNotRetry):
    """The source has no table of this name: another try would find none either."""


class CopyFailed(Exception):
    """The table was not copied; the target is as it was before."""


@dataclass(frozen=True, slots=True)
class Digest:
    """How many rows, and a checksum over them that does not depend on their order."""

    rows: int
    checksum: str


def table_names(source: DatabaseManager) -> list[str]:
    """The tables of the database, in the order of their names. Raises `DatabaseUnavailable`."""
    with source.get_session() as session:
        return sorted(inspect(session.connection()).get_table_names())


def copy_table(
    source: DatabaseManager,
    target: DatabaseManager,
    name: str,
    transform: Transform,
    *,
    parquet_folder: Path | None = None,
) -> Digest:
    """Replace the target's table by the source's rows as `transform` makes them, in one transaction that
    commits only if the rows read back have the same count and checksum. With a folder, `<name>.parquet` in it
    is replaced likewise, before the commit.

    Columns keep their names; the table is made in the target if it has none. Raises `NoSuchTable`,
    `CopyFailed`, `DatabaseUnavailable`, and what `parquet.replacing` raises.
    """
    try:
        with _told(name), source.get_session() as reading:
            table = _alike(_reflected(reading.connection(), name))
            with target.get_session() as writing:
                table.create(_patient(writing.connection()), checkfirst=True)
            with target.get_session() as writing:
                rows = (transform(row) for row in _rows(reading.connection(), table))
                return _replace(_patient(writing.connection()), table, rows, parquet_folder)
    except NoSuchTableError:
        raise NoSuchTable(f"the source has no table {name}") from None


# --- rows -------------------------------------------------------------------------------------------------


def _replace(on: Connection, table: Table, rows: Iterable[Row], folder: Path | None) -> Digest:
    # What another copy of the same table puts in beside this one, the comparison finds.
    on.execute(delete(table))
    wanted = _Sum()
    for batch in _batches(wanted.passing(rows)):
        on.execute(insert(table), batch)
    _compare(table.name, "the target", wanted.digest(), _Sum().add_all(_rows(on, table)).digest())
    if folder is not None:
        kinds = {column.name: _python_type(column.type) for column in table.columns}
        with parquet.replacing(folder, table.name, kinds, _batches(_rows(on, table))) as written:
            _compare(table.name, "its Parquet file", wanted.digest(), _Sum().add_all(written).digest())
    return wanted.digest()


def _patient(on: Connection) -> Connection:
    if on.dialect.name == "sqlite":
        on.exec_driver_sql(f"PRAGMA busy_timeout = {SQLITE_PATIENCE_MS}")
    return on


def _compare(name: str, where: str, wanted: Digest, found: Digest) -> None:
    if wanted.rows != found.rows:
        raise CopyFailed(f"{name}: {wanted.rows} rows were written, and {where} has {found.rows}")
    if wanted != found:
        raise CopyFailed(f"{name}: what {where} gives back is not what was written (its checksum differs)")


def _rows(on: Connection, table: Table) -> Iterator[Row]:
    streaming = on.execution_options(yield_per=ROWS_AT_A_TIME)
    for row in streaming.execute(select(table)).mappings():
        yield dict(row)


def _batches(rows: Iterable[Row]) -> Iterator[list[Row]]:
    batch: list[Row] = []
    for row in rows:
        batch.append(row)
        if len(batch) == ROWS_AT_A_TIME:
            yield batch
            batch = []
    if batch:
        yield batch


class _Sum:
    """Adds up rows, each as a hash of its values: equal for equal rows in whatever order."""

    def __init__(self) -> None:
        self._rows = self._sum = 0

    def add_all(self, rows: Iterable[Mapping[str, Any]]) -> _Sum:
        for _ in self.passing(rows):
            pass
        return self

    def passing(self, rows: Iterable[Any]) -> Iterator[Any]:
        for row in rows:
            told = json.dumps([[name, _plain(row[name])] for name in sorted(row)])
            part = hashlib.sha256(told.encode()).digest()[: CHECKSUM_BITS // 8]
            self._rows, self._sum = self._rows + 1, (self._sum + int.from_bytes(part)) % 2**CHECKSUM_BITS
            yield row

    def digest(self) -> Digest:
        return Digest(self._rows, f"{self._sum:0{CHECKSUM_BITS // 4}x}")


def _plain(value: Any) -> Any:
    """The value as JSON, the same from whichever database it comes."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int | float | Decimal):
        return ["n", _digits(Decimal(repr(float(value))) if isinstance(value, float) else Decimal(value))]
    if isinstance(value, datetime | date | time | timedelta):
        return ["t", str(value)]
    return ["b", value.hex()] if isinstance(value, bytes) else ["o", str(value)]


def _digits(number: Decimal) -> str:
    """Every digit but those that say nothing, and no sign of a zero: SQLite keeps none."""
    told = f"{number:f}" if number else "0"
    return told.rstrip("0").rstrip(".") if "." in told else told


# --- tables -----------------------------------------------------------------------------------------------


class _ExactDecimal(TypeDecorator[Decimal]):
    """A decimal that SQLite, which has none, keeps as text."""

    impl = Numeric
    cache_ok = True

    @property
    def python_type(self) -> type[Decimal]:
        return Decimal

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(String(60) if dialect.name == "sqlite" else self.impl_instance)

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        return str(value) if value is not None and dialect.name == "sqlite" else value

    def process_result_value(self, value: Any, dialect: Dialect) -> Decimal | None:
        return None if value is None else Decimal(str(value))


class _Moment(TypeDecorator[datetime]):
    """A moment; one with a zone is in UTC: not every database keeps zones."""

    impl = SqlDateTime
    cache_ok = True

    @property
    def python_type(self) -> type[datetime]:
        return datetime

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(DATETIME(fsp=6) if dialect.name in MYSQL else SqlDateTime())

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None or value.tzinfo is None:
            return value
        return value.astimezone(UTC).replace(tzinfo=None)


def _reflected(on: Connection, name: str) -> Table:
    return Table(name, MetaData(), autoload_with=on)


def _alike(table: Table) -> Table:
    """The table with types that every database has. Its keys come along; defaults, indexes and references do
    not: the target is for reading."""
    columns = [
        Column(
            column.name,
            _portable(column.type, in_key=column.primary_key),
            primary_key=column.primary_key,
            nullable=column.nullable,
            autoincrement=False,
        )
        for column in table.columns
    ]
    return Table(table.name, MetaData(), *columns)


def _portable(given: TypeEngine[Any], *, in_key: bool) -> TypeEngine[Any]:
    kind = given.as_generic(allow_nulltype=True)
    if isinstance(kind, Float):
        return Double()
    if isinstance(kind, Numeric):
        return _ExactDecimal(kind.precision or 38, kind.scale if kind.precision else 10)
    if isinstance(kind, Integer):
        return BigInteger()
    if isinstance(kind, SqlDateTime):
        return _Moment()
    if isinstance(kind, LargeBinary):
        return LargeBinary().with_variant(LONGBLOB(), *MYSQL)
    if isinstance(kind, String | NullType):
        return _text(getattr(kind, "length", None), in_key=in_key)
    return kind


def _text(length: int | None, *, in_key: bool) -> TypeEngine[Any]:
    if in_key:
        return String(min(length or KEY_CHARACTERS, KEY_CHARACTERS))
    if length is not None and length <= LONGEST_VARCHAR:
        return String(length)
    return Text().with_variant(LONGTEXT(), *MYSQL)


def _python_type(kind: TypeEngine[Any]) -> type:
    try:
        return kind.python_type
    except NotImplementedError:
        return str


@contextmanager
def _told(name: str) -> Iterator[None]:
    """What a database says against a statement, in one line and without the rows that it was given."""
    try:
        yield
    except NoSuchTableError:
        raise
    except (SQLAlchemyError, OverflowError) as error:
        said = str(getattr(error, "orig", None) or error).splitlines()[0]
        raise CopyFailed(f"{name}: {said[:300]}") from error
