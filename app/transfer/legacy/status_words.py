"""Can the status column hold the word `moved`? If not, the statement that lets it: printed, run when told."""

from __future__ import annotations

import re
from typing import Any

from sqlalchemy.engine import Connection

from app.tasks.database import Database
from app.transfer.errors import NotPossible
from app.transfer.legacy.mapping import Mapping

_MEMBER = re.compile(r"'((?:[^']|'')*)'")


def statement_for_moved(database: Database, mapping: Mapping) -> str | None:
    """The statement that adds `moved` to the status column; None if it can hold the word as it is.

    Nothing else of the column changes. Raises `NotPossible` where no statement of ours can help.
    """
    look = {"mysql": _on_mysql, "postgresql": _on_postgresql}.get(database.kind)
    return database.read(lambda on: look(on, mapping)) if look else None  # SQLite's columns hold any word


def run_statement(database: Database, statement: str) -> None:
    """Run a statement that was offered. On MariaDB and MySQL it commits by itself."""
    text = statement.replace("%", "%%") if database.kind != "sqlite" else statement
    database.read(lambda on: on.exec_driver_sql(text))


def _on_mysql(on: Connection, mapping: Mapping) -> str | None:
    query = (
        "SELECT column_type, is_nullable, column_default, character_set_name, collation_name, column_comment,"
        " character_maximum_length FROM information_schema.columns"
        " WHERE table_schema = DATABASE() AND table_name = %s AND column_name = %s"
    )
    row = on.exec_driver_sql(query, (mapping.table, mapping.status.column)).cursor.fetchone()
    if row is None:
        raise NotPossible(f"{mapping.table} has no column {mapping.status.column}, which the mapping needs")
    kind, nullable, default, characters, collation, comment, length = row
    moved = mapping.status.moved
    if not str(kind).lower().startswith("enum("):
        _require_room(mapping, length)
        return None
    members = [member.replace("''", "'") for member in _MEMBER.findall(kind)]
    if moved.lower() in (member.lower() for member in members):
        return None
    words = ",".join(_text(member) for member in [*members, moved])
    parts = [f"ALTER TABLE `{mapping.table}` MODIFY COLUMN `{mapping.status.column}` ENUM({words})"]
    parts.append(f"CHARACTER SET {characters} COLLATE {collation}")
    parts.append("NULL" if nullable == "YES" else "NOT NULL")
    if default is not None and str(default).upper() != "NULL":
        shown = str(default)
        parts.append(f"DEFAULT {shown if shown.startswith(chr(39)) else _text(shown)}")
    if comment:
        parts.append(f"COMMENT {_text(comment)}")
    return " ".join(parts)


def _on_postgresql(on: Connection, mapping: Mapping) -> str | None:
    query = (
        "SELECT t.typname, t.typtype, n.nspname,"
        " information_schema._pg_char_max_length(a.atttypid, a.atttypmod) FROM pg_attribute a"
        " JOIN pg_type t ON t.oid = a.atttypid JOIN pg_namespace n ON n.oid = t.typnamespace"
        " WHERE a.attrelid = to_regclass(quote_ident(%s)) AND a.attname = %s"
    )
    row: Any = on.exec_driver_sql(query, (mapping.table, mapping.status.column)).cursor.fetchone()
    if row is None:
        raise NotPossible(f"{mapping.table} has no column {mapping.status.column}, which the mapping needs")
    name, kind, schema, length = row
    if kind != "e":
        _require_room(mapping, length)
        return None
    labels = "SELECT 1 FROM pg_enum e WHERE e.enumtypid = to_regtype(%s) AND e.enumlabel = %s"
    full = f'"{schema}"."{name}"'
    if on.exec_driver_sql(labels, (full, mapping.status.moved)).cursor.fetchone():
        return None
    return f"ALTER TYPE {full} ADD VALUE {_text(mapping.status.moved)}"


def _require_room(mapping: Mapping, length: int | None) -> None:
    if length is not None and length < len(mapping.status.moved):
        raise NotPossible(
            f"{mapping.table}.{mapping.status.column} holds {length} characters, too few for"
            f" {mapping.status.moved!r}: name a shorter word in the mapping"
        )


def _text(word: str) -> str:
    return "'" + word.replace("\\", "\\\\").replace("'", "''") + "'"
