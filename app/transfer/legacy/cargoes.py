"""Which cargo moves the rows of a legacy table: of one in our database, or of one in another."""

from __future__ import annotations

from app.tasks.queue import TaskQueue
from app.transfer.errors import NotPossible
from app.transfer.legacy.importing import LegacyRows
from app.transfer.legacy.mapping import mapping_of
from app.transfer.legacy.staging import StagedRows
from app.transfer.legacy.table import LegacyTable, database_of


def legacy_rows(queue: TaskQueue, source_name: str, *, transfer_id: int) -> LegacyRows:
    """The rows of a source that was stored. Raises `NotPossible` for one that was not."""
    source = queue.store.imports.source(source_name)
    if source is None:
        raise NotPossible(f"no source {source_name} is known: begin its import with its mapping file")
    mapping = mapping_of(source.mapping, said_in=source_name)
    table = LegacyTable(database_of(queue.store, mapping), mapping)
    return rows_of(queue, table, transfer_id=transfer_id)


def rows_of(queue: TaskQueue, table: LegacyTable, *, transfer_id: int) -> LegacyRows:
    """The rows of a table."""
    cargo = LegacyRows if table.mapping.database is None else StagedRows
    return cargo(queue, table, transfer_id=transfer_id)
