"""Parquet files beside a copied table. pyarrow is an extra: `pip install 'twintrack[parquet]'`."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import quote

from app.tasks.handlers import DoNotRetry

HALF_WRITTEN = ".part"


class NotInstalled(DoNotRetry):
    """pyarrow is not there."""


class NotWritable(DoNotRetry):
    """A value does not fit the type of its column, as in SQLite it may."""


@contextmanager
def replacing(
    folder: Path, table: str, kinds: Mapping[str, type], batches: Iterable[Sequence[Mapping[str, Any]]]
) -> Iterator[Iterator[Mapping[str, Any]]]:
    """Write `<table>.parquet` anew, and give what the new file holds, row by row. It takes the old one's
    place at the end of the block, unless that raises. Raises `NotInstalled`, `NotWritable` and `OSError`."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise NotInstalled(
            "Parquet needs pyarrow, which is not installed: pip install 'twintrack[parquet]'"
        ) from None
    folder.mkdir(parents=True, exist_ok=True)
    final = file_of(folder, table)
    part = final.with_name(f"{final.name}.{uuid.uuid4().hex}{HALF_WRITTEN}")
    try:
        schema = pyarrow.schema([(name, _arrow(pyarrow, kind)) for name, kind in kinds.items()])
        with pyarrow.parquet.ParquetWriter(part, schema) as writer:
            for batch in batches:
                writer.write_table(pyarrow.Table.from_pylist(list(batch), schema=schema))
        with pyarrow.parquet.ParquetFile(part) as written:
            yield (row for batch in written.iter_batches() for row in batch.to_pylist())
        os.replace(part, final)
    except pyarrow.ArrowException as error:
        raise NotWritable(f"{table}: {str(error)[:300]}") from error
    finally:
        part.unlink(missing_ok=True)


def file_of(folder: Path, table: str) -> Path:
    """Where a table's file is; a name that is no file name is spelled with %."""
    return folder / f"{quote(table, safe=' ')}.parquet"


def remove_half_written(folder: Path, *, older_than: float) -> int:
    """Remove what killed writers have left, by files last written before that time (epoch seconds). Returns
    how many."""
    old = [path for path in folder.glob(f"*{HALF_WRITTEN}") if path.stat().st_mtime < older_than]
    for path in old:
        path.unlink(missing_ok=True)
    return len(old)


def _arrow(pyarrow: Any, kind: type) -> Any:
    """The type of a column whose values are of this Python type; whatever has none of its own is text."""
    return {
        bool: pyarrow.bool_(),
        int: pyarrow.int64(),
        float: pyarrow.float64(),
        Decimal: pyarrow.decimal128(38, 10),
        datetime: pyarrow.timestamp("us"),
        date: pyarrow.date32(),
        bytes: pyarrow.binary(),
    }.get(kind, pyarrow.string())
